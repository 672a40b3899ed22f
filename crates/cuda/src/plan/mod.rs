//! How each kernel file is run: its entry points, grids and workspace. One module per file of
//! `kernels/`, whose header comment states the same.

mod batch;
mod large_batch;
mod small_batch;

use trellect_core::{HADAMARD, LayerShape, WorkspaceModel};

use crate::Arch;
use crate::source::Unit;

pub(crate) use batch::Batch;
pub(crate) use large_batch::LargeBatch;
pub(crate) use small_batch::SmallBatch;

/// Sizes of a layer and its device that plans depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Padded.
    pub(crate) hidden: usize,
    /// Padded.
    pub(crate) intermediate: usize,
    pub(crate) num_experts: usize,
    /// Tuples that are launched one by one; 1 where all are launched together.
    pub(crate) num_tuples: usize,
}

impl Sizes {
    pub(crate) fn of(shape: &LayerShape, num_tuples: usize) -> Self {
        Self {
            num_tuples,
            hidden: shape.padded_hidden(),
            intermediate: shape.padded_intermediate(),
            num_experts: shape.num_experts,
        }
    }
}

/// One way to compute a layer.
pub(crate) trait Plan: Send + Sync {
    /// The file.
    fn unit(&self) -> &'static Unit;

    /// Its macros, besides the sizes, the widths, the codebooks and the class.
    fn defines(&self, sizes: &Sizes) -> Vec<(&'static str, u32)>;

    /// Its entry points, in the order in which a call launches them.
    fn entries(&self) -> Vec<Entry>;

    /// The grid of an entry point for `pairs` pairs of `tokens` tokens, at least one. An entry point
    /// for one tuple is told its experts alone.
    fn grid(&self, entry: usize, sizes: &Sizes, tokens: usize, pairs: usize) -> [u32; 3];

    /// The regions of its workspace: the pointers of the kernels' third parameter.
    fn regions(&self, sizes: &Sizes) -> Vec<Region>;

    /// Most pairs of one pass; a larger call takes several, of whole tokens, at least one.
    fn pass_pairs(&self) -> usize;

    /// Most experts of a layer.
    fn max_experts(&self) -> usize {
        usize::MAX
    }

    /// Whether it is compiled for every tuple by itself.
    fn is_by_tuple(&self) -> bool {
        false
    }

    /// Most pairs of width and codebook, its three projections together: what takes the compiler
    /// minutes is no use.
    fn max_kinds(&self) -> u32 {
        u32::MAX
    }

    /// Why an architecture cannot run it.
    fn refuses(&self, _arch: Arch) -> Option<&'static str> {
        None
    }

    /// Whether it is of class `exact`, else of class `half`.
    fn is_exact(&self) -> bool;

    /// Most rows of one expert that share one decoding.
    fn rows_per_decode(&self) -> usize;

    /// Whether equal input always gives equal bits.
    fn is_deterministic(&self) -> bool;
}

/// Rows of W of one of at most `slices` slices of `length` rows: whole Hadamard blocks.
fn slice(length: usize, slices: usize) -> usize {
    length.div_ceil(slices).next_multiple_of(HADAMARD)
}

/// An entry point. All are written to start before the kernel ahead of them in the stream ends,
/// and to wait for its results by themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: &'static str,
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub(crate) shared_bytes: u32,
    /// Whether it is launched once for every tuple, as [`Plan::is_by_tuple`] has it compiled.
    pub(crate) by_tuple: bool,
}

impl Entry {
    /// One of 256 threads, without dynamic shared memory, that is launched once.
    const fn new(name: &'static str) -> Self {
        Self { name, threads: 256, shared_bytes: 0, by_tuple: false }
    }
}

/// Bytes of a part of the workspace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) fixed_bytes: usize,
    pub(crate) bytes_per_pair: usize,
}

impl Region {
    /// One that grows with the pairs alone.
    const fn per_pair(bytes_per_pair: usize) -> Self {
        Self { fixed_bytes: 0, bytes_per_pair }
    }
}

/// [`Plan::max_kinds`] of those that unroll many rows.
const FEW_KINDS: u32 = 8;
/// Most regions of any plan.
pub(crate) const MAX_REGIONS: usize = 12;
/// Every region starts on a multiple of this.
const REGION_ALIGNMENT: usize = 256;

/// The kernels' third parameter: a pointer for every region. A kernel reads as many as it declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct WorkArgument {
    starts: [u64; MAX_REGIONS],
}

impl WorkArgument {
    /// Places the regions for a pass of `pairs` pairs from `base` on.
    pub(crate) fn new(regions: &[Region], base: u64, pairs: usize) -> Self {
        let mut starts = [0; MAX_REGIONS];
        let mut at = base;
        for (start, region) in starts.iter_mut().zip(regions) {
            *start = at;
            let bytes = region.fixed_bytes + region.bytes_per_pair * pairs;
            at += bytes.next_multiple_of(REGION_ALIGNMENT) as u64;
        }
        Self { starts }
    }
}

/// The workspace that [`WorkArgument::new`] divides: at most an alignment a region more.
pub(crate) fn workspace(
    regions: &[Region],
    pass_pairs: usize,
    num_experts: usize,
) -> WorkspaceModel {
    let fixed = regions.iter().map(|region| region.fixed_bytes + REGION_ALIGNMENT);
    WorkspaceModel {
        fixed_bytes: fixed.sum::<usize>() as u64,
        bytes_per_pair: regions.iter().map(|region| region.bytes_per_pair as u64).sum(),
        // A pass has at least one token, which has at most as many pairs as there are experts.
        max_pairs: Some(pass_pairs.max(num_experts) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_fit_the_workspace_that_is_asked_for() {
        let region = |fixed_bytes, bytes_per_pair| Region { fixed_bytes, bytes_per_pair };
        let regions = [region(0, 12), region(5, 1024), region(0, 2)];
        for pairs in [0, 1, 3, 85, 1000] {
            let [a, b, c, unused, ..] = WorkArgument::new(&regions, 4096, pairs).starts;
            let pairs_u64 = pairs as u64;
            assert!(a == 4096 && b >= a + 12 * pairs_u64 && c >= b + 5 + 1024 * pairs_u64);
            assert!([a, b, c].iter().all(|start| start % 256 == 0));
            assert_eq!(unused, 0);
            assert!(c + 2 * pairs_u64 <= 4096 + workspace(&regions, 1000, 8).bytes(pairs));
        }
        let model = workspace(&regions, 64, 8);
        assert_eq!(model.bytes(64), model.bytes(6400));
        assert!(workspace(&regions, 64, 128).bytes(128) > model.bytes(128));
    }
}
