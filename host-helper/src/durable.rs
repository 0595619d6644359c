//! Files that are wholly there or not at all.

use crate::error::{Context, Result};
use highwater_core::Failure;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a file being written is called until it is whole.
const UNFINISHED: &str = ".new";

/// Replaces `path` by a file of these bytes: a new file, synced, renamed into place, its directory synced. After a crash there is
/// the old file or the new one, and at most `<path>.new` beside it, which the next write replaces.
///
/// # Errors
/// `Resources`.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut unfinished = OsString::from(path);
    unfinished.push(UNFINISHED);
    let written = (|| {
        // What a crash left there may have another mode, or be somebody's link.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().create_new(true).write(true).mode(mode).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(directory_of(path))?.sync_all()
    })();
    written.context(Failure::Resources, || format!("write {}", path.display()))
}

/// The directory that a file lies in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_keeps_its_old_content_when_it_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.json");
        replace(&path, b"a long first text", 0o600).unwrap();
        fs::write(dir.path().join("journal.json.new"), "what a crash left, longer than what comes").unwrap();
        replace(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it");
        // Nothing can be created where a directory lies.
        fs::create_dir(dir.path().join("journal.json.new")).unwrap();
        let error = replace(&path, b"third", 0o600).unwrap_err();
        assert!(error.message.starts_with("write ") && error.message.ends_with("journal.json"), "{}", error.chain());
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }
}
