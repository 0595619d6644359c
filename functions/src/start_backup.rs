//! `start-backup`: takes the cluster's lease, decides full or incremental, writes the request, sends the command.
//!
//! What a crash leaves: nothing; or a record in state `requested` under a lease, and perhaps a command that the record does
//! not name. The next call finds either and goes on (I4): the request's bytes are in the record, and a command is looked
//! for by its comment before another is sent. A second command for one backup would be harmless: the helper is idempotent.

use crate::error::{FunctionError, Name};
use crate::primary::Primaries;
use crate::serve::{Common, variable};
use highwater_aws::call::CallErrorKind;
use highwater_aws::catalog::backups::{Asked, BackupRecord, State};
use highwater_aws::catalog::{CatalogError, CatalogTable, Window};
use highwater_aws::s3::Bucket;
use highwater_aws::ssm::{Command, Ssm, comment};
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::ids::cluster_prefix;
use highwater_core::lease::{Holder, Lease, LeaseHeld, Purpose};
use highwater_core::rto::Measured;
use highwater_core::schedule::{Decision, Force, NextFacts, next_backup};
use highwater_core::{BackupId, BackupKind, ClusterId, Document, Failure, HostId, Sha256};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// What the event must look like, for error messages.
pub const FORM: &str = r#"expected {"cluster": "orders"}, with "force": "full" or "new-incarnation" at will, and "once": a text that every delivery of one event shares"#;

/// How long a command waits for its host: after that the next turn tries again.
const DELIVER_WITHIN: Duration = Duration::from_secs(3600);

/// What a lease outlives its command by: time for the end to be noticed.
const MARGIN: SignedDuration = SignedDuration::from_mins(30);

/// The longest key of an event.
const ONCE_BYTES: usize = 300;

/// How often a decision is made again because the catalog changed under it.
const ATTEMPTS: usize = 5;

/// The event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The cluster.
    pub cluster: ClusterId,
    /// What somebody insists on.
    #[serde(default)]
    pub force: Force,
    /// The same for every delivery of one event: it begins one backup.
    #[serde(default)]
    pub once: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Answer {
    /// A command was sent.
    Started {
        /// The backup.
        backup_id: BackupId,
        /// Its kind.
        kind: BackupKind,
        /// Why.
        reason: String,
    },
    /// A backup runs, and nothing more was asked for.
    Running {
        /// Which.
        backup_id: BackupId,
    },
    /// A promotion has the cluster: the next turn will come.
    Waits {
        /// The promotion.
        promotion: String,
    },
    /// This event was handled before.
    Already {
        /// The backup that it began.
        backup_id: BackupId,
        /// What became of that.
        state: &'static str,
    },
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct StartBackup {
    clusters: String,
    document: String,
    catalog: CatalogTable,
    bucket: Bucket,
    ssm: Ssm,
    primaries: Primaries,
}

/// Reads an event.
///
/// # Errors
/// `BadInput`, with the accepted form.
pub fn parse(event: Value) -> Result<Event, FunctionError> {
    let event: Event = serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, FORM))?;
    match &event.once {
        Some(once) if once.is_empty() || once.len() > ONCE_BYTES => {
            Err(FunctionError::bad_input(format!("\"once\" has {} bytes, not 1 to {ONCE_BYTES}", once.len()), FORM))
        }
        _ => Ok(event),
    }
}

impl StartBackup {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        Ok(Self {
            document: variable("HIGHWATER_BACKUP_DOCUMENT")?,
            primaries: Primaries::new(&common),
            clusters: common.clusters,
            catalog: CatalogTable::new(common.table),
            bucket: common.bucket,
            ssm: Ssm::new(&common.sdk),
        })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `BadInput`; `LeaseHeld` when something was insisted on and another operation has the cluster; `Permanent` for a cluster
    /// that is not configured and for a host that takes no command; `Transient`.
    pub async fn handle(&self, event: Value) -> Result<Answer, FunctionError> {
        let event = parse(event)?;
        let config = self.ssm.cluster(&self.clusters, &event.cluster).await?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match self.turn(&event, &config).await {
                Err(Failed::Catalog(contended @ CatalogError::Contended { .. })) => last = Some(contended),
                Err(Failed::Catalog(error)) => return Err(error.into()),
                Err(Failed::Function(error)) => return Err(error),
                Ok(answer) => return Ok(answer),
            }
        }
        Err(last.map_or_else(|| FunctionError::new(Name::Transient, "nothing was tried"), Into::into))
    }

    /// One try, from reading to the answer. `Contended` when the catalog changed in between.
    async fn turn(&self, event: &Event, config: &ClusterConfigV1) -> Result<Answer, Failed> {
        let cluster = &event.cluster;
        if let Some(once) = &event.once
            && let Some(backup_id) = self.catalog.begun_once(cluster, once).await?
        {
            return match self.catalog.backup(cluster, &backup_id).await? {
                Some(record) if record.state == State::Requested => self.send(record, config, Sent::Perhaps).await,
                Some(record) => Ok(Answer::Already { backup_id, state: record.state.name() }),
                None => Ok(Answer::Already { backup_id, state: "gone" }),
            };
        }
        let (now, lease) = (Timestamp::now(), self.catalog.lease(cluster).await?);
        match &lease.holder {
            Some(holder) if holder.expires_at > now => self.held(event, config, holder).await,
            Some(holder) => {
                self.give_up(cluster, holder, now).await?;
                self.begin(event, config, &self.catalog.lease(cluster).await?, now).await
            }
            None => self.begin(event, config, &lease, now).await,
        }
    }

    /// Another operation has the cluster.
    async fn held(&self, event: &Event, config: &ClusterConfigV1, holder: &Holder) -> Result<Answer, Failed> {
        let refused = || Failed::Catalog(LeaseHeld(holder.clone()).into());
        if holder.purpose == Purpose::Promotion {
            return match event.force {
                Force::Nothing => Ok(Answer::Waits { promotion: holder.operation.clone() }),
                _ => Err(refused()),
            };
        }
        let Ok(backup_id) = holder.operation.parse::<BackupId>() else {
            return Err(refused());
        };
        let Some(record) = self.catalog.backup(&event.cluster, &backup_id).await? else {
            return Err(refused());
        };
        // What runs is what was insisted on, if it was insisted on then too: a retry meets its own earlier work.
        if record.asked.as_ref().is_none_or(|asked| asked.force < event.force) {
            return Err(refused());
        }
        match record.state {
            State::Requested => self.send(record, config, Sent::Perhaps).await,
            _ => Ok(Answer::Running { backup_id }),
        }
    }

    /// The lease's time is over, and nobody heard of its backup: the next one does not wait for it, and is a full.
    async fn give_up(&self, cluster: &ClusterId, holder: &Holder, now: Timestamp) -> Result<(), Failed> {
        let (Purpose::Backup, Ok(backup_id)) = (holder.purpose, holder.operation.parse::<BackupId>()) else {
            return Ok(());
        };
        tracing::warn!(%cluster, %backup_id, "its lease expired before its end was known: it has failed");
        let why = (Failure::Interrupted, "its lease expired before its end was known");
        match self.catalog.fail(cluster, &backup_id, why, now).await {
            Ok(_) | Err(CatalogError::Ended { .. } | CatalogError::Unknown { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Decides, and writes the intent.
    async fn begin(&self, event: &Event, config: &ClusterConfigV1, lease: &Lease, now: Timestamp) -> Result<Answer, Failed> {
        let host = self.primaries.of(config).await?;
        let (cluster, window) = (&event.cluster, self.catalog.window(&event.cluster).await?);
        let measured = self.measured(config).await?;
        let (owed, force) = (window.head.owed.as_ref(), event.force);
        let facts = NextFacts { now, nonce: nonce(), source: None, tool: None, owed, force, measured: &measured };
        let decision = next_backup(&window.catalog, config.policy(), facts);
        let (taken, record) = self.intent(&window, lease, &decision, (event.force, host), config, now)?;
        self.catalog.begin_backup(&window, (lease, &taken), &record, event.once.as_deref()).await?;
        tracing::info!(%cluster, backup_id = %decision.backup_id, token = taken.token, "begun: {}", decision.reason);
        self.send(record, config, Sent::NotYet).await
    }

    /// What drills measured, where a target makes it matter.
    async fn measured(&self, config: &ClusterConfigV1) -> Result<Vec<Measured>, CatalogError> {
        match config.rto_minutes {
            Some(_) => self.catalog.measured(&config.cluster).await,
            None => Ok(Vec::new()),
        }
    }

    /// The record of a decision, and the lease it needs.
    fn intent(
        &self,
        window: &Window,
        lease: &Lease,
        decision: &Decision,
        (force, host): (Force, HostId),
        config: &ClusterConfigV1,
        now: Timestamp,
    ) -> Result<(Lease, BackupRecord), CatalogError> {
        let deliver_within = SignedDuration::try_from(DELIVER_WITHIN).unwrap_or_default();
        let at_most = deliver_within + SignedDuration::from_hours(config.backup.timeout_hours.into()) + MARGIN;
        let expires_at = now.saturating_add(at_most).unwrap_or(Timestamp::MAX);
        let holder = Holder { operation: decision.backup_id.to_string(), purpose: Purpose::Backup, expires_at };
        let taken = lease.take(holder, now)?;
        let request = decision.request(&window.catalog, self.bucket.name(), now, deliver_within).to_bytes();
        let asked = Asked {
            token: taken.token,
            host,
            at: now,
            lease_expires_at: expires_at,
            force,
            reason: decision.reason.to_string(),
            request_key: format!("{}requests/{}.json", cluster_prefix(&config.cluster), decision.backup_id),
            request_sha256: Sha256::of(&request),
            request: String::from_utf8_lossy(&request).into_owned(),
        };
        let parent = decision.parent.as_ref().map(|parent| parent.link.backup_id.clone());
        let (id, incarnation) = (decision.backup_id.clone(), decision.incarnation.clone());
        Ok((taken, BackupRecord::requested(config.cluster.clone(), id, incarnation, parent, asked)))
    }

    /// Stores the request and sends the command. Twice is as good as once.
    async fn send(&self, record: BackupRecord, config: &ClusterConfigV1, sent: Sent) -> Result<Answer, Failed> {
        let (cluster, backup_id) = (&record.cluster, &record.backup_id);
        let Some(asked) = &record.asked else {
            return Err(FunctionError::of(Failure::Damaged, format!("the record of {backup_id} names no request")).into());
        };
        let bytes = asked.request.clone().into_bytes().into();
        self.bucket.put_new(&asked.request_key, bytes, "application/json").await.map_err(FunctionError::from)?;
        let earlier = match sent {
            Sent::NotYet => None,
            Sent::Perhaps => self.find_command(&record, asked).await?,
        };
        let command_id = match earlier {
            Some(command_id) => command_id,
            None => self.send_command(&record, asked, config).await?,
        };
        let running = self.catalog.sent(&record, &command_id, Timestamp::now()).await?;
        tracing::info!(%cluster, %backup_id, command_id, state = running.state.name(), "sent");
        Ok(Answer::Started { backup_id: backup_id.clone(), kind: backup_id.kind(), reason: asked.reason.clone() })
    }

    /// A command for this backup that a lost reply hid.
    async fn find_command(&self, record: &BackupRecord, asked: &Asked) -> Result<Option<String>, Failed> {
        let comment = comment(&record.cluster, &record.backup_id.to_string());
        let found = self.ssm.commands_of(&comment, &asked.host, asked.at).await.map_err(FunctionError::from)?;
        Ok(found.into_iter().next())
    }

    async fn send_command(&self, record: &BackupRecord, asked: &Asked, config: &ClusterConfigV1) -> Result<String, Failed> {
        let execution_seconds = u64::from(config.backup.timeout_hours) * 3600;
        let command = Command {
            document: &self.document,
            host: &asked.host,
            comment: comment(&record.cluster, &record.backup_id.to_string()),
            parameters: vec![
                ("requestUri", format!("s3://{}/{}", self.bucket.name(), asked.request_key)),
                ("requestSha256", asked.request_sha256.to_string()),
                ("executionTimeout", execution_seconds.to_string()),
            ],
            deliver_within: DELIVER_WITHIN,
        };
        match self.ssm.send(&command).await {
            Ok(command_id) => Ok(command_id),
            Err(error) if error.kind == CallErrorKind::Unavailable => match self.find_command(record, asked).await? {
                Some(command_id) => Ok(command_id),
                None => Err(FunctionError::from(error).into()),
            },
            Err(error) => {
                // The service refused it, so nothing runs; finish-backup tells people.
                let why = format!("the command was not sent to {}: {error}", asked.host);
                let failed = (error.kind.failure(), why.as_str());
                self.catalog.fail(&record.cluster, &record.backup_id, failed, Timestamp::now()).await?;
                Err(FunctionError::of(error.kind.failure(), why).into())
            }
        }
    }
}

/// Whether a command may have been sent for a record.
enum Sent {
    NotYet,
    Perhaps,
}

/// What ended a turn: only a refusal of the catalog's may be worth another one.
#[derive(Debug)]
enum Failed {
    Catalog(CatalogError),
    Function(FunctionError),
}

impl From<CatalogError> for Failed {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
    }
}

impl From<FunctionError> for Failed {
    fn from(error: FunctionError) -> Self {
        Self::Function(error)
    }
}

/// Keeps two askers of one second apart; nothing rests on its being secret.
fn nonce() -> u16 {
    (RandomState::new().build_hasher().finish() & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_cluster_and_at_will_a_force() {
        let read = |event: Value| parse(event).map(|e| (e.cluster.to_string(), e.force, e.once));
        assert_eq!(read(json!({"cluster": "orders"})).unwrap(), ("orders".to_owned(), Force::Nothing, None));
        assert_eq!(read(json!({"cluster": "orders", "force": "full"})).unwrap().1, Force::Full);
        let forced = read(json!({"cluster": "orders", "force": "new-incarnation", "once": "e"})).unwrap();
        assert_eq!((forced.1, forced.2.as_deref()), (Force::NewIncarnation, Some("e")));
        for bad in [
            json!(null),
            json!({}),
            json!({"cluster": "Orders"}),
            json!({"cluster": "orders", "force": "incremental"}),
            json!({"cluster": "orders", "froce": "full"}),
            json!({"cluster": "orders", "once": ""}),
        ] {
            let error = read(bad.clone()).unwrap_err();
            assert!(error.name == Name::BadInput && error.message.ends_with(FORM), "{bad}: {error}");
        }
    }
}
