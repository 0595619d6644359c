//! The manifest: the JSON the helper writes last. What no manifest lists does not exist (I1).

use crate::document::Document;
use crate::identity::{BinlogPosition, ServerSettings, SourceIdentity, ToolName, Version};
use crate::ids::{BackupId, BackupKind, ClusterId, IdError, Incarnation, backup_prefix};
use crate::{Lsn, Sha256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The manifest, version 1. Lies at `<backup prefix>manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestV1 {
    /// `highwater.manifest.v1`.
    pub format: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The life of the data directory that `to_lsn` belongs to.
    pub incarnation: Incarnation,
    /// This backup.
    pub backup_id: BackupId,
    /// Full or incremental.
    pub kind: BackupKind,
    /// The parent of an incremental.
    pub parent: Option<ParentLink>,
    /// SHA-256 of the request that asked for it: tells a repeated request from another one (I4).
    pub request_sha256: Sha256,
    /// Zero for a full; the parent's `to_lsn` for an incremental. From the tool's checkpoints file.
    pub from_lsn: Lsn,
    /// The checkpoint that the next incremental starts from. From the tool's checkpoints file.
    pub to_lsn: Lsn,
    /// How far redo was copied: the restore point is here. From the tool's checkpoints file.
    pub last_lsn: Lsn,
    /// When the helper started the tool.
    pub started_at: Timestamp,
    /// When the tool reported success: the restore point's time, by the host's clock.
    pub finished_at: Timestamp,
    /// The tool and its version.
    pub tool: ToolInfo,
    /// The server it was taken from.
    pub source: SourceIdentity,
    /// Settings that a restored server must share.
    pub settings: ServerSettings,
    /// Where in the binlog the restore point is; absent when the server writes none.
    pub binlog: Option<BinlogPosition>,
    /// Bytes of redo in the backup (`xtrabackup_logfile` / `ib_logfile0`): sizes prepare's memory.
    pub redo_bytes: u64,
    /// The files that a restore writes, bytes; for an incremental, its deltas.
    pub raw_bytes: u64,
    /// The objects' sizes together, bytes.
    pub stored_bytes: u64,
    /// The data, in stream order: concatenated and decompressed, they are the tool's xbstream.
    pub objects: Vec<DataObject>,
    /// The inventory.
    pub inventory: InventoryRef,
    /// `highwater-host` version that wrote it.
    pub helper_version: String,
}

/// The link from an incremental to its one parent. The LSN alone never links: with no checkpoint between
/// them, several backups share a `to_lsn` (measured).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentLink {
    /// The parent backup.
    pub backup_id: BackupId,
    /// Its `to_lsn`, this one's `from_lsn`.
    pub to_lsn: Lsn,
    /// SHA-256 of its manifest: the parent cannot be exchanged afterwards.
    pub manifest_sha256: Sha256,
    /// How it continues the parent. Stored with the link, so that the catalog follows from the manifests alone (I1).
    pub strategy: Strategy,
}

/// What an incremental's parent must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The backup before it: small backups, long restores. A parent has one such child.
    Incremental,
    /// The full: each backup holds everything since the full, and a restore needs two. Siblings are the rule.
    Differential,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        })
    }
}

impl FromStr for Strategy {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        match s {
            "incremental" => Ok(Self::Incremental),
            "differential" => Ok(Self::Differential),
            _ => Err(IdError { what: "strategy", text: s.chars().take(80).collect(), expected: "incremental or differential" }),
        }
    }
}

/// The tool that made the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolInfo {
    /// Which tool.
    pub name: ToolName,
    /// Its version.
    pub version: Version,
}

/// One data object: independent zstd frames, then a frame table in a zstd skippable frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataObject {
    /// Its key.
    pub key: String,
    /// S3's version id, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// Bytes stored.
    pub size: u64,
    /// Bytes of stream in it, decompressed.
    pub raw_bytes: u64,
    /// CRC-64/NVME of the whole object, base64 as S3 prints it, compared with what S3 stored.
    pub crc64nvme: String,
    /// Data frames in it.
    pub frames: u32,
    /// Where the frame table's content starts (behind the skippable frame's 8-byte header).
    pub table_offset: u64,
    /// SHA-256 of the frame table's content, which runs to the object's end.
    pub table_sha256: Sha256,
}

impl DataObject {
    /// Whether another one is of the same bytes: a copy of them elsewhere may have another version id.
    pub fn same_bytes(&self, other: &Self) -> bool {
        let without = |object: &Self| Self { version_id: None, ..object.clone() };
        without(self) == without(other)
    }
}

/// Where the inventory lies, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InventoryRef {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Files in the stream.
    pub files: u64,
    /// Tables on the source.
    pub tables: u64,
}

impl InventoryRef {
    /// As [`DataObject::same_bytes`].
    pub fn same_bytes(&self, other: &Self) -> bool {
        let without = |inventory: &Self| {
            let mut inventory = inventory.clone();
            inventory.object.version_id = None;
            inventory
        };
        without(self) == without(other)
    }
}

/// One exact small object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its key.
    pub key: String,
    /// S3's version id, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// Bytes stored.
    pub size: u64,
    /// SHA-256 of those bytes.
    pub sha256: Sha256,
}

/// The file name of the manifest below a backup's prefix.
pub const MANIFEST_NAME: &str = "manifest.json";

impl ManifestV1 {
    /// The key of this manifest.
    pub fn key(&self) -> String {
        format!("{}{MANIFEST_NAME}", backup_prefix(&self.cluster, &self.incarnation, &self.backup_id))
    }
}

impl Document for ManifestV1 {
    const FORMAT: &'static str = "highwater.manifest.v1";

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        let prefix = backup_prefix(&self.cluster, &self.incarnation, &self.backup_id);
        let rule = |holds: bool, reason: String| if holds { Ok(()) } else { Err(reason) };
        rule(self.kind == self.backup_id.kind(), format!("{} says {}", self.backup_id, self.kind))?;
        match (&self.kind, &self.parent) {
            (BackupKind::Full, None) => rule(self.from_lsn == Lsn::ZERO, format!("a full starts at LSN {}", self.from_lsn))?,
            (BackupKind::Full, Some(parent)) => return Err(format!("a full names a parent, {}", parent.backup_id)),
            (BackupKind::Incremental, None) => return Err("an incremental names no parent".into()),
            (BackupKind::Incremental, Some(parent)) => {
                rule(parent.backup_id != self.backup_id, "it is its own parent".into())?;
                rule(parent.to_lsn == self.from_lsn, format!("it starts at LSN {}, its parent ended at {}", self.from_lsn, parent.to_lsn))?;
            }
        }
        rule(self.from_lsn <= self.to_lsn, format!("from_lsn {} is after to_lsn {}", self.from_lsn, self.to_lsn))?;
        rule(self.to_lsn <= self.last_lsn, format!("to_lsn {} is after last_lsn {}", self.to_lsn, self.last_lsn))?;
        rule(self.started_at <= self.finished_at, format!("it finished at {} before it started at {}", self.finished_at, self.started_at))?;
        rule(!self.objects.is_empty(), "it lists no data object".into())?;
        let keys = self.objects.iter().map(|o| &o.key).chain([&self.inventory.object.key]);
        for key in keys {
            let name = key.strip_prefix(&prefix).unwrap_or_default();
            rule(
                !name.is_empty() && !name.contains('/') && name != MANIFEST_NAME,
                format!("the object {key:?} is not one of this backup's"),
            )?;
        }
        for object in &self.objects {
            let table_bytes = object.size.saturating_sub(object.table_offset);
            rule(
                object.frames > 0 && object.raw_bytes > 0 && object.table_offset >= 8 && table_bytes > 0,
                format!("the object {} is empty or its frame table lies outside it", object.key),
            )?;
        }
        let sum = |of: fn(&DataObject) -> u64| self.objects.iter().try_fold(0u64, |sum, o| sum.checked_add(of(o)));
        rule(sum(|o| o.size) == Some(self.stored_bytes), "stored_bytes is not the sum of the objects' sizes".into())?;
        rule(sum(|o| o.raw_bytes).is_some(), "the objects' raw_bytes overflow".into())?;
        Ok(())
    }
}
