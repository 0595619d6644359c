//! `backup#<id>`: one backup from its request to its end, and the points by which its restore point is found.
//!
//! A record is made together with the lease, before anything happens on the host; it ends together with the lease. `open`
//! stays until what follows the end (locks, a drill, a message) is done too, so that `reconcile` finds what was left.

use super::head::{Head, LastFailure};
use super::lease::{change, release};
use super::{ATTEMPTS, CatalogError, CatalogTable, Window};
use crate::table::{Key, Range, Record, TableError, Write};
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::chain::Admitted;
use highwater_core::lease::Lease;
use highwater_core::schedule::{Force, Owed};
use highwater_core::{BackupId, ClusterId, Failure, HostId, Incarnation, Lsn, Sha256};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long the record of a failed backup stays.
const FAILED_STAYS: SignedDuration = SignedDuration::from_hours(90 * 24);

/// How long an event's key is remembered: longer than anything delivers an event again.
const ONCE_STAYS: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The most characters kept of a failure's message.
const MESSAGE_CHARS: usize = 2000;

/// One backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// `highwater.catalog.backup.v1`.
    pub format: String,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub backup_id: BackupId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// What an incremental continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<BackupId>,
    /// How it was asked for; `None` for one that a rebuild found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Where it is.
    #[serde(flatten)]
    pub state: State,
    /// `backup` until its end, and what follows it, is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<String>,
    /// When DynamoDB may remove it, seconds: failed ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<i64>,
}

/// How a backup was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The fencing token of its lease.
    pub token: u64,
    /// The host that its command goes to.
    pub host: HostId,
    /// When.
    pub at: Timestamp,
    /// When its lease may be taken by another operation.
    pub lease_expires_at: Timestamp,
    /// What somebody insisted on.
    pub force: Force,
    /// Why it is what it is, in words.
    pub reason: String,
    /// The request's key.
    pub request_key: String,
    /// The request's digest.
    pub request_sha256: Sha256,
    /// The request's text: a retry stores the very same bytes.
    pub request: String,
}

/// Where a backup is. Each state holds only what exists then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// The intent is written; a command may or may not have been sent.
    Requested,
    /// A command was sent.
    Running {
        /// SSM's id of it.
        command_id: String,
        /// When.
        sent_at: Timestamp,
    },
    /// It is a restore point.
    Committed(Box<Committed>),
    /// It ended without becoming one.
    Failed {
        /// The class.
        failure: Failure,
        /// What happened.
        message: String,
        /// When it was known.
        failed_at: Timestamp,
    },
    /// Retention deletes it: no restore point any more, its objects may be gone.
    Pruning(Box<Committed>),
}

/// A committed backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// The full that its chain begins with.
    pub full: BackupId,
    /// The restore point's time, by the host's clock.
    pub finished_at: Timestamp,
    /// The restore point.
    pub last_lsn: Lsn,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// The manifest's key.
    pub manifest_key: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_version_id: Option<String>,
    /// Its digest.
    pub manifest_sha256: Sha256,
    /// Its text.
    pub manifest: String,
}

/// The item of a restore point by LSN or by time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Point {
    format: String,
    pub(crate) backup_id: BackupId,
}

impl Point {
    /// The record's format.
    pub(crate) const FORMAT: &'static str = "highwater.catalog.point.v1";
}

/// What an event that may come twice has begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Once {
    format: String,
    backup_id: BackupId,
    ttl: i64,
}

impl State {
    /// The state's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Running { .. } => "running",
            Self::Committed(_) => "committed",
            Self::Failed { .. } => "failed",
            Self::Pruning(_) => "pruning",
        }
    }

    /// Whether its end is not known yet.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Requested | Self::Running { .. })
    }
}

impl Committed {
    /// A manifest that `catalog` has admitted, and its exact text.
    ///
    /// # Errors
    /// `Refused` when its chain does not lead to a full.
    pub fn of(catalog: &Catalog, stored: &StoredManifest, text: String, committed_at: Timestamp) -> Result<Self, CatalogError> {
        let refused = |broken: highwater_core::chain::BrokenLink| CatalogError::Refused { backup: broken.backup, refusal: broken.refusal };
        let path = catalog.path_to(stored.id()).map_err(refused)?;
        let m = &stored.manifest;
        Ok(Self {
            full: path.first().map_or_else(|| stored.id().clone(), |full| full.id().clone()),
            finished_at: m.finished_at,
            last_lsn: m.last_lsn,
            stored_bytes: m.stored_bytes,
            committed_at,
            manifest_key: stored.key.clone(),
            manifest_version_id: stored.version_id.clone(),
            manifest_sha256: stored.sha256,
            manifest: text,
        })
    }

    /// The manifest again.
    ///
    /// # Errors
    /// `Unreadable` when the text is not the one whose digest is beside it, or the key is another's.
    pub fn stored(&self, key: &Key) -> Result<StoredManifest, TableError> {
        let parsed = StoredManifest::parse(self.manifest_key.clone(), self.manifest_version_id.clone(), self.manifest.as_bytes());
        let stored = parsed.map_err(|e| key.unreadable(e))?;
        if stored.sha256 != self.manifest_sha256 {
            return Err(key.unreadable(format!("its manifest has SHA-256 {}, recorded is {}", stored.sha256, self.manifest_sha256)));
        }
        if stored.key != stored.manifest.key() {
            return Err(key.unreadable(format!("its manifest belongs at {}, recorded is {}", stored.manifest.key(), stored.key)));
        }
        Ok(stored)
    }
}

impl Record for BackupRecord {
    const FORMAT: &'static str = "highwater.catalog.backup.v1";

    fn place(&self) -> Key {
        Self::key(&self.cluster, &self.backup_id)
    }

    fn name(&self) -> String {
        format!("backup {} of {}", self.backup_id, self.cluster)
    }
}

impl BackupRecord {
    /// The value of `open`.
    pub const OPEN: &'static str = "backup";

    /// The record of a backup that is asked for.
    pub fn requested(cluster: ClusterId, backup_id: BackupId, incarnation: Incarnation, parent: Option<BackupId>, asked: Asked) -> Self {
        Self {
            format: Self::FORMAT.to_owned(),
            cluster,
            backup_id,
            incarnation,
            parent,
            asked: Some(asked),
            state: State::Requested,
            open: Some(Self::OPEN.to_owned()),
            ttl: None,
        }
    }

    /// The record of a backup that is known by its manifest alone (I1).
    pub fn rebuilt(stored: &StoredManifest, committed: Committed) -> Self {
        let m = &stored.manifest;
        Self {
            format: Self::FORMAT.to_owned(),
            cluster: m.cluster.clone(),
            backup_id: m.backup_id.clone(),
            incarnation: m.incarnation.clone(),
            parent: m.parent.as_ref().map(|link| link.backup_id.clone()),
            asked: None,
            state: State::Committed(Box::new(committed)),
            open: None,
            ttl: None,
        }
    }

    /// Its key.
    pub fn key(cluster: &ClusterId, id: &BackupId) -> Key {
        Key::of(cluster, format!("backup#{id}"))
    }

    /// The token of its lease; zero for one that was rebuilt.
    pub fn token(&self) -> u64 {
        self.asked.as_ref().map_or(0, |asked| asked.token)
    }

    /// Its manifest, if it is a restore point.
    ///
    /// # Errors
    /// As [`Committed::stored`].
    pub fn stored(&self) -> Result<Option<StoredManifest>, TableError> {
        match &self.state {
            State::Committed(committed) => committed.stored(&Self::key(&self.cluster, &self.backup_id)).map(Some),
            _ => Ok(None),
        }
    }

    /// Puts the record, if it is still in the state, and under the token, that `self` was read in.
    fn replace_by(&self, next: &Self) -> Result<Write, TableError> {
        let put = Write::put(Self::key(&self.cluster, &self.backup_id), next)?;
        put.only_if("#state = :state AND #asked.#token = :token").value(":state", self.state.name())?.value(":token", self.token())
    }
}

/// The keys under which a committed backup's restore point is found: by LSN and by time. Written with the commit, removed
/// with the record.
pub fn point_keys(stored: &StoredManifest) -> [Key; 2] {
    let (m, time) = (&stored.manifest, point_time(stored.manifest.finished_at));
    let lsn = format!("{}{}#{time}#{}", lsn_prefix(&m.incarnation), point_lsn(m.last_lsn), m.backup_id);
    [Key::of(&m.cluster, lsn), Key::of(&m.cluster, format!("time#{time}#{}", m.backup_id))]
}

pub(crate) fn lsn_prefix(incarnation: &Incarnation) -> String {
    format!("lsn#{incarnation}#")
}

/// As text that sorts: 20 digits hold every LSN.
pub(crate) fn point_lsn(lsn: Lsn) -> String {
    format!("{:020}", lsn.get())
}

/// As text that sorts.
pub(crate) fn point_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// The writes of a restore point's keys.
///
/// # Errors
/// `Unreadable`.
pub fn put_points(stored: &StoredManifest) -> Result<Vec<Write>, TableError> {
    let point = Point { format: Point::FORMAT.to_owned(), backup_id: stored.id().clone() };
    point_keys(stored).into_iter().map(|key| Write::put(key, &point)).collect()
}

fn once_key(cluster: &ClusterId, once: &str) -> Key {
    Key::of(cluster, format!("once#{once}"))
}

impl CatalogTable {
    /// One backup's record.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn backup(&self, cluster: &ClusterId, id: &BackupId) -> Result<Option<BackupRecord>, CatalogError> {
        Ok(self.table.record(&BackupRecord::key(cluster, id)).await?)
    }

    /// The newest backups, whatever became of them, the newest first.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn recent_backups(&self, cluster: &ClusterId, limit: usize) -> Result<Vec<BackupRecord>, CatalogError> {
        Ok(self.table.records(Range::prefixed(cluster, "backup#").last(limit)).await?)
    }

    async fn known(&self, cluster: &ClusterId, id: &BackupId) -> Result<BackupRecord, CatalogError> {
        let unknown = || CatalogError::Unknown { what: format!("backup {id}"), cluster: cluster.clone() };
        self.backup(cluster, id).await?.ok_or_else(unknown)
    }

    /// The backup that the event of this key has begun.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn begun_once(&self, cluster: &ClusterId, once: &str) -> Result<Option<BackupId>, CatalogError> {
        let record: Option<Once> = self.table.get(&once_key(cluster, once)).await?;
        Ok(record.map(|once| once.backup_id))
    }

    /// Writes the intent of a backup: its record, the lease as `taken`, what was insisted on, and the event's key; all or
    /// nothing, and only if the catalog and the lease are as they were read.
    ///
    /// # Errors
    /// `Contended`: read, decide and try again. Those of the table.
    pub async fn begin_backup(
        &self,
        window: &Window,
        (read, taken): (&Lease, &Lease),
        record: &BackupRecord,
        once: Option<&str>,
    ) -> Result<(), CatalogError> {
        let (cluster, id) = (&record.cluster, &record.backup_id);
        let force = record.asked.as_ref().map(|asked| asked.force).unwrap_or_default();
        let is_owed = window.head.owed.as_ref().is_some_and(|owed| owed.force >= force);
        let head = if force == Force::Nothing || is_owed {
            window.head.unchanged(cluster)?
        } else {
            Head { owed: Some(Owed { force, why: "it was asked for".to_owned() }), ..window.head.clone() }.put(cluster)?
        };
        let mut writes = vec![change(cluster, read, taken)?, head, Write::create(BackupRecord::key(cluster, id), record)?];
        if let Some(once) = once {
            let at = record.asked.as_ref().map_or(Timestamp::UNIX_EPOCH, |asked| asked.at);
            let ttl = at.saturating_add(ONCE_STAYS).unwrap_or(Timestamp::MAX).as_second();
            let item = Once { format: "highwater.catalog.once.v1".to_owned(), backup_id: id.clone(), ttl };
            writes.push(Write::create(once_key(cluster, once), &item)?);
        }
        match self.table.write(writes).await {
            Err(TableError::Condition { .. }) => Err(CatalogError::Contended { cluster: cluster.clone(), doing: "a backup was begun" }),
            done => Ok(done?),
        }
    }

    /// Records the command of a requested backup. Gives the record as it is then: of two callers, the first one's command.
    ///
    /// # Errors
    /// `Unknown`; those of the table.
    pub async fn sent(&self, record: &BackupRecord, command_id: &str, now: Timestamp) -> Result<BackupRecord, CatalogError> {
        let running = BackupRecord { state: State::Running { command_id: command_id.to_owned(), sent_at: now }, ..record.clone() };
        match self.table.write(vec![record.replace_by(&running)?]).await {
            Ok(()) => Ok(running),
            Err(TableError::Condition { .. }) => self.known(&record.cluster, &record.backup_id).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Commits a backup whose manifest was read from its place, in one transaction: the record, its points, the head, and
    /// the lease's release. `text` is the manifest's. The same manifest a second time is success (I4).
    ///
    /// # Errors
    /// `Refused` (I2), `LeaseLost` (I3), `Ended` (it had failed before), `Unknown`, `Contended`; those of the table.
    pub async fn commit(&self, stored: &StoredManifest, text: &str, now: Timestamp) -> Result<Admitted, CatalogError> {
        let (cluster, id) = (&stored.manifest.cluster, stored.id());
        for _ in 0..ATTEMPTS {
            let record = self.known(cluster, id).await?;
            match &record.state {
                State::Committed(committed) if committed.manifest_sha256 == stored.sha256 => return Ok(Admitted::AlreadyCommitted),
                state if !state.is_unfinished() => return Err(ended(&record)),
                _ => {}
            }
            if let Err(lost) = self.ensure_held(cluster, id.to_string().as_str(), record.token()).await {
                // Another call of this operation may have committed it, and so released the lease, since the record was read.
                match self.known(cluster, id).await?.state {
                    State::Committed(committed) if committed.manifest_sha256 == stored.sha256 => return Ok(Admitted::AlreadyCommitted),
                    _ => return Err(lost),
                }
            }
            let Window { head, mut catalog } = self.window_to_admit(stored).await?;
            let newest = catalog.newest().cloned();
            catalog.commit(stored.clone()).map_err(|refusal| CatalogError::Refused { backup: id.clone(), refusal })?;
            let owed = head.owed.clone().filter(|owed| !owed.is_settled_by(stored, newest.as_ref()));
            let committed = Committed::of(&catalog, stored, text.to_owned(), now)?;
            let next = BackupRecord { state: State::Committed(Box::new(committed)), ..record.clone() };
            let mut writes = vec![
                record.replace_by(&next)?,
                Head { owed, ..head }.of_backups(&catalog).put(cluster)?,
                release(cluster, &id.to_string(), record.token())?,
            ];
            writes.extend(put_points(stored)?);
            match self.table.write(writes).await {
                Ok(()) => return Ok(Admitted::New),
                Err(TableError::Condition { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Contended { cluster: cluster.clone(), doing: "a backup was committed" })
    }

    /// Records that a backup failed, and releases its lease if it still has it. What the next backup owes goes into the head.
    ///
    /// # Errors
    /// `Ended` (it had ended before), `Unknown`, `Contended`; those of the table.
    pub async fn fail(
        &self,
        cluster: &ClusterId,
        id: &BackupId,
        (failure, message): (Failure, &str),
        now: Timestamp,
    ) -> Result<BackupRecord, CatalogError> {
        let message: String = message.chars().take(MESSAGE_CHARS).collect();
        for _ in 0..ATTEMPTS {
            let record = self.known(cluster, id).await?;
            if !record.state.is_unfinished() {
                return Err(ended(&record));
            }
            let (head, lease) = (self.head(cluster).await?, self.lease(cluster).await?);
            let owed = match lease.token > record.token() && self.was_overtaken(&record, &head).await? {
                true => head.owed.clone(),
                false => Some(Owed::after(head.owed.as_ref(), failure)),
            };
            let last_failure = Some(LastFailure { backup_id: id.clone(), failure, message: message.clone(), at: now });
            let failed = BackupRecord {
                state: State::Failed { failure, message: message.clone(), failed_at: now },
                ttl: Some(now.saturating_add(FAILED_STAYS).unwrap_or(Timestamp::MAX).as_second()),
                ..record.clone()
            };
            let mut writes = vec![record.replace_by(&failed)?, Head { owed, last_failure, ..head }.put(cluster)?];
            if lease.is_held_by(&id.to_string(), record.token()) {
                writes.push(release(cluster, &id.to_string(), record.token())?);
            }
            match self.table.write(writes).await {
                Ok(()) => return Ok(failed),
                Err(TableError::Condition { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Contended { cluster: cluster.clone(), doing: "a failure was recorded" })
    }

    /// Whether a backup that was begun later is committed: it owes nothing to this one's failure.
    async fn was_overtaken(&self, record: &BackupRecord, head: &Head) -> Result<bool, CatalogError> {
        let Some(newest) = &head.newest else {
            return Ok(false);
        };
        let newest = self.backup(&record.cluster, &newest.backup_id).await?;
        Ok(newest.is_some_and(|newest| newest.token() > record.token()))
    }

    /// What followed the end of a backup is done: nobody needs to look at it again.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn close(&self, record: &BackupRecord) -> Result<(), CatalogError> {
        let write = Write::update(BackupRecord::key(&record.cluster, &record.backup_id), "REMOVE #open")
            .only_if("#state = :state")
            .value(":state", record.state.name())?;
        match self.table.write(vec![write]).await {
            Ok(()) | Err(TableError::Condition { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Backups that are not closed. From the index, which lags: read a record itself before acting on it.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn open_backups(&self) -> Result<Vec<Result<BackupRecord, TableError>>, TableError> {
        self.table.open(BackupRecord::OPEN).await
    }
}

fn ended(record: &BackupRecord) -> CatalogError {
    CatalogError::Ended { what: format!("backup {}", record.backup_id), cluster: record.cluster.clone(), state: record.state.name() }
}
