//! Machine code on disk, named by a hash of everything that it depends on.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use etcetera::BaseStrategy;
use sha2::{Digest, Sha256};

use crate::compile::{CompileError, Compiled, Request, compile, compiler_version};
use crate::source::HEADERS;

/// The environment variable that moves the cache.
pub const CACHE_VARIABLE: &str = "TRELLECT_CACHE_DIR";

/// First bytes of an entry; a change of the layout changes them.
const MAGIC: &[u8; 8] = b"trlcub01";
const CHECKSUM_BYTES: usize = 32;

/// A folder of compiled kernels, shared by all processes of a user.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    compiler: String,
}

impl Cache {
    /// The cache of [`CACHE_VARIABLE`], or else of the platform's convention; temporary files where
    /// there is none.
    pub(crate) fn open() -> Self {
        let folder = folder(std::env::var_os(CACHE_VARIABLE));
        Self { folder, compiler: compiler_version() }
    }

    /// The machine code of `request`, from disk if it is there and whole, else compiled and stored.
    pub(crate) fn get(&self, request: &Request) -> Result<Vec<u8>, CompileError> {
        let path = self.folder.join(self.key(request));
        if let Some(cubin) = read(&path) {
            return Ok(cubin);
        }
        let Compiled { cubin, .. } = compile(request)?;
        // A full or read-only disk costs the next process a compilation, not this one its kernel.
        let _ = write(&path, &cubin);
        Ok(cubin)
    }

    fn key(&self, request: &Request) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(&self.compiler);
        request.options().iter().for_each(|option| add(option));
        for (name, source) in HEADERS.iter().map(|header| (header.name, header.source)) {
            add(name);
            add(source);
        }
        add(request.unit.name);
        add(request.unit.source);
        let hash = hash.finalize().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a String takes everything");
            text
        });
        format!("{}-{}-{hash}.cubin", request.unit.name.trim_end_matches(".cu"), request.arch)
    }
}

fn folder(variable: Option<OsString>) -> PathBuf {
    if let Some(folder) = variable.filter(|value| !value.is_empty()) {
        return folder.into();
    }
    let base = etcetera::choose_base_strategy()
        .map_or_else(|_| std::env::temp_dir(), |strategy| strategy.cache_dir());
    base.join("trellect").join("cubin")
}

/// The payload of an entry; `None` where there is none or it is not what was written.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let header = MAGIC.len() + CHECKSUM_BYTES;
    let (magic, checksum) = bytes.get(..header)?.split_at(MAGIC.len());
    let whole = magic == MAGIC && checksum == Sha256::digest(&bytes[header..]).as_slice();
    whole.then(|| bytes.split_off(header))
}

/// Writes a file beside the entry and renames it, so that no reader sees half of it.
fn write(path: &Path, payload: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(payload))?;
    file.write_all(payload)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arch;
    use crate::source::SMALL_BATCH;

    fn request(arch: Arch, value: u32) -> Request {
        Request { unit: &SMALL_BATCH, arch, defines: vec![("EXACT", value)] }
    }

    #[test]
    fn the_name_changes_with_everything_that_the_code_depends_on() {
        let cache = |compiler: &str| Cache { folder: PathBuf::new(), compiler: compiler.into() };
        let (here, hopper) = (cache("13.0"), Arch::HOPPER);
        let key = here.key(&request(hopper, 0));
        assert_eq!(key, here.key(&request(hopper, 0)));
        assert_ne!(key, here.key(&request(hopper, 1)));
        assert_ne!(key, here.key(&request(Arch::OLDEST, 0)));
        assert_ne!(key, cache("13.1").key(&request(hopper, 0)));
    }

    #[test]
    fn a_damaged_entry_is_no_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below").join("entry.cubin");
        assert_eq!(read(&path), None);
        write(&path, b"machine code").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"machine code"[..]));
        let whole = fs::read(&path).unwrap();
        for (at, len) in [(0, whole.len()), (10, whole.len()), (whole.len() - 1, whole.len())] {
            let mut damaged = whole[..len].to_vec();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path), None, "byte {at}");
        }
        for len in [0, 7, 39, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(read(&path), None, "{len} bytes");
        }
        write(&path, b"again").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"again"[..]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    #[ignore = "needs NVRTC: `cargo xtask kernels` fetches it"]
    fn a_damaged_entry_is_compiled_again_and_a_refusal_has_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: folder.path().into(), compiler: compiler_version() };
        let shape = trellect_core::LayerShape::new(128, 128, 1).unwrap();
        let tuple = "2,2,2".parse().unwrap();
        let recipes = crate::catalogue::recipes(&shape, &[tuple], 1, Arch::OLDEST);
        let request = recipes[0].requests().next().unwrap();
        let path = folder.path().join(cache.key(request));
        let cubin = cache.get(request).unwrap();
        assert_eq!(read(&path).as_ref(), Some(&cubin));
        fs::write(&path, &fs::read(&path).unwrap()[..100]).unwrap();
        assert_eq!(cache.get(request).as_ref(), Ok(&cubin));
        assert_eq!(read(&path).as_ref(), Some(&cubin));

        let mut incomplete = request.clone();
        incomplete.defines.retain(|(name, _)| *name != "HIDDEN");
        let refusal = cache.get(&incomplete).unwrap_err().to_string();
        assert!(refusal.contains("identifier \"HIDDEN\" is undefined"), "{refusal}");
    }

    #[test]
    fn the_variable_wins() {
        assert_eq!(folder(Some("/a/b".into())), Path::new("/a/b"));
        assert!(folder(None).ends_with("trellect/cubin"));
        assert_eq!(folder(Some(OsString::new())), folder(None));
    }
}
