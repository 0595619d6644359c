//! What is inside a backup: the files of the stream and the tables of the source. Stored compressed beside
//! the data (`inventory.json.zst`), pinned by the manifest, read by a drill to know what to expect.

use crate::document::Document;
use crate::ids::BackupId;
use serde::{Deserialize, Serialize};

/// The inventory, version 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InventoryV1 {
    /// `highwater.inventory.v1`.
    pub format: String,
    /// The backup it belongs to.
    pub backup_id: BackupId,
    /// Every file of the stream, in the order of first appearance.
    pub files: Vec<StreamFile>,
    /// Every schema of the source, except information_schema, performance_schema and sys.
    pub schemas: Vec<String>,
    /// Every base table of those schemas.
    pub tables: Vec<TableFacts>,
}

/// One file of the tool's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamFile {
    /// Path relative to the data directory.
    pub path: String,
    /// The sum of its payloads, bytes.
    pub bytes: u64,
}

/// A table as the source saw it just before and just after the tool ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableFacts {
    /// Schema name.
    pub schema: String,
    /// Table name.
    pub table: String,
    /// Storage engine, as information_schema names it.
    pub engine: String,
    /// Digest of the columns' definitions (see Columns in FORMAT.md), where it was the same before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<String>,
    /// Present before and after the tool ran. A table created or dropped meanwhile may be missing from the restore.
    pub throughout: bool,
    /// Row counts, when the source had time to count.
    pub rows: Option<Measured<u64>>,
    /// Row hash (see Row hash in FORMAT.md), for the tables chosen in the configuration.
    pub hash: Option<Measured<String>>,
}

/// A value measured on the source before and after the tool ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured<T> {
    /// Just before.
    pub before: T,
    /// Just after.
    pub after: T,
    /// The server says that nothing wrote to the table between the two: the restore must match exactly.
    pub unwritten: bool,
}

impl Document for InventoryV1 {
    const FORMAT: &'static str = "highwater.inventory.v1";
    // A million tables at about 250 bytes each.
    const MAX_BYTES: usize = 256 << 20;

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        match self.files.iter().find(|f| !safe_relative_path(&f.path)) {
            Some(file) => Err(format!("the path {:?} leaves the data directory", file.path)),
            None => Ok(()),
        }
    }
}

/// Whether a path from a stream may be created below a target directory: relative, no `..`, no empty or
/// `.` component, no NUL, at most 4096 bytes.
pub fn safe_relative_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.contains('\0')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_target_are_safe() {
        for good in ["ibdata1", "orders/t1.ibd", "a/b/c.d", "orders/...odd", "ä/t@0020.frm"] {
            assert!(safe_relative_path(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/.", "a/", "a\0b"] {
            assert!(!safe_relative_path(bad), "{bad}");
        }
    }
}
