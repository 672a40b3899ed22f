//! What kernels take of a multiprocessor, as the compiler says: needs no GPU.

use std::collections::HashMap;
use std::sync::OnceLock;

use trellect_core::{BitTuple, Codebook, KernelId, LayerShape};

use crate::Arch;
use crate::catalogue::{Recipe, recipes};
use crate::compile::{Request, compile, compiler_is_present};
use crate::device::NoDevice;
use crate::layer::codebook_mask;
use crate::processors::on_all_processors;

/// Registers and memory of one entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryResources {
    /// Its name.
    pub entry: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread writes to memory since registers do not suffice.
    pub spill_bytes: u32,
    /// Bytes of shared memory of a block, besides what is asked for at the launch.
    pub shared_bytes: u32,
}

/// A kernel's entry points, or the compiler's refusal with its log.
pub type KernelResources = (KernelId, Result<Vec<EntryResources>, String>);

/// Compiles every kernel that `arch` can run for a layer of `shape` with `tuples` and `codebooks` among its
/// experts; `arch` need not be that of this machine. Nothing is read from or left in the cache.
///
/// # Errors
/// [`NoDevice::NoCompiler`] where there is no NVRTC.
pub fn kernel_resources(
    shape: &LayerShape,
    tuples: &[BitTuple],
    codebooks: &[Codebook],
    arch: Arch,
) -> Result<Vec<KernelResources>, NoDevice> {
    if !compiler_is_present() {
        return Err(NoDevice::NoCompiler);
    }
    let recipes = recipes(shape, tuples, codebook_mask(codebooks), arch);
    let runnable: Vec<&Recipe> =
        recipes.iter().filter(|r| r.candidate(&|_| true).is_ok()).collect();
    // Kernels for one tuple and for any are one compilation where there is but one tuple.
    let mut results: HashMap<&Request, OnceLock<_>> = HashMap::new();
    for recipe in &runnable {
        for request in recipe.requests() {
            results.entry(request).or_default();
        }
    }
    on_all_processors(results.iter().collect(), |(request, result)| {
        let compiled = compile(request).map_err(|error| error.to_string());
        result.set(compiled.map(|compiled| parse(&compiled.log))).expect("each is compiled once");
    });
    let result_of = |recipe: &&Recipe| {
        let result = |request| results[request].get().expect("every request was compiled").clone();
        let results: Result<Vec<_>, _> = recipe.requests().map(result).collect();
        (recipe.spec.id, results.map(|entries| entries.concat()))
    };
    Ok(runnable.iter().map(result_of).collect())
}

/// Reads what `--ptxas-options=-v` prints.
fn parse(log: &str) -> Vec<EntryResources> {
    let mut entries: Vec<EntryResources> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let entry = rest.split('\'').next().unwrap_or_default().into();
            entries.push(EntryResources { entry, registers: 0, spill_bytes: 0, shared_bytes: 0 });
        } else if let Some(entry) = entries.last_mut() {
            let number = |unit| number_before(line, unit);
            entry.registers = number(" registers").unwrap_or(entry.registers);
            entry.spill_bytes = number(" bytes spill stores").unwrap_or(entry.spill_bytes);
            entry.shared_bytes = number(" bytes smem").unwrap_or(entry.shared_bytes);
        }
    }
    entries
}

fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = &line[..line.find(unit)?];
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_compilers_words_are_understood() {
        let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'down' for 'sm_90a'
ptxas info    : Function properties for down
ptxas         .     40 bytes stack frame, 36 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 127 registers, used 1 barriers, 40 bytes cumulative stack size, 16384 bytes smem
ptxas info    : Compiling entry function 'route' for 'sm_90a'
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers
";
        let entry = |entry: &str, registers, spill_bytes, shared_bytes| EntryResources {
            entry: entry.into(),
            registers,
            spill_bytes,
            shared_bytes,
        };
        assert_eq!(parse(log), [entry("down", 127, 36, 16384), entry("route", 32, 0, 0)]);
    }

    /// Bytes that kernels may spill on Hopper for (2,2,2); what is not listed spills nothing.
    const SPILLS: [(&str, u32); 4] = [
        ("decode_fp32acc@cuda.k256", 4),
        ("fp32acc@cuda.r16", 4),
        ("large_batch@cuda.wgmma64", 64),
        ("large_batch@cuda.r64", 364),
    ];

    /// Every width and codebook, a mix in one launch, odd shapes, and every architecture that the
    /// kernels are written for; what was tuned spills no more than it did.
    #[test]
    #[ignore = "needs NVRTC: `cargo xtask kernels` fetches it"]
    fn every_kernel_compiles_for_every_architecture() {
        let tuple = |text: &str| text.parse::<BitTuple>().unwrap();
        let mul1 = &[Codebook::Mul1][..];
        let (ampere, ada) = (Arch { major: 8, minor: 0 }, Arch { major: 8, minor: 9 });
        let cases = [
            (ampere, (2048, 1536), vec![tuple("6,2,3")], mul1, false),
            (ampere, (128, 384), vec![tuple("1,8,7")], &[Codebook::ThreeInst], false),
            (ada, (2048, 768), vec![tuple("3,5,6")], &[Codebook::Mcg], false),
            (Arch::HOPPER, (2048, 1536), vec![tuple("2,2,2")], mul1, true),
            (Arch::HOPPER, (4096, 1408), vec![tuple("4,4,4")], mul1, false),
            (Arch::HOPPER, (200, 300), vec![tuple("7,1,8"), tuple("5,3,1")], &Codebook::ALL, false),
        ];
        let mut worst = BTreeMap::new();
        for (arch, (hidden, intermediate), tuples, codebooks, tuned) in cases {
            let shape = LayerShape::new(hidden, intermediate, 64).unwrap();
            for (kernel, entries) in kernel_resources(&shape, &tuples, codebooks, arch).unwrap() {
                let entries = entries.unwrap_or_else(|log| panic!("{log}"));
                assert!(!entries.is_empty(), "{kernel} has no entry point");
                for EntryResources { entry, registers, spill_bytes, .. } in entries {
                    let at = (arch, KernelId { tuple: None, ..kernel }, entry);
                    let listed = SPILLS.iter().find(|(name, _)| at.1.to_string().ends_with(name));
                    let limit = match tuned {
                        true => listed.map_or(0, |(_, bytes)| *bytes),
                        false => u32::MAX,
                    };
                    assert!(spill_bytes <= limit, "{at:?} spills {spill_bytes} bytes");
                    let most = worst.entry(at).or_insert((0, 0));
                    *most = (registers.max(most.0), spill_bytes.max(most.1));
                }
            }
        }
        for ((arch, kernel, entry), (registers, spills)) in worst {
            println!("{arch} {kernel} {entry}: {registers} registers, {spills} bytes spilled");
        }
    }
}
