//! What a helper is asked to do. Requests are documents, never shell text.

use crate::Lsn;
use crate::document::Document;
use crate::identity::{BinlogPosition, SourceIdentity};
use crate::ids::{BackupId, BackupKind, ClusterId, Incarnation};
use crate::manifest::ParentLink;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A request for one backup, version 1. Running it twice gives one backup (I4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequestV1 {
    /// `highwater.backup-request.v1`.
    pub format: String,
    /// The cluster; must be the host's.
    pub cluster: ClusterId,
    /// The incarnation: the parent's for an incremental; for a full the current or a new one.
    pub incarnation: Incarnation,
    /// The id the backup will have.
    pub backup_id: BackupId,
    /// Full or incremental, as the id says.
    pub kind: BackupKind,
    /// What an incremental continues.
    pub parent: Option<ParentState>,
    /// The bucket to write to.
    pub bucket: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Not to be started after this.
    pub expires_at: Timestamp,
}

/// The parent as its manifest recorded it: what the helper compares the live server with before it streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentState {
    /// The link that the new manifest will carry.
    pub link: ParentLink,
    /// The redo position the parent's copy reached; the server must be at or past it.
    pub last_lsn: Lsn,
    /// Where the parent was taken.
    pub source: SourceIdentity,
    /// The parent's binlog position, which the server must still recognise as its own.
    pub binlog: Option<BinlogPosition>,
}

impl Document for BackupRequestV1 {
    const FORMAT: &'static str = "highwater.backup-request.v1";
    const MAX_BYTES: usize = 1 << 20;

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        if self.kind != self.backup_id.kind() {
            return Err(format!("{} does not name a backup of kind {}", self.backup_id, self.kind));
        }
        match (&self.kind, &self.parent) {
            (BackupKind::Full, None) => {}
            (BackupKind::Full, Some(parent)) => return Err(format!("a full cannot have a parent, {}", parent.link.backup_id)),
            (BackupKind::Incremental, None) => return Err("an incremental needs its parent".into()),
            (BackupKind::Incremental, Some(parent)) if parent.link.backup_id == self.backup_id => return Err("it is its own parent".into()),
            (BackupKind::Incremental, Some(parent)) if parent.last_lsn < parent.link.to_lsn => {
                return Err(format!("the parent's last_lsn {} is before its to_lsn {}", parent.last_lsn, parent.link.to_lsn));
            }
            (BackupKind::Incremental, Some(_)) => {}
        }
        if self.bucket.is_empty() {
            return Err("no bucket is named".into());
        }
        if self.expires_at <= self.created_at {
            return Err(format!("it expires at {}, not after {} when it was made", self.expires_at, self.created_at));
        }
        Ok(())
    }
}
