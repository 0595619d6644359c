//! Directories as a promotion handles them: told apart by their marks, moved without ever overwriting, synced, and given
//! the owner, modes and labels of those they replace.

use crate::error::{Context, Error, Result};
use highwater_core::Failure;
use highwater_core::promotion::{Mark, Slot, SlotSeen};
use rustix::fs::{CWD, RenameFlags, XattrFlags};
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The mark of whatever has this name, a directory or not; none if nothing has it.
pub(super) fn mark(path: &Path) -> Result<Option<Mark>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(mark_of(&found))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(Failure::Resources, || format!("look at {}", path.display())),
    }
}

fn mark_of(found: &Metadata) -> Mark {
    let born = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Mark { inode: found.ino(), born_ns: born.and_then(|at| i64::try_from(at.as_nanos()).ok()).unwrap_or(0) }
}

/// What lies at a slot's places.
pub(super) fn look(slot: &Slot) -> Result<SlotSeen> {
    Ok(SlotSeen { live: mark(&slot.live)?, aside: mark(&slot.aside)?, staged: mark(&slot.staged)?, undone: mark(&slot.undone)? })
}

/// Renames a directory to a name that must be free, and makes that durable.
pub(super) fn shift(from: &Path, to: &Path) -> Result<()> {
    let moved = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A filesystem without NOREPLACE: nobody else renames here, we hold the lock.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if mark(to)?.is_none() => fs::rename(from, to),
        other => other.map_err(Into::into),
    };
    moved.context(Failure::Resources, || format!("rename {} to {}", from.display(), to.display()))?;
    sync_parent(from)?;
    sync_parent(to)
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|d| d.sync_all()).context(Failure::Resources, || format!("sync {}", parent.display()))
}

/// Puts everything on the filesystem of `path` on disk.
pub(super) fn sync_filesystem(path: &Path) -> Result<()> {
    let dir = File::open(path).context(Failure::Resources, || format!("open {}", path.display()))?;
    rustix::fs::syncfs(dir).context(Failure::Resources, || format!("sync the filesystem of {}", path.display()))
}

/// Bytes that may still be written on the filesystem of `path`.
pub(super) fn free_bytes(path: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(path).context(Failure::Resources, || format!("ask for the free space of {}", path.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Mount points at `path` or below it: a rename would fail on them or leave them behind.
pub(super) fn mounts_within(path: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").context(Failure::Resources, || "read /proc/self/mountinfo".into())?;
    Ok(mount_points(&table).filter(|at| at.starts_with(path)).collect())
}

fn mount_points(mountinfo: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    mountinfo.split(|b| *b == b'\n').filter_map(|line| {
        let field = line.split(|b| *b == b' ').nth(4)?;
        // Spaces, tabs, newlines and backslashes are written as three octal digits.
        let mut raw = Vec::with_capacity(field.len());
        let mut rest = field;
        while let Some((&byte, after)) = rest.split_first() {
            let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
            match octal.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok()) {
                Some(byte) => {
                    raw.push(byte);
                    rest = &after[3..];
                }
                None => {
                    raw.push(byte);
                    rest = after;
                }
            }
        }
        Some(PathBuf::from(std::ffi::OsString::from_vec(raw)))
    })
}

/// Things below `dir` that lead out of it: symbolic links, and InnoDB's `.isl` links of DATA DIRECTORY tables.
pub(super) fn leads_out(dir: &Path) -> Result<Option<PathBuf>> {
    let mut found = None;
    walk(dir, &mut |path, data| {
        if data.is_symlink() || path.extension().is_some_and(|e| e == "isl") {
            found.get_or_insert_with(|| path.to_owned());
        }
        Ok(())
    })?;
    Ok(found)
}

/// Calls `visit` with everything below `dir`, a directory before what it holds. Links are not followed.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &Metadata) -> Result<()>) -> Result<()> {
    let failed = || format!("list {}", dir.display());
    for entry in fs::read_dir(dir).context(Failure::Resources, failed)? {
        let path = entry.context(Failure::Resources, failed)?.path();
        let data = match fs::symlink_metadata(&path) {
            Ok(data) => data,
            // A live server makes and removes files while we look.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context(Failure::Resources, || format!("look at {}", path.display())),
        };
        visit(&path, &data)?;
        if data.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

/// Owner, mode and SELinux label of one file.
#[derive(Debug, Clone)]
struct Look {
    uid: u32,
    gid: u32,
    mode: u32,
    label: Option<Vec<u8>>,
}

impl Look {
    fn of(path: &Path) -> Result<Option<Self>> {
        let data = match fs::symlink_metadata(path) {
            Ok(data) => data,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context(Failure::Resources, || format!("look at {}", path.display())),
        };
        let mut label = [0u8; 512];
        let label = match rustix::fs::lgetxattr(path, SELINUX, &mut label) {
            Ok(length) => Some(label[..length].to_vec()),
            Err(_) => None, // No SELinux here.
        };
        Ok(Some(Self { uid: data.uid(), gid: data.gid(), mode: data.mode() & 0o7777, label }))
    }

    fn give(&self, path: &Path) -> Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .context(Failure::Resources, || format!("change the owner of {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))
            .context(Failure::Resources, || format!("change the mode of {}", path.display()))?;
        if let Some(label) = &self.label {
            rustix::fs::lsetxattr(path, SELINUX, label, XattrFlags::empty())
                .context(Failure::Resources, || format!("change the SELinux label of {}", path.display()))?;
        }
        Ok(())
    }
}

const SELINUX: &str = "security.selinux";

/// Gives `new` and everything in it the look of `old`: a file that has a namesake there gets its namesake's, any other
/// file that of `ibdata1`, any other directory that of `mysql/`, and in doubt that of `old` itself.
pub(super) fn dress_like(old: &Path, new: &Path) -> Result<()> {
    let Some(top) = Look::of(old)? else {
        return Err(Error::new(Failure::Resources, format!("{} is gone", old.display())));
    };
    let any_file = Look::of(&old.join("ibdata1"))?.unwrap_or(Look { mode: 0o660, ..top.clone() });
    let any_dir = Look::of(&old.join("mysql"))?.unwrap_or_else(|| top.clone());
    walk(new, &mut |path, data| {
        let below = path.strip_prefix(new).unwrap_or(path);
        if data.is_symlink() {
            return Err(Error::new(Failure::UnsafeDirectory, format!("{} is a symbolic link", path.display())));
        }
        let namesake = fs::symlink_metadata(old.join(below)).ok().filter(|n| n.file_type() == data.file_type());
        let look = match namesake {
            Some(_) => Look::of(&old.join(below))?,
            None => None,
        };
        look.as_ref().unwrap_or(if data.is_dir() { &any_dir } else { &any_file }).give(path)
    })?;
    top.give(new)
}

/// Makes an empty directory that looks like `old`.
pub(super) fn make_like(old: &Path, new: &Path) -> Result<()> {
    match fs::create_dir(new) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && fs::read_dir(new).is_ok_and(|mut d| d.next().is_none()) => {}
        made => made.context(Failure::Resources, || format!("create {}", new.display()))?,
    }
    dress_like(old, new)
}

/// A process that has something below `dir` open, or works in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: i32,
    pub(super) command: String,
}

/// Every process, except this one, that has something below `dir` open, or works in it.
pub(super) fn holders(dir: &Path) -> Result<Vec<Holder>> {
    let Ok(identity) = fs::metadata(dir).map(|d| (d.dev(), d.ino())) else { return Ok(Vec::new()) };
    let prefix = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context(Failure::Resources, || "list /proc".into())?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if u32::try_from(pid) == Ok(std::process::id()) {
            continue;
        }
        // Processes end while we look: what cannot be read is gone.
        let process = entry.path();
        let works_here = fs::metadata(process.join("cwd")).is_ok_and(|d| (d.dev(), d.ino()) == identity)
            || fs::read_link(process.join("cwd")).is_ok_and(|d| d.starts_with(&prefix));
        let has_open = || {
            let links = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            links.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target.starts_with(&prefix))
        };
        if works_here || has_open() {
            let command = fs::read(process.join("comm")).map(|c| String::from_utf8_lossy(c.trim_ascii()).into_owned()).unwrap_or_default();
            found.push(Holder { pid, command });
        }
    }
    Ok(found)
}

/// `path` with `suffix` appended to its last component: a sibling.
pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.extend_from_slice(suffix.as_bytes());
    PathBuf::from(std::ffi::OsString::from_vec(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stays_through_a_rename_and_tells_two_directories_apart() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|n| dir.path().join(n));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        let before = mark(&a).unwrap();
        assert_ne!(before, mark(&b).unwrap());
        assert!(shift(&a, &b).is_err(), "renamed onto an empty directory");
        shift(&a, &c).unwrap();
        assert_eq!((mark(&c).unwrap(), mark(&a).unwrap()), (before, None));
    }

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"36 35 98:0 /mnt1 /var/lib/my\\040sql rw,noatime master:1 - ext4 /dev/root rw\n21 1 0:5 / / rw - ext4 x rw\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), [PathBuf::from("/var/lib/my sql"), "/".into()]);
    }

    #[test]
    fn new_data_gets_the_modes_of_its_namesakes_and_of_their_kin() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        for path in [&old, &new] {
            fs::create_dir(path).unwrap();
            fs::create_dir(path.join("mysql")).unwrap();
            fs::write(path.join("ibdata1"), b"").unwrap();
            fs::write(path.join("mysql/db.frm"), b"").unwrap();
        }
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&old, 0o750);
        set(&old.join("ibdata1"), 0o640);
        set(&old.join("mysql"), 0o710);
        set(&old.join("mysql/db.frm"), 0o600);
        fs::create_dir(new.join("orders")).unwrap();
        fs::write(new.join("orders/t.ibd"), b"").unwrap();
        dress_like(&old, &new).unwrap();
        let mode = |path: &str| fs::metadata(new.join(path)).unwrap().mode() & 0o7777;
        assert_eq!([mode(""), mode("ibdata1"), mode("mysql"), mode("mysql/db.frm")], [0o750, 0o640, 0o710, 0o600]);
        assert_eq!([mode("orders"), mode("orders/t.ibd")], [0o710, 0o640], "as mysql/ and ibdata1");
        std::os::unix::fs::symlink("/etc", new.join("orders/x")).unwrap();
        assert_eq!(leads_out(&new).unwrap(), Some(new.join("orders/x")));
        assert!(dress_like(&old, &new).is_err());
    }

    #[test]
    fn a_process_with_an_open_file_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holders(dir.path()).unwrap(), []);
        let mut child = std::process::Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let found = holders(dir.path()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.iter().map(|h| u32::try_from(h.pid).unwrap()).collect::<Vec<_>>(), [child.id()]);
    }
}
