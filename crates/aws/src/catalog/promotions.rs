//! `promotion#<id>`: one promotion from its intent to its end. It is made together with the lease and ends together with
//! it, but for a stuck one: its lease is kept until somebody has finished or undone it on the host.

use super::approvals::is_newest;
use super::head::Head;
use super::lease::{change, held, release};
use super::{ATTEMPTS, CatalogError, CatalogTable};
use crate::table::{Key, Range, Record, TableError, Write};
use highwater_core::consent::PromotionRequest;
use highwater_core::lease::{Holder, Lease, Purpose};
use highwater_core::outcome::Outcome;
use highwater_core::promotion::PromotionId;
use highwater_core::schedule::{Force, Owed};
use highwater_core::{BackupId, ClusterId, HostId, Pinned};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionRecord {
    /// `highwater.catalog.promotion.v1`.
    pub format: String,
    /// Its id: the request's.
    pub id: PromotionId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The host whose data is replaced.
    pub host: HostId,
    /// The restore point.
    pub backup_id: BackupId,
    /// The approval that the host is shown.
    pub approval: Pinned,
    /// The execution.
    pub execution: String,
    /// The token of the task that waits for the end.
    pub task_token: String,
    /// The fencing token of its lease.
    pub token: u64,
    /// When it was intended.
    pub begun_at: Timestamp,
    /// How long its lease is renewed for.
    pub lease_hours: u32,
    /// How far it is.
    #[serde(flatten)]
    pub state: State,
    /// `promotion` until it has ended and its task has the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<String>,
}

/// How far a promotion is. Each state holds only what exists then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
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
    /// A person must act on the host; the lease is kept.
    Stuck {
        /// What is known.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// It ended.
    Ended {
        /// How; never `stuck`.
        outcome: Outcome,
        /// In words.
        reason: String,
        /// When it was known.
        ended_at: Timestamp,
    },
    /// It had succeeded, and an operator brought the old data back.
    Reverted {
        /// When it was known.
        reverted_at: Timestamp,
    },
}

impl State {
    /// The state's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Running { .. } => "running",
            Self::Stuck { .. } => "stuck",
            Self::Ended { .. } => "ended",
            Self::Reverted { .. } => "reverted",
        }
    }

    /// Whether its end is not known yet.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Requested | Self::Running { .. } | Self::Stuck { .. })
    }

    /// How it ended, as far as that is known.
    pub fn outcome(&self) -> Option<(Outcome, &str)> {
        match self {
            Self::Ended { outcome, reason, .. } => Some((*outcome, reason)),
            Self::Stuck { reason, .. } => Some((Outcome::Stuck, reason)),
            Self::Reverted { .. } => Some((Outcome::RolledBack, "an operator brought the old data back")),
            Self::Requested | Self::Running { .. } => None,
        }
    }
}

impl Record for PromotionRecord {
    const FORMAT: &'static str = "highwater.catalog.promotion.v1";

    fn place(&self) -> Key {
        Self::key(&self.cluster, &self.id)
    }

    fn name(&self) -> String {
        format!("promotion {} of {}", self.id, self.cluster)
    }
}

impl PromotionRecord {
    /// The value of `open`.
    pub const OPEN: &'static str = "promotion";

    fn key(cluster: &ClusterId, id: &PromotionId) -> Key {
        Key::of(cluster, format!("promotion#{id}"))
    }

    /// The lease's holder that this promotion is.
    pub fn holder(&self, now: Timestamp) -> Holder {
        let expires_at = now.saturating_add(SignedDuration::from_hours(self.lease_hours.into())).unwrap_or(Timestamp::MAX);
        Holder { operation: self.id.to_string(), purpose: Purpose::Promotion, expires_at }
    }

    /// The promotion as whoever follows it sees it.
    pub(super) fn shown(&self) -> Value {
        let ended_at = match &self.state {
            State::Ended { ended_at, .. } => Some(ended_at),
            _ => None,
        };
        let (outcome, reason) = self.state.outcome().unzip();
        json!({
            "state": self.state.name(), "host": self.host, "backup_id": self.backup_id, "begun_at": self.begun_at, "ended_at": ended_at,
            "outcome": outcome, "reason": reason,
        })
    }

    /// Puts the record, if it is still in the state that `self` was read in.
    fn replace_by(&self, next: &Self) -> Result<Write, TableError> {
        Write::put(Self::key(&self.cluster, &self.id), next)?.only_if("#state = :state").value(":state", self.state.name())
    }
}

impl CatalogTable {
    /// One promotion.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn promotion(&self, cluster: &ClusterId, id: &PromotionId) -> Result<Option<PromotionRecord>, CatalogError> {
        Ok(self.table.record(&PromotionRecord::key(cluster, id)).await?)
    }

    /// Writes the intent of a promotion and takes the lease; all or nothing, and only while its request is the newest
    /// and the head is the one that was read. Gives the record; of two callers, the first one's.
    ///
    /// # Errors
    /// `LeaseHeld`, `Contended`: read and judge again. Those of the table.
    pub async fn begin_promotion(
        &self,
        record: PromotionRecord,
        request: &PromotionRequest,
        head: &Head,
        now: Timestamp,
    ) -> Result<PromotionRecord, CatalogError> {
        let cluster = record.cluster.clone();
        let read = self.lease(&cluster).await?;
        let taken = read.take(record.holder(now), now)?;
        let record = PromotionRecord { token: taken.token, ..record };
        let writes = vec![
            Write::create(PromotionRecord::key(&cluster, &record.id), &record)?,
            change(&cluster, &read, &taken)?,
            is_newest(request)?,
            head.unchanged(&cluster)?,
        ];
        match self.table.write(writes).await {
            Ok(()) => Ok(record),
            Err(TableError::Condition { .. }) => Err(CatalogError::Contended { cluster, doing: "a promotion was begun" }),
            Err(error) => Err(error.into()),
        }
    }

    /// A retry of the waiting task has another token: the answer goes to the newest.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn awaited_by(&self, record: &PromotionRecord, task_token: &str) -> Result<PromotionRecord, CatalogError> {
        if record.task_token == task_token {
            return Ok(record.clone());
        }
        self.change_promotion(record, &PromotionRecord { task_token: task_token.to_owned(), ..record.clone() }).await
    }

    /// Records the command. Of two callers, the first one's stays.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn promotion_sent(
        &self,
        record: &PromotionRecord,
        command_id: &str,
        now: Timestamp,
    ) -> Result<PromotionRecord, CatalogError> {
        let state = State::Running { command_id: command_id.to_owned(), sent_at: now };
        self.change_promotion(record, &PromotionRecord { state, ..record.clone() }).await
    }

    /// Writes `next` over the record as it was read; gives what is there then.
    async fn change_promotion(&self, read: &PromotionRecord, next: &PromotionRecord) -> Result<PromotionRecord, CatalogError> {
        match self.table.write(vec![read.replace_by(next)?]).await {
            Ok(()) => Ok(next.clone()),
            Err(TableError::Condition { .. }) => self.known_promotion(&read.cluster, &read.id).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn known_promotion(&self, cluster: &ClusterId, id: &PromotionId) -> Result<PromotionRecord, CatalogError> {
        let unknown = || CatalogError::Unknown { what: format!("promotion {id}"), cluster: cluster.clone() };
        self.promotion(cluster, id).await?.ok_or_else(unknown)
    }

    /// Records how a promotion ended, in one transaction with what follows: a promoted cluster owes a full in a new
    /// incarnation, and the lease is released. A stuck one keeps its lease. What has ended stays as it is (I4).
    ///
    /// # Errors
    /// `Unknown`, `Contended`; those of the table.
    pub async fn end_promotion(
        &self,
        cluster: &ClusterId,
        id: &PromotionId,
        (outcome, reason): (Outcome, &str),
        now: Timestamp,
    ) -> Result<PromotionRecord, CatalogError> {
        let reason: String = reason.chars().take(2000).collect();
        for _ in 0..ATTEMPTS {
            let record = self.known_promotion(cluster, id).await?;
            let stays = matches!((&record.state, outcome), (State::Stuck { .. }, Outcome::Stuck)) || !record.state.is_unfinished();
            if stays {
                return Ok(record);
            }
            let state = match outcome {
                Outcome::Stuck => State::Stuck { reason: reason.clone(), since: now },
                _ => State::Ended { outcome, reason: reason.clone(), ended_at: now },
            };
            let next = PromotionRecord { state, ..record.clone() };
            let mut writes = vec![record.replace_by(&next)?];
            if outcome == Outcome::Promoted {
                writes.push(self.owe_incarnation(cluster, format!("promotion {id} replaced the data")).await?);
            }
            if outcome != Outcome::Stuck && self.lease(cluster).await?.is_held_by(&id.to_string(), record.token) {
                writes.push(release(cluster, &id.to_string(), record.token)?);
            }
            match self.table.write(writes).await {
                Ok(()) => return Ok(next),
                Err(TableError::Condition { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Contended { cluster: cluster.clone(), doing: "a promotion's end was recorded" })
    }

    /// Records that an operator brought the old data back. The next backup is a full in a new incarnation: what was
    /// committed since the promotion is of data that no longer serves.
    ///
    /// # Errors
    /// `Unknown`, `Contended`; those of the table.
    pub async fn revert_promotion(&self, cluster: &ClusterId, id: &PromotionId, now: Timestamp) -> Result<PromotionRecord, CatalogError> {
        for _ in 0..ATTEMPTS {
            let record = self.known_promotion(cluster, id).await?;
            if matches!(record.state, State::Reverted { .. }) {
                return Ok(record);
            }
            let next = PromotionRecord { state: State::Reverted { reverted_at: now }, ..record.clone() };
            let owed = self.owe_incarnation(cluster, format!("promotion {id} was rolled back")).await?;
            let mut writes = vec![record.replace_by(&next)?, owed];
            if self.lease(cluster).await?.is_held_by(&id.to_string(), record.token) {
                writes.push(release(cluster, &id.to_string(), record.token)?);
            }
            match self.table.write(writes).await {
                Ok(()) => return Ok(next),
                Err(TableError::Condition { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Contended { cluster: cluster.clone(), doing: "a roll-back was recorded" })
    }

    async fn owe_incarnation(&self, cluster: &ClusterId, why: String) -> Result<Write, CatalogError> {
        let head = self.head(cluster).await?;
        Ok(Head { owed: Some(Owed { force: Force::NewIncarnation, why }), ..head }.put(cluster)?)
    }

    /// Renews the lease of a promotion that has not ended, if it still has it.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn keep_lease(&self, record: &PromotionRecord, now: Timestamp) -> Result<(), CatalogError> {
        let read = self.lease(&record.cluster).await?;
        if !read.is_held_by(&record.id.to_string(), record.token) {
            return Ok(());
        }
        let kept = Lease { token: read.token, holder: Some(record.holder(now)) };
        match self.table.write(vec![change(&record.cluster, &read, &kept)?]).await {
            Ok(()) | Err(TableError::Condition { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The promotion still has its lease, at this moment.
    ///
    /// # Errors
    /// `LeaseLost`; those of the table.
    pub async fn ensure_promotion_held(&self, record: &PromotionRecord) -> Result<(), CatalogError> {
        match self.table.write(vec![held(&record.cluster, &record.id.to_string(), record.token)?]).await {
            Ok(()) => Ok(()),
            Err(TableError::Condition { .. }) => self.ensure_held(&record.cluster, &record.id.to_string(), record.token).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The task has the answer: nobody needs to look at the promotion again, unless it is stuck.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn close_promotion(&self, record: &PromotionRecord) -> Result<(), CatalogError> {
        if record.state.is_unfinished() || record.open.is_none() {
            return Ok(());
        }
        let write = Write::update(PromotionRecord::key(&record.cluster, &record.id), "REMOVE #open");
        match self.table.write(vec![write.only_if("#state = :state").value(":state", record.state.name())?]).await {
            Ok(()) | Err(TableError::Condition { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The newest promotions, the newest first.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn recent_promotions(&self, cluster: &ClusterId, limit: usize) -> Result<Vec<PromotionRecord>, CatalogError> {
        Ok(self.table.records(Range::prefixed(cluster, "promotion#").last(limit)).await?)
    }

    /// Promotions that have not ended or whose task has no answer. From the index, which lags.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn open_promotions(&self) -> Result<Vec<Result<PromotionRecord, TableError>>, TableError> {
        self.table.open(PromotionRecord::OPEN).await
    }
}
