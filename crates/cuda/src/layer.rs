//! A layer's weights in device memory: one buffer, and the table of experts that points into it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DevicePtr, DriverError, PinnedHostSlice, result,
};
use half::f16;
use trellect_core::{
    BitTuple, Codebook, ExpertView, HADAMARD, LayerShape, LayerView, LinearView, PrepareError,
    PrepareProgress, Projection, VectorView,
};
use zerocopy::{Immutable, IntoBytes};

use crate::device::Device;
use crate::error::while_preparing;
use crate::layout::repack_group;

/// `struct Linear` of `kernels/layer.cuh`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct LinearEntry {
    trellis: u64,
    suh: u64,
    svh: u64,
    /// 0 where there is none.
    bias: u64,
    bits: u32,
    codebook: u32,
}

/// `struct Expert` of the same file.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct ExpertEntry {
    /// Gate, up, down.
    linears: [LinearEntry; 3],
    tuple: i32,
    unused: i32,
}

/// `struct Layer` of `kernels/layer.cuh`: what every kernel gets by value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct LayerArgument {
    experts: u64,
    num_experts: i32,
    hidden_logical: i32,
    intermediate_logical: i32,
}

/// The different ones of `tuples`, in ascending order.
pub(crate) fn distinct(tuples: &[BitTuple]) -> Vec<BitTuple> {
    let mut distinct = tuples.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

/// Which widths and codebooks occur, as the bit masks that kernels are compiled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widths {
    /// Of gate, up and down; bit K is width K.
    pub(crate) projections: [u32; 3],
    /// Bit 0 is 3inst, 1 mcg, 2 mul1.
    pub(crate) codebooks: u32,
}

impl Widths {
    /// The widths of one tuple.
    pub(crate) fn of_tuple(tuple: BitTuple, codebooks: u32) -> Self {
        Self { projections: tuple.widths().map(|bits| 1 << bits.get()), codebooks }
    }

    /// Pairs of width and codebook, the projections together.
    pub(crate) fn kinds(self) -> u32 {
        let widths: u32 = self.projections.iter().map(|mask| mask.count_ones()).sum();
        widths * self.codebooks.count_ones()
    }

    /// The widths of several tuples together.
    pub(crate) fn of_tuples(tuples: &[BitTuple], codebooks: u32) -> Self {
        let none = Self { projections: [0; 3], codebooks };
        tuples.iter().fold(none, |mut all, &tuple| {
            let one = Self::of_tuple(tuple, codebooks);
            all.projections.iter_mut().zip(one.projections).for_each(|(all, one)| *all |= one);
            all
        })
    }
}

const fn codebook_number(codebook: Codebook) -> u32 {
    match codebook {
        Codebook::ThreeInst => 0,
        Codebook::Mcg => 1,
        Codebook::Mul1 => 2,
    }
}

/// Which codebooks occur, as the bit mask that kernels are compiled with.
pub(crate) fn codebook_mask(codebooks: &[Codebook]) -> u32 {
    codebooks.iter().fold(0, |all, &codebook| all | 1 << codebook_number(codebook))
}

/// The weights of a prepared layer.
pub(crate) struct Weights {
    shape: LayerShape,
    tuples: Vec<BitTuple>,
    codebooks: u32,
    argument: LayerArgument,
    /// What the table points to; held for as long as the layer.
    data: CudaSlice<u8>,
    table: CudaSlice<u8>,
}

impl Weights {
    /// Re-lays and copies a layer, linear by linear, through page-locked memory. Waits for the
    /// last copy, so that any stream may read the weights from then on.
    ///
    /// Scales are kept as float16, which is what every checkpoint has; others are rounded to it.
    pub(crate) fn prepare(
        device: &Device,
        layer: &LayerView<'_>,
        progress: PrepareProgress<'_>,
    ) -> Result<Self, PrepareError> {
        let sizes = || {
            let linears = layer.experts().iter().flat_map(linears);
            linears.map(|linear| Parts::of(linear).end)
        };
        let total: usize = sizes().sum();
        let failed = while_preparing(&device.facts.name, total as u64);
        let stream = device.context.new_stream().map_err(&failed)?;
        // SAFETY: every byte of the buffer is copied to below, before anything reads it.
        let data = unsafe { stream.alloc::<u8>(total) }.map_err(&failed)?;
        let mut upload = Upload::new(&stream, sizes().max().unwrap_or(0)).map_err(&failed)?;

        let base = data.device_ptr(&stream).0;
        let mut start = base;
        let tuples: Vec<BitTuple> = layer.experts().iter().map(ExpertView::tuple).collect();
        let distinct = distinct(&tuples);
        let mut table = Vec::with_capacity(layer.experts().len());
        for (expert, view) in layer.experts().iter().enumerate() {
            let mut copy = |linear| {
                let parts = Parts::of(linear);
                upload.copy(parts.end, start, |bytes| parts.fill(linear, bytes))?;
                let entry = parts.entry(linear, start);
                start += parts.end as u64;
                Ok(entry)
            };
            let [gate, up, down] = linears(view);
            let copied = (|| Ok([copy(gate)?, copy(up)?, copy(down)?]))();
            let number = distinct.partition_point(|tuple| *tuple < tuples[expert]);
            table.push(ExpertEntry {
                linears: copied.map_err(&failed)?,
                tuple: int(number),
                unused: 0,
            });
            progress(expert);
        }
        let table = stream.clone_htod(table.as_bytes()).map_err(&failed)?;
        stream.synchronize().map_err(&failed)?;

        let experts = table.device_ptr(&stream).0;
        let shape = *layer.shape();
        let codebooks = layer.experts().iter().flat_map(linears).map(LinearView::codebook);
        let codebooks = codebook_mask(&codebooks.collect::<Vec<_>>());
        Ok(Self {
            shape,
            tuples,
            codebooks,
            argument: LayerArgument {
                experts,
                num_experts: int(shape.num_experts),
                hidden_logical: int(shape.hidden_size),
                intermediate_logical: int(shape.intermediate_size),
            },
            data,
            table,
        })
    }

    pub(crate) fn shape(&self) -> &LayerShape {
        &self.shape
    }

    pub(crate) fn tuples(&self) -> &[BitTuple] {
        &self.tuples
    }

    /// Bit mask of the codebooks that occur.
    pub(crate) fn codebooks(&self) -> u32 {
        self.codebooks
    }

    /// What kernels are handed.
    pub(crate) fn argument(&self) -> LayerArgument {
        self.argument
    }

    /// Bytes of trellises, scales, biases and the table.
    pub(crate) fn bytes(&self) -> u64 {
        (self.data.num_bytes() + self.table.num_bytes()) as u64
    }
}

fn linears<'v, 'a>(expert: &'v ExpertView<'a>) -> [&'v LinearView<'a>; 3] {
    Projection::ALL.map(|projection| expert.linear(projection))
}

/// A size of at most [`LayerShape::MAX_DIMENSION`], padded.
pub(crate) fn int(size: usize) -> i32 {
    i32::try_from(size).expect("dimensions are at most 2^20")
}

/// Where the parts of a linear start, in bytes. All sizes are multiples of 256, since features are
/// multiples of 128, so that every part is as aligned as the whole.
struct Parts {
    suh: usize,
    svh: usize,
    bias: usize,
    end: usize,
}

impl Parts {
    fn of(linear: &LinearView<'_>) -> Self {
        let suh = linear.trellis().len();
        let svh = suh + linear.in_features() * size_of::<f16>();
        let bias = svh + linear.out_features() * size_of::<f16>();
        let end = bias + linear.bias().map_or(0, |bias| bias.len() * size_of::<f32>());
        Self { suh, svh, bias, end }
    }

    fn fill(&self, linear: &LinearView<'_>, bytes: &mut [u8]) {
        let (trellis, rest) = bytes.split_at_mut(self.suh);
        repack(linear, trellis);
        let (suh, rest) = rest.split_at_mut(self.svh - self.suh);
        write_f16(linear.suh(), suh);
        let (svh, bias) = rest.split_at_mut(self.bias - self.svh);
        write_f16(linear.svh(), svh);
        if let Some(values) = linear.bias() {
            for (bytes, value) in bias.as_chunks_mut::<4>().0.iter_mut().zip(values.iter()) {
                *bytes = value.to_le_bytes();
            }
        }
    }

    fn entry(&self, linear: &LinearView<'_>, start: u64) -> LinearEntry {
        let at = |part: usize| start + part as u64;
        LinearEntry {
            trellis: start,
            suh: at(self.suh),
            svh: at(self.svh),
            bias: if linear.bias().is_some() { at(self.bias) } else { 0 },
            bits: linear.bits().get().into(),
            codebook: codebook_number(linear.codebook()),
        }
    }
}

fn write_f16(values: VectorView<'_>, out: &mut [u8]) {
    for (bytes, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values.iter()) {
        *bytes = f16::from_f32(value).to_le_bytes();
    }
}

/// Re-lays a trellis on all processors.
fn repack(linear: &LinearView<'_>, out: &mut [u8]) {
    let groups = linear.out_features() / HADAMARD;
    let group_bytes = out.len() / groups;
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = groups.div_ceil(threads);
    thread::scope(|scope| {
        for (part, out) in out.chunks_mut(share * group_bytes).enumerate() {
            scope.spawn(move || {
                for (group, out) in out.chunks_exact_mut(group_bytes).enumerate() {
                    repack_group(linear, part * share + group, out);
                }
            });
        }
    });
}

/// Two page-locked buffers: one is filled while the other is copied.
struct Upload<'s> {
    stream: &'s Arc<CudaStream>,
    buffers: [Buffer; 2],
    next: usize,
}

struct Buffer {
    bytes: PinnedHostSlice<u8>,
    /// Reached when its last copy is done. The bindings' own event is not recorded, since the
    /// context tracks none.
    copied: CudaEvent,
}

impl<'s> Upload<'s> {
    fn new(stream: &'s Arc<CudaStream>, len: usize) -> Result<Self, DriverError> {
        let buffer = || {
            // SAFETY: bytes of any value are valid, and only filled ones are copied.
            let bytes = unsafe { stream.context().alloc_pinned::<u8>(len) }?;
            Ok(Buffer { bytes, copied: stream.context().new_event(None)? })
        };
        Ok(Self { stream, buffers: [buffer()?, buffer()?], next: 0 })
    }

    /// Lets `fill` write `len` bytes and copies them to `to`.
    fn copy(
        &mut self,
        len: usize,
        to: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), DriverError> {
        let Buffer { bytes, copied } = &mut self.buffers[self.next];
        self.next ^= 1;
        copied.synchronize()?;
        let bytes = &mut bytes.as_mut_slice()?[..len];
        fill(bytes);
        // SAFETY: `to` has room for `len` bytes. The source is not written before `copied` is
        // reached, and outlives the copy, since dropping this waits for the stream.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }?;
        copied.record(self.stream)
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        // A lost device copies no more.
        let _ = self.stream.synchronize();
    }
}

#[cfg(test)]
mod tests {
    use trellect_exl3::synth::{OwnedLayer, SynthSpec};

    use super::*;
    use crate::kernel::CallArgument;

    #[test]
    fn the_structs_have_the_sizes_of_the_kernels() {
        assert_eq!((size_of::<LinearEntry>(), size_of::<ExpertEntry>()), (40, 128));
        assert_eq!((size_of::<LayerArgument>(), size_of::<CallArgument>()), (24, 48));
    }

    #[test]
    fn masks_name_every_width_that_occurs() {
        let tuple = |text: &str| text.parse::<BitTuple>().unwrap();
        let widths = Widths::of_tuples(&[tuple("6,2,3"), tuple("6,3,4")], 0b100);
        assert_eq!(widths.projections, [1 << 6, 1 << 2 | 1 << 3, 1 << 3 | 1 << 4]);
        let one = Widths::of_tuple(tuple("1,8,5"), 0b111);
        assert_eq!(one.projections, [1 << 1, 1 << 8, 1 << 5]);
    }

    #[test]
    fn a_linear_is_laid_out_in_whole_aligned_parts() {
        let shape = LayerShape::new(200, 300, 1).unwrap();
        let spec = SynthSpec::mixed(shape, Codebook::Mcg, 3);
        let owned = OwnedLayer::new(&SynthSpec { bias: true, ..spec }).unwrap();
        let view = owned.view();
        for linear in linears(&view.experts()[0]) {
            let parts = Parts::of(linear);
            let mut bytes = vec![0; parts.end];
            parts.fill(linear, &mut bytes);
            assert!([parts.suh, parts.svh, parts.bias, parts.end].iter().all(|at| at % 256 == 0));
            let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
            assert!(linear.suh().iter().enumerate().all(|(i, v)| half(parts.suh + 2 * i) == v));
            assert!(linear.svh().iter().enumerate().all(|(i, v)| half(parts.svh + 2 * i) == v));
            let bias =
                bytes[parts.bias..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            assert!(bias.eq(linear.bias().unwrap().iter()));
            let mut trellis = vec![0; parts.suh / (linear.out_features() / HADAMARD)];
            for group in 0..linear.out_features() / HADAMARD {
                repack_group(linear, group, &mut trellis);
                assert_eq!(trellis, bytes[group * trellis.len()..][..trellis.len()]);
            }
            let entry = parts.entry(linear, 4096);
            assert_eq!((entry.trellis, entry.svh), (4096, 4096 + parts.svh as u64));
            assert_eq!((entry.bits, entry.codebook), (u32::from(linear.bits().get()), 1));
        }
    }
}
