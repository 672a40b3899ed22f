//! Hashes what decides how long a kernel takes: this crate's sources, the compiler, and its options.
//! Latencies of another build are then another environment's, even where no version has changed;
//! an unoptimised build takes several times as long as an optimised one of the same sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use sha2::{Digest, Sha256};

/// What cargo tells of the options.
const OPTIONS: [&str; 5] = [
    "TARGET",
    "OPT_LEVEL",
    "CARGO_CFG_DEBUG_ASSERTIONS",
    "CARGO_CFG_TARGET_FEATURE",
    "CARGO_ENCODED_RUSTFLAGS",
];

fn main() -> io::Result<()> {
    let mut hash = Sha256::new();
    let mut add = |name: &str, bytes: &[u8]| {
        for part in [name.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    };
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("src");
    let mut sources = Vec::new();
    find(&root, &mut sources)?;
    sources.sort();
    for path in sources {
        let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        add(&name, &fs::read(&path)?);
    }
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    add("rustc", &Command::new(compiler).arg("-vV").output()?.stdout);
    for option in OPTIONS {
        let set = env::var_os(option);
        add(option, format!("{set:?}").as_bytes());
    }
    let digits: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rustc-env=TRELLECT_KERNEL_CODE={digits}");
    Ok(())
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => find(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}
