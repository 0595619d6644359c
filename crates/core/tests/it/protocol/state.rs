//! What the functions share: the table, the bucket, the host; and what only the model knows, to judge by.

use super::rules::{Rule, Rules};
use crate::support::*;
use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::lease::{Holder, Lease, Purpose};
use highwater_core::manifest::ManifestV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::schedule::{Force, Owed};
use highwater_core::{BackupId, Failure, Lsn, Sha256};
use jiff::SignedDuration;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

/// A document: told apart by its bytes' digest.
#[derive(Debug, Clone)]
pub(super) struct Doc<T>(pub(super) Rc<T>, pub(super) Sha256);

impl<T> Hash for Doc<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.1.hash(state);
    }
}

impl<T> Deref for Doc<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct State {
    pub(super) head: Head,
    pub(super) lease: Leased,
    /// `backup#…` items; an operation's number is its index.
    pub(super) items: Vec<Item>,
    /// What each operation published.
    pub(super) bucket: Vec<Option<Published>>,
    pub(super) commands: Vec<Command>,
    pub(super) server: Server,
    pub(super) host: Host,
    pub(super) promotion: Promotion,
    /// Its lease expired while it ran.
    pub(super) promotion_disturbed: bool,
    pub(super) functions: Vec<super::system::Function>,
    pub(super) clock: u8,
    pub(super) left: Left,
    /// The backup that the newest passed drill restored.
    pub(super) proven: Option<usize>,
    /// Since the last full a backup failed, or the data was exchanged.
    pub(super) owes: bool,
    /// The server was exchanged or rolled back, or a person rebuilt the catalog: backups may now be refused rightly.
    pub(super) upset: bool,
}

/// How often each thing may still happen: the bounds of the search.
#[derive(Debug, Clone, Copy, Hash, Default)]
pub(super) struct Left {
    /// Runs of start-backup.
    pub(super) starts: u8,
    /// Of these, forced to a full in a new incarnation.
    pub(super) forced: u8,
    /// Runs of finish-backup or reconcile.
    pub(super) finishes: u8,
    pub(super) expiries: u8,
    /// The helper is killed.
    pub(super) kills: u8,
    /// Commands that are sent or delivered once more.
    pub(super) doubles: u8,
    /// Runs of promote, of one execution.
    pub(super) promotes: u8,
    pub(super) prunes: u8,
    /// Somebody rebuilds the catalog from the manifests.
    pub(super) rebuilds: u8,
    pub(super) drills: u8,
    /// The volume comes back as it was after the first write.
    pub(super) roll_backs: u8,
    pub(super) upgrades: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Head {
    pub(super) version: u8,
    pub(super) window_from: Option<BackupId>,
    pub(super) owed: Force_,
}

/// [`Force`], which has no `Hash`.
pub(super) type Force_ = u8;

impl Head {
    pub(super) fn owed(&self) -> Option<Owed> {
        let force = match self.owed {
            0 => return None,
            1 => Force::Full,
            _ => Force::NewIncarnation,
        };
        Some(Owed { force, why: String::new() })
    }

    pub(super) fn owe(&mut self, owed: Option<&Owed>) {
        self.owed = match owed.map(|owed| owed.force) {
            None | Some(Force::Nothing) => 0,
            Some(Force::Full) => 1,
            Some(Force::NewIncarnation) => 2,
        };
    }
}

/// The lease, and whether its time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leased {
    pub(super) lease: Lease,
    pub(super) expired: bool,
}

impl Hash for Leased {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let expires_at = self.lease.holder.as_ref().map(|holder| holder.expires_at);
        (self.lease.token, self.expired, self.holder(), expires_at).hash(state);
    }
}

impl Leased {
    pub(super) fn holder(&self) -> Option<&str> {
        self.lease.holder.as_ref().map(|holder| holder.operation.as_str())
    }

    /// The lease as `operation` would have it.
    pub(super) fn taken_by(&self, operation: &str, rules: &Rules) -> Option<Self> {
        // Later than what was read, so that a renewal shows.
        let expires_at = self.lease.holder.as_ref().map_or(minute(100), |holder| holder.expires_at + SignedDuration::from_mins(1));
        let by = Holder { operation: operation.to_owned(), purpose: Purpose::Backup, expires_at };
        let now = if self.expired || !rules.on(Rule::OnlyFreeOrExpiredIsTaken) { minute(1000) } else { minute(0) };
        let mut lease = self.lease.take(by, now).ok()?;
        if !rules.on(Rule::TokenGrows) {
            lease.token = lease.token.min(1);
        }
        Some(Self { lease, expired: false })
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Item {
    pub(super) request: Doc<BackupRequestV1>,
    pub(super) token: u64,
    pub(super) phase: Phase,
    /// Its lease expired, or its helper was killed or found another one at work.
    pub(super) disturbed: bool,
}

impl Item {
    pub(super) fn id(&self) -> &BackupId {
        &self.request.backup_id
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Open,
    Committed,
    Failed,
    Pruning,
    Gone,
}

/// A manifest with its data, and the truth about it.
#[derive(Debug, Clone, Hash)]
pub(super) struct Published {
    pub(super) manifest: Doc<StoredManifest>,
    /// Everything the server held, a bit for each write.
    pub(super) held: u32,
    /// What is in the backup itself.
    pub(super) content: u32,
}

#[derive(Debug, Clone, Copy, Hash, Default)]
pub(super) struct Command {
    pub(super) on_the_way: u8,
    pub(super) ended: Option<Ended>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    Well,
    ChainBroken,
    Otherwise,
}

impl Ended {
    pub(super) fn failure(self) -> Option<Failure> {
        match self {
            Self::Well => None,
            Self::ChainBroken => Some(Failure::ChainBroken),
            Self::Otherwise => Some(Failure::Interrupted),
        }
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Server {
    pub(super) life: u8,
    pub(super) series: u8,
    pub(super) lsn: u8,
    /// Each write's LSN and number.
    pub(super) log: Vec<(u8, u8)>,
    writes: u8,
}

impl Server {
    pub(super) fn new() -> Self {
        Self { life: 0, series: 0, lsn: 1, log: vec![(1, 0)], writes: 1 }
    }

    pub(super) fn after(&self, lsn: u64) -> u32 {
        self.log.iter().filter(|(at, _)| u64::from(*at) > lsn).fold(0, |set, (_, write)| set | 1 << write)
    }

    pub(super) fn write(&mut self) {
        self.lsn += 1;
        self.log.push((self.lsn, self.writes));
        self.writes += 1;
    }

    /// As it was at an LSN.
    pub(super) fn back_to(&mut self, lsn: u8) {
        self.log.retain(|(at, _)| *at <= lsn);
        self.lsn = lsn;
    }

    pub(super) fn datadir(life: u8) -> String {
        format!("life-{life}")
    }
}

/// What runs on the host.
#[derive(Debug, Clone, Copy, Hash, Default)]
pub(super) struct Host {
    pub(super) backup: Option<Running>,
    pub(super) exchange: bool,
}

/// A helper that streams: the data directory was this when it looked.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Running {
    pub(super) op: usize,
    pub(super) life: u8,
    pub(super) started: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Promotion {
    No,
    /// The lease is held, the command sent: the data of this backup comes in.
    Sent {
        point: usize,
        token: u64,
    },
    Exchanged {
        token: u64,
    },
    Settled,
}

pub(super) const PROMOTION: &str = "promotion";

impl State {
    pub(super) fn new(left: Left) -> Self {
        Self {
            head: Head { version: 0, window_from: None, owed: 0 },
            lease: Leased { lease: Lease::default(), expired: false },
            items: Vec::new(),
            bucket: Vec::new(),
            commands: Vec::new(),
            server: Server::new(),
            host: Host::default(),
            promotion: Promotion::No,
            promotion_disturbed: false,
            functions: Vec::new(),
            clock: 1,
            left,
            proven: None,
            owes: false,
            upset: false,
        }
    }

    fn manifests(&self, ops: impl Iterator<Item = usize>) -> impl Iterator<Item = StoredManifest> {
        ops.filter_map(|op| self.bucket[op].as_ref()).map(|p| (*p.manifest).clone())
    }

    pub(super) fn committed(&self) -> impl Iterator<Item = usize> {
        (0..self.items.len()).filter(|op| self.items[*op].phase == Phase::Committed)
    }

    pub(super) fn catalog(&self, committed: impl Iterator<Item = usize>) -> Catalog {
        Catalog::of_committed(cluster(), self.manifests(committed))
    }

    /// All committed backups.
    pub(super) fn whole(&self) -> Catalog {
        self.catalog(self.committed())
    }

    /// What the bucket alone says.
    pub(super) fn rebuilt(&self) -> Catalog {
        let all = self.manifests(0..self.items.len());
        Catalog::rebuild(cluster(), all.map(|stored| Found::Manifest(Box::new(stored))))
    }

    pub(super) fn op(&self, id: &BackupId) -> Option<usize> {
        self.items.iter().position(|item| item.id() == id)
    }

    /// The truth of [`Self::holds`]: who took the lease last, and did not lose it.
    pub(super) fn owns(&self, op: usize) -> bool {
        self.holds(op, &Rules::default())
    }

    /// Whether an operation still has the lease under which it was requested.
    pub(super) fn holds(&self, op: usize, rules: &Rules) -> bool {
        let item = &self.items[op];
        let holder = if rules.on(Rule::HolderIsCompared) { Some(item.id().to_string()) } else { self.lease.holder().map(str::to_owned) };
        holder.is_some_and(|holder| self.lease.lease.is_held_by(&holder, item.token))
    }

    /// Puts what the helper wrote into the bucket.
    pub(super) fn publish(&mut self, running: Running, rules: &Rules) {
        let Running { op, life, started } = running;
        let request = self.items[op].request.clone();
        let from = request.parent.as_ref().map_or(Lsn::ZERO, |parent| parent.link.to_lsn);
        let to = Lsn::new(self.server.lsn.into());
        if from > to {
            self.commands[op].ended = Some(Ended::ChainBroken);
            return;
        }
        self.commands[op].ended = Some(Ended::Well);
        if self.bucket[op].is_some() && rules.on(Rule::ManifestOnlyOnce) {
            return;
        }
        let mut manifest = ManifestV1 {
            backup_id: request.backup_id.clone(),
            incarnation: request.incarnation.clone(),
            kind: request.kind,
            parent: request.parent.as_ref().map(|parent| parent.link.clone()),
            request_sha256: request.1,
            from_lsn: from,
            last_lsn: to,
            finished_at: minute(i64::from(self.clock)),
            binlog: None,
            ..full(started.into(), to.get())
        };
        manifest.source.datadir_id = Server::datadir(life);
        manifest.source.version.minor += u16::from(self.server.series);
        self.clock += 1;
        let stored = store(manifest);
        let sha256 = stored.sha256;
        let (held, content) = (self.server.after(0), self.server.after(from.get()));
        self.bucket[op] = Some(Published { manifest: Doc(Rc::new(stored), sha256), held, content });
    }

    /// The promotion's helper puts a restore point in the place of the data.
    pub(super) fn exchange(&mut self) {
        self.host.exchange = false;
        let Promotion::Sent { point, token } = self.promotion else { return };
        // Its objects may be gone: then nothing was staged, and the old data stays.
        let Some(published) = &self.bucket[point] else { return };
        let held = published.held;
        let lsn = u8::try_from(published.manifest.manifest.last_lsn.get()).unwrap_or(u8::MAX);
        self.server.log.retain(|(_, write)| held & (1 << write) != 0);
        self.server.life += 1;
        self.server.lsn = lsn;
        self.promotion = Promotion::Exchanged { token };
        self.upset = true;
    }
}
