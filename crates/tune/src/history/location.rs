//! Where the history lives, and whether its file system can share memory between processes.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

/// Environment variable with the path of the history file.
pub const HISTORY_VARIABLE: &str = "TRELLECT_HISTORY";

/// `TRELLECT_HISTORY` if set, else `trellect/v1/history.sqlite` in the user's directory for state,
/// or for data where the platform has none for state. `None` for a user without home.
pub fn default_location() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(HISTORY_VARIABLE).filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let user = etcetera::choose_base_strategy().ok()?;
    let directory = user.state_dir().unwrap_or_else(|| user.data_dir());
    Some(directory.join("trellect").join("v1").join("history.sqlite"))
}

/// Whether `path` lies on a file system of another machine, where a write-ahead log would corrupt.
/// Known on Linux only.
pub(super) fn is_remote(path: &Path) -> bool {
    let directory = path.parent().and_then(|parent| parent.canonicalize().ok());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo");
    let (Some(directory), Ok(mounts)) = (directory, mounts) else { return false };
    file_system_of(&directory, &mounts).is_some_and(|kind| {
        ["nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "fuse.sshfs", "glusterfs"]
            .iter()
            .any(|remote| kind.starts_with(remote))
    })
}

/// The type of the file system that `directory` is on, by the longest mount point above it.
fn file_system_of<'a>(directory: &Path, mounts: &'a str) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let (left, right) = line.split_once(" - ")?;
        let point = Path::new(left.split(' ').nth(4)?);
        let kind = right.split(' ').next()?;
        directory.starts_with(point).then(|| (point.components().count(), kind))
    };
    mounts.lines().filter_map(mount).max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_point_decides() {
        let mounts = "22 1 0:21 / / rw - ext4 /dev/vda rw\n\
                      40 22 0:40 / /home rw,relatime shared:3 - nfs4 server:/home rw\n\
                      41 40 0:41 / /home/local rw - xfs /dev/vdb rw\n";
        let kind = |path: &str| file_system_of(Path::new(path), mounts);
        assert_eq!(kind("/var/lib"), Some("ext4"));
        assert_eq!(kind("/home/user/.local"), Some("nfs4"));
        assert_eq!(kind("/home/local/user"), Some("xfs"));
        assert_eq!(kind("/homely"), Some("ext4"));
        assert_eq!(file_system_of(Path::new("/"), "nonsense\n"), None);
    }
}
