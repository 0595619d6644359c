//! `finish-backup`: finds out how a backup ended, and commits it or records its failure; then what follows from that.
//!
//! An event only says which backup to look at. A backup is good when its manifest lies in the bucket, was made for this
//! request, and S3 has every object that it lists (I5); otherwise its commands say how it failed, once all of them have
//! ended. What a crash leaves: a record with `open`, for which `reconcile` calls again. Everything here may run twice (I4).

mod follow;
mod outcome;

use crate::error::FunctionError;
use crate::serve::{Common, variable};
use follow::Follow;
use highwater_aws::catalog::backups::{BackupRecord, State};
use highwater_aws::catalog::{CatalogError, CatalogTable};
use highwater_aws::manifests::head_objects;
use highwater_aws::s3::{Bucket, StoreError, StoreErrorKind};
use highwater_aws::ssm::{Ssm, backup_of};
use highwater_aws::versions::extend_locks;
use highwater_core::audit::{ObjectId, audit_catalog, objects_of};
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::chain::Admitted;
use highwater_core::ids::backup_prefix;
use highwater_core::manifest::{MANIFEST_NAME, ManifestV1};
use highwater_core::plan::Target;
use highwater_core::{BackupId, ClusterId, Document, Failure};
use jiff::Timestamp;
use outcome::End;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the event must look like, for error messages.
pub const FORM: &str =
    r#"expected SSM's status-change event of a command, or {"cluster": "orders", "backup_id": "20261122T020000Z-full-4f7c"}"#;

/// The event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// From SSM, read leniently: more may stand in it.
    Ended {
        /// The event's.
        detail: Detail,
    },
    /// From `reconcile`.
    Asked {
        /// The cluster.
        cluster: ClusterId,
        /// The backup.
        backup_id: BackupId,
    },
}

/// What is read of SSM's event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Detail {
    command_id: String,
    instance_id: String,
}

/// Reads an event.
///
/// # Errors
/// `BadInput`, with the accepted forms.
pub fn parse(event: Value) -> Result<Event, FunctionError> {
    serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, FORM))
}

/// How the backup is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Answer {
    /// It is a restore point.
    Committed {
        /// The backup.
        backup_id: BackupId,
    },
    /// It is none.
    Failed {
        /// The backup.
        backup_id: BackupId,
        /// The class.
        failure: Failure,
        /// What happened.
        message: String,
    },
    /// Its end is not known yet.
    Running {
        /// The backup.
        backup_id: BackupId,
        /// What is waited for.
        reason: String,
    },
    /// Nothing of ours.
    Ignored {
        /// Why.
        reason: String,
    },
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct FinishBackup {
    catalog: CatalogTable,
    bucket: Bucket,
    ssm: Ssm,
    follow: Follow,
}

/// Why a manifest is not good: the class, and what a person reads.
type Bad = (Failure, String);

/// Why a good manifest was not committed.
enum NotCommitted {
    /// The backup had ended before.
    Ended,
    /// It never will be.
    Bad(Bad),
    /// Not now.
    Function(FunctionError),
}

impl From<CatalogError> for NotCommitted {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Ended { .. } => Self::Ended,
            CatalogError::Refused { .. } => Self::Bad((Failure::ChainBroken, error.to_string())),
            CatalogError::LeaseLost { .. } => Self::Bad((Failure::Interrupted, error.to_string())),
            error => Self::Function(error.into()),
        }
    }
}

impl From<StoreError> for NotCommitted {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::NotFound => Self::Bad((Failure::ChainBroken, format!("what it rests on is not whole: {error}"))),
            _ => Self::Function(error.into()),
        }
    }
}

impl FinishBackup {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        let (topic, machine) = (variable("HIGHWATER_TOPIC")?, variable("HIGHWATER_DRILL_MACHINE")?);
        let (catalog, ssm) = (CatalogTable::new(common.table.clone()), Ssm::new(&common.sdk));
        Ok(Self { bucket: common.bucket.clone(), follow: Follow::new(common, &ssm, topic, machine)?, catalog, ssm })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `BadInput`; `Transient`; `Permanent` when access is denied or a record cannot be read.
    pub async fn handle(&self, event: Value) -> Result<Answer, FunctionError> {
        let found = match parse(event)? {
            Event::Asked { cluster, backup_id } => Ok((cluster, backup_id)),
            Event::Ended { detail } => self.backup_of(&detail).await?,
        };
        let (cluster, id) = match found {
            Ok(found) => found,
            Err(reason) => return Ok(Answer::Ignored { reason }),
        };
        match self.catalog.backup(&cluster, &id).await? {
            Some(record) if record.state.is_unfinished() => self.finish(record).await,
            Some(record) => self.settled(record, None).await,
            None => Ok(Answer::Ignored { reason: format!("the catalog has no backup {id} of {cluster}") }),
        }
    }

    /// The backup that a command is for, from its comment; or why there is none.
    async fn backup_of(&self, detail: &Detail) -> Result<Result<(ClusterId, BackupId), String>, FunctionError> {
        let (command, host) = (&detail.command_id, &detail.instance_id);
        let Some(invocation) = self.ssm.invocation(command, host).await? else {
            return Ok(Err(format!("SSM knows no command {command} on {host}")));
        };
        Ok(backup_of(&invocation.comment)
            .ok_or_else(|| format!("the command {command} is not ours: its comment is {:?}", invocation.comment)))
    }

    /// Ends a backup, if its end is known.
    async fn finish(&self, record: BackupRecord) -> Result<Answer, FunctionError> {
        let (cluster, id, now) = (&record.cluster, &record.backup_id, Timestamp::now());
        let bad = match self.manifest(&record).await? {
            Some(Ok((stored, text))) => match self.commit(&stored, &text, now).await {
                Ok(admitted) => {
                    tracing::info!(%cluster, backup_id = %id, "committed");
                    let new = Some(stored).filter(|_| admitted == Admitted::New);
                    return self.settled(self.read_again(&record).await?, new).await;
                }
                Err(NotCommitted::Ended) => return self.settled(self.read_again(&record).await?, None).await,
                Err(NotCommitted::Bad(bad)) => bad,
                Err(NotCommitted::Function(error)) => return Err(error),
            },
            Some(Err(bad)) => bad,
            None => match outcome::of(&self.ssm, &record, now).await? {
                End::NotYet { reason } => return Ok(Answer::Running { backup_id: id.clone(), reason }),
                End::Failed { failure, message } => (failure, message),
            },
        };
        tracing::warn!(%cluster, backup_id = %id, failure = %bad.0, "failed: {}", bad.1);
        match self.catalog.fail(cluster, id, (bad.0, &bad.1), now).await {
            Ok(failed) => self.settled(failed, None).await,
            Err(CatalogError::Ended { .. }) => self.settled(self.read_again(&record).await?, None).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Commits a good manifest. What it rests on is locked first, at least as long as itself: whatever crashes, no committed
    /// backup has a base that may be deleted before it.
    async fn commit(&self, stored: &StoredManifest, text: &str, now: Timestamp) -> Result<Admitted, NotCommitted> {
        if let Some(link) = &stored.manifest.parent {
            let base = self.catalog.window_for(&stored.manifest.cluster, &Target::Backup(link.backup_id.clone())).await?.catalog;
            // A path that does not hold is refused by the commit, with the reason.
            let path = base.path_to(&link.backup_id).unwrap_or_default().into_iter().cloned();
            let base = objects_of(&Catalog::of_committed(stored.manifest.cluster.clone(), path));
            let child = ObjectId { key: stored.key.clone(), version_id: stored.version_id.clone() };
            extend_locks(&self.bucket, &child, base).await?;
        }
        Ok(self.catalog.commit(stored, text, now).await?)
    }

    async fn read_again(&self, record: &BackupRecord) -> Result<BackupRecord, FunctionError> {
        let unknown = || CatalogError::Unknown { what: format!("backup {}", record.backup_id), cluster: record.cluster.clone() };
        Ok(self.catalog.backup(&record.cluster, &record.backup_id).await?.ok_or_else(unknown)?)
    }

    /// The manifest, if one lies where the backup's belongs: checked, with its text; or why it is not good.
    async fn manifest(&self, record: &BackupRecord) -> Result<Option<Result<(StoredManifest, String), Bad>>, FunctionError> {
        let prefix = backup_prefix(&record.cluster, &record.incarnation, &record.backup_id);
        let key = format!("{prefix}{MANIFEST_NAME}");
        // Listed, not asked for: S3 answers 403, not 404, for an absent object where a role may not list the whole bucket.
        if !self.bucket.list(&prefix).await?.contains(&key) {
            return Ok(None);
        }
        let head = self.bucket.head(&key, None).await?;
        let bytes = self.bucket.get(&key, head.version_id.as_deref(), ManifestV1::MAX_BYTES as u64).await?;
        let stored = match StoredManifest::parse(key.clone(), head.version_id, &bytes) {
            Ok(stored) => stored,
            Err(error) => return Ok(Some(Err((Failure::Damaged, format!("{key}: {error}"))))),
        };
        let asked_for = record.asked.as_ref().map(|asked| asked.request_sha256);
        if stored.manifest.backup_id != record.backup_id || asked_for != Some(stored.manifest.request_sha256) {
            let found = format!("{key} was made for the request {}, not for this one", stored.manifest.request_sha256);
            return Ok(Some(Err((Failure::Document, found))));
        }
        if let Some(problem) = self.problem_of(&stored).await? {
            return Ok(Some(Err((Failure::Damaged, problem))));
        }
        Ok(Some(Ok((stored, String::from_utf8_lossy(&bytes).into_owned()))))
    }

    /// The first of its objects that S3 does not have as the manifest records it: size, checksum, version.
    async fn problem_of(&self, stored: &StoredManifest) -> Result<Option<String>, FunctionError> {
        let alone = Catalog::of_committed(stored.manifest.cluster.clone(), [stored.clone()]);
        let heads = head_objects(&self.bucket, objects_of(&alone)).await?;
        let audit = audit_catalog(alone, Some(&heads));
        let unproven = (audit.without_checksum > 0).then(|| format!("S3 keeps no CRC-64/NVME of {} objects", audit.without_checksum));
        Ok(audit.findings.into_iter().find(|f| f.problem.is_broken()).map(|f| f.to_string()).or(unproven))
    }

    /// The backup has ended: does what follows, once more if that was broken off. `new` is what was committed just now.
    async fn settled(&self, record: BackupRecord, new: Option<StoredManifest>) -> Result<Answer, FunctionError> {
        let backup_id = record.backup_id.clone();
        if record.open.is_some() {
            self.follow.up(&record, new.as_ref()).await?;
            self.catalog.close(&record).await?;
        }
        Ok(match record.state {
            State::Committed(_) => Answer::Committed { backup_id },
            State::Failed { failure, message, .. } => Answer::Failed { backup_id, failure, message },
            State::Requested | State::Running { .. } => Answer::Running { backup_id, reason: "it was begun again".to_owned() },
            State::Pruning(_) => Answer::Ignored { reason: format!("{backup_id} is being deleted by retention") },
        })
    }
}
