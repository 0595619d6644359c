//! The catalog's records on DynamoDB: conditions, fencing, refusals by name, doubled calls, lost replies.

use highwater_aws::call::CallErrorKind;
use highwater_aws::catalog::backups::{Asked, BackupRecord, State};
use highwater_aws::catalog::{CatalogError, CatalogTable, Window};
use highwater_aws::table::{Table, TableError};
use highwater_core::catalog::StoredManifest;
use highwater_core::chain::Admitted;
use highwater_core::lease::{Holder, Purpose};
use highwater_core::manifest::ManifestV1;
use highwater_core::plan::Target;
use highwater_core::planner::plan_restore;
use highwater_core::schedule::{Force, NextFacts, SchedulePolicy, next_backup};
use highwater_core::{BackupKind, ClusterId, Document, Failure, Lsn, Sha256};
use highwater_tests::{Cloud, block_on};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// A catalog in a table of its own, and a clock that only we move.
struct World {
    cloud: Cloud,
    catalog: CatalogTable,
    cluster: ClusterId,
    now: Timestamp,
    lsn: u64,
}

impl World {
    fn new() -> Self {
        let cloud = Cloud::start();
        let attribute = |name: &str| json!({"AttributeName": name, "AttributeType": "S"});
        let key = |name: &str, kind: &str| json!({"AttributeName": name, "KeyType": kind});
        let table = json!({
            "TableName": "catalog", "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [attribute("pk"), attribute("sk"), attribute("open")],
            "KeySchema": [key("pk", "HASH"), key("sk", "RANGE")],
            "GlobalSecondaryIndexes": [{"IndexName": "open", "KeySchema": [key("open", "HASH"), key("sk", "RANGE")], "Projection": {"ProjectionType": "ALL"}}],
        });
        cloud.aws("dynamodb", "DynamoDB_20120810.CreateTable", &table).unwrap();
        let catalog = CatalogTable::new(Table::new(&cloud.sdk(), "catalog"));
        let now = "2026-11-22T02:00:00Z".parse().unwrap();
        Self { cloud, catalog, cluster: "orders".parse().unwrap(), now, lsn: 1000 }
    }

    fn pass(&mut self, minutes: i64) {
        self.now += SignedDuration::from_mins(minutes);
    }

    fn window(&self) -> Window {
        block_on(self.catalog.window(&self.cluster)).unwrap()
    }

    /// What start-backup writes.
    fn record(&self, window: &Window, token: u64, force: Force) -> BackupRecord {
        let facts = NextFacts { now: self.now, nonce: 7, source: None, tool: None, owed: window.head.owed.as_ref(), force, measured: &[] };
        let decision = next_backup(&window.catalog, SchedulePolicy { max_incrementals: 3, ..SchedulePolicy::default() }, facts);
        let request = decision.request(&window.catalog, "backups", self.now, SignedDuration::from_hours(1));
        let asked = Asked {
            token,
            host: "i-0db".parse().unwrap(),
            at: self.now,
            lease_expires_at: self.now + SignedDuration::from_hours(1),
            force,
            reason: decision.reason.to_string(),
            request_key: format!("v1/orders/requests/{}.json", decision.backup_id),
            request_sha256: Sha256::of(&request.to_bytes()),
            request: String::from_utf8(request.to_bytes()).unwrap(),
        };
        let parent = decision.parent.map(|p| p.link.backup_id);
        BackupRecord::requested(self.cluster.clone(), decision.backup_id, decision.incarnation, parent, asked)
    }

    fn try_begin(&self, window: &Window, force: Force, once: Option<&str>) -> Result<BackupRecord, CatalogError> {
        let lease = block_on(self.catalog.lease(&self.cluster)).unwrap();
        let mut record = self.record(window, lease.token + 1, force);
        let expires_at = self.now + SignedDuration::from_hours(1);
        let holder = Holder { operation: record.backup_id.to_string(), purpose: Purpose::Backup, expires_at };
        let taken = lease.take(holder, self.now)?;
        record.asked.as_mut().unwrap().token = taken.token;
        block_on(self.catalog.begin_backup(window, (&lease, &taken), &record, once))?;
        Ok(record)
    }

    fn begin(&self) -> BackupRecord {
        self.try_begin(&self.window(), Force::Nothing, None).unwrap()
    }

    /// What the helper publishes for a request: five minutes of work.
    fn publish(&mut self, record: &BackupRecord) -> (StoredManifest, String) {
        self.pass(1);
        self.lsn += 100;
        let window = block_on(self.catalog.whole(&self.cluster)).unwrap();
        let request = highwater_core::request::BackupRequestV1::parse(record.asked.as_ref().unwrap().request.as_bytes()).unwrap();
        let fixture = ManifestV1::parse(include_bytes!("../fixtures/v1/manifest.json")).unwrap();
        let prefix = highwater_core::ids::backup_prefix(&self.cluster, &record.incarnation, &record.backup_id);
        let mut manifest = ManifestV1 {
            backup_id: record.backup_id.clone(),
            incarnation: record.incarnation.clone(),
            kind: record.backup_id.kind(),
            request_sha256: record.asked.as_ref().unwrap().request_sha256,
            from_lsn: request.parent.as_ref().map_or(Lsn::ZERO, |p| p.link.to_lsn),
            parent: request.parent.map(|p| p.link),
            to_lsn: Lsn::new(self.lsn),
            last_lsn: Lsn::new(self.lsn + 10),
            started_at: self.now,
            finished_at: self.now + SignedDuration::from_mins(5),
            ..fixture
        };
        manifest.objects[0].key = format!("{prefix}data-000");
        manifest.inventory.object.key = format!("{prefix}inventory.json.zst");
        assert!(window.catalog.get(&record.backup_id).is_none());
        self.pass(6);
        let text = String::from_utf8(manifest.to_bytes()).unwrap();
        (StoredManifest::parse(manifest.key(), None, text.as_bytes()).unwrap(), text)
    }

    fn commit(&self, (stored, text): &(StoredManifest, String)) -> Result<Admitted, CatalogError> {
        block_on(self.catalog.commit(stored, text, self.now))
    }

    fn backup(&mut self) -> StoredManifest {
        let record = self.begin();
        let made = self.publish(&record);
        assert_eq!(self.commit(&made).unwrap(), Admitted::New);
        made.0
    }

    fn state(&self, record: &BackupRecord) -> State {
        block_on(self.catalog.backup(&self.cluster, &record.backup_id)).unwrap().unwrap().state
    }

    fn is_free(&self) -> bool {
        block_on(self.catalog.lease(&self.cluster)).unwrap().holder.is_none()
    }

    fn fail(&self, record: &BackupRecord, failure: Failure) -> Result<BackupRecord, CatalogError> {
        block_on(self.catalog.fail(&self.cluster, &record.backup_id, (failure, "what the helper said"), self.now))
    }
}

#[test]
fn i3_of_many_that_begin_at_once_one_does() {
    let world = World::new();
    let window = world.window();
    let lease = block_on(world.catalog.lease(&world.cluster)).unwrap();
    let begun: Vec<_> = (0..8u8)
        .map(|n| {
            let mut record = world.record(&window, 1, Force::Nothing);
            record.backup_id = format!("20261122T020000Z-full-{n:04x}").parse().unwrap();
            let expires_at = world.now + SignedDuration::from_hours(1);
            let holder = Holder { operation: record.backup_id.to_string(), purpose: Purpose::Backup, expires_at };
            (lease.take(holder, world.now).unwrap(), record)
        })
        .collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let tasks: Vec<_> = begun
            .iter()
            .map(|(taken, record)| scope.spawn(|| block_on(world.catalog.begin_backup(&window, (&lease, taken), record, Some("turn")))))
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|r| matches!(r, Ok(()) | Err(CatalogError::Contended { .. }))), "{results:?}");
    let open: Vec<_> = block_on(world.catalog.open_backups()).unwrap().into_iter().map(Result::unwrap).collect();
    let once = block_on(world.catalog.begun_once(&world.cluster, "turn")).unwrap();
    assert_eq!(once.as_ref(), Some(&open[0].backup_id));
    assert!(
        matches!(world.try_begin(&world.window(), Force::Full, None), Err(CatalogError::LeaseHeld(held)) if held.0.operation == open[0].backup_id.to_string())
    );
}

#[test]
fn i4_a_commit_twice_at_once_or_with_its_reply_lost_is_one() {
    let mut world = World::new();
    let record = world.begin();
    let made = world.publish(&record);
    let results: Vec<_> = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..4).map(|_| scope.spawn(|| world.commit(&made))).collect();
        tasks.into_iter().map(|task| task.join().unwrap().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|a| **a == Admitted::New).count(), 1, "{results:?}");
    assert_eq!(world.window().head.version, 1);
    assert!(world.is_free());

    // Each write's reply is lost once: what was done is found done.
    world.cloud.fault(json!({"on": "dynamodb:TransactWriteItems", "effect": "lose-reply", "times": 2}));
    let second = world.backup();
    assert_eq!(world.window().head.newest.unwrap().backup_id, *second.id());
    world.cloud.no_faults();

    // A service that stays away is named as that, and nothing has changed.
    let record = world.begin();
    let made = world.publish(&record);
    let before = world.window().head;
    world.cloud.fault(json!({"on": "dynamodb:TransactWriteItems", "effect": "fail", "error": "InternalServerError", "status": 500}));
    let error = world.commit(&made).unwrap_err();
    assert!(matches!(&error, CatalogError::Table(TableError::Call(call)) if call.kind == CallErrorKind::Unavailable), "{error}");
    world.cloud.no_faults();
    assert_eq!(world.window().head, before);
    assert_eq!(world.commit(&made).unwrap(), Admitted::New);
}

/// A change that breaks one rule.
type Spoil = fn(&mut ManifestV1);

#[test]
fn i2_a_refusal_names_its_rule_and_changes_nothing() {
    let mut world = World::new();
    world.backup();
    let record = world.begin();
    assert_eq!(record.backup_id.kind(), BackupKind::Incremental);
    let (good, text) = world.publish(&record);
    let rules: [(&str, Spoil); 4] = [
        ("Gap", |m| {
            m.from_lsn = Lsn::new(m.from_lsn.get() + 1);
            m.parent.as_mut().unwrap().to_lsn = m.from_lsn;
        }),
        ("ParentDigest", |m| m.parent.as_mut().unwrap().manifest_sha256 = Sha256::of(b"another")),
        ("ParentUnknown", |m| m.parent.as_mut().unwrap().backup_id = "20261122T010000Z-full-0001".parse().unwrap()),
        ("SourceChanged", |m| m.source.datadir_id = "another".into()),
    ];
    let before = world.window().head;
    for (rule, spoil) in rules {
        let mut manifest = good.manifest.clone();
        spoil(&mut manifest);
        let bytes = manifest.to_bytes();
        let stored = StoredManifest::parse(good.key.clone(), None, &bytes);
        let error = match stored {
            Ok(stored) => world.commit(&(stored, String::from_utf8(bytes).unwrap())).unwrap_err(),
            Err(error) => panic!("{rule}: {error}"),
        };
        assert!(matches!(&error, CatalogError::Refused { refusal, .. } if refusal.name() == rule), "{rule}: {error}");
        assert!(!world.is_free(), "a refusal left the lease");
        assert_eq!(world.window().head, before);
    }
    assert_eq!(world.commit(&(good, text)).unwrap(), Admitted::New);
}

#[test]
fn i3_an_operation_that_lost_its_lease_commits_nothing() {
    let mut world = World::new();
    let first = world.begin();
    let made = world.publish(&first);
    // Expired, and nobody took it: still its own.
    world.pass(120);
    let second = world.begin();
    let error = world.commit(&made).unwrap_err();
    assert!(matches!(&error, CatalogError::LeaseLost { token: 1, to, .. } if to.contains(&second.backup_id.to_string())), "{error}");
    let failed = world.fail(&first, Failure::Interrupted).unwrap();
    assert!(matches!(failed.state, State::Failed { failure: Failure::Interrupted, .. }));
    assert!(!world.is_free(), "the failure of one released the lease of the other");
    let made = world.publish(&second);
    assert_eq!(world.commit(&made).unwrap(), Admitted::New);
    assert!(world.is_free());
    assert!(matches!(world.fail(&second, Failure::Tool), Err(CatalogError::Ended { state: "committed", .. })));

    // A lease that expired, and that nobody took, commits.
    let late = world.begin();
    let made = world.publish(&late);
    world.pass(600);
    assert_eq!(world.commit(&made).unwrap(), Admitted::New);
}

#[test]
fn i2_what_is_owed_stays_until_a_commit_settles_it() {
    let mut world = World::new();
    let full = world.backup();
    let incremental = world.begin();
    let command = block_on(world.catalog.sent(&incremental, "command-1", world.now)).unwrap();
    assert!(matches!(command.state, State::Running { .. }));
    let other = block_on(world.catalog.sent(&incremental, "command-2", world.now)).unwrap();
    assert!(matches!(&other.state, State::Running { command_id, .. } if command_id == "command-1"), "the first command stays");
    world.fail(&incremental, Failure::ChainBroken).unwrap();
    assert!(matches!(world.state(&incremental), State::Failed { .. }) && world.is_free());
    world.pass(1);
    let again = world.begin();
    assert!(again.backup_id.kind() == BackupKind::Full && again.incarnation > full.manifest.incarnation);
    world.fail(&again, Failure::Storage).unwrap();
    world.pass(1);
    let third = world.begin();
    assert!(
        third.backup_id.kind() == BackupKind::Full && third.incarnation > full.manifest.incarnation,
        "a failed full brought the chain back"
    );
    let made = world.publish(&third);
    world.commit(&made).unwrap();
    assert_eq!(world.window().head.owed, None);
    assert_eq!(world.begin().backup_id.kind(), BackupKind::Incremental);

    // What was insisted on survives the failure of the backup that it began.
    let mut world = World::new();
    world.backup();
    let forced = world.try_begin(&world.window(), Force::NewIncarnation, None).unwrap();
    world.fail(&forced, Failure::Server).unwrap();
    world.pass(1);
    let next = world.begin();
    assert!(next.backup_id.kind() == BackupKind::Full && next.incarnation > world.window().head.newest.unwrap().incarnation);
}

#[test]
fn a_plan_from_what_a_target_needs_is_the_plan_from_everything() {
    let mut world = World::new();
    let mut made = vec![world.backup()];
    for turn in 0..9 {
        if turn == 4 {
            let forced = world.try_begin(&world.window(), Force::NewIncarnation, None).unwrap();
            let published = world.publish(&forced);
            world.commit(&published).unwrap();
            made.push(published.0);
        }
        if turn == 6 {
            let failed = world.begin();
            world.fail(&failed, Failure::Tool).unwrap();
            world.pass(1);
        }
        made.push(world.backup());
    }
    let whole = block_on(world.catalog.whole(&world.cluster)).unwrap();
    assert_eq!(whole.catalog.backups().count(), made.len());
    let mut targets = vec![Target::Latest, Target::Lsn(Lsn::new(1)), Target::Time("2026-11-01T00:00:00Z".parse().unwrap())];
    targets.push(Target::Backup("20261122T020500Z-full-0001".parse().unwrap()));
    targets.push(Target::Backup("20261101T000000Z-full-0001".parse().unwrap()));
    for one in &made {
        let m = &one.manifest;
        targets.push(Target::Backup(one.id().clone()));
        targets.extend([m.last_lsn, Lsn::new(m.last_lsn.get() - 1), Lsn::new(m.last_lsn.get() + 1)].map(Target::Lsn));
        let instant = SignedDuration::from_nanos(1);
        targets.extend([m.finished_at, m.finished_at - instant, m.finished_at + instant].map(Target::Time));
    }
    for target in &targets {
        let part = block_on(world.catalog.window_for(&world.cluster, target)).unwrap();
        let plan = |window: &Window| plan_restore(&window.catalog, target, "backups", world.now).map_err(|e| e.to_string());
        assert_eq!(plan(&part), plan(&whole), "{target}");
    }
    // The window of the decision is the newest chain, and decides the same.
    let window = world.window();
    assert!(window.catalog.backups().count() <= 4, "{}", window.catalog.backups().count());
    let record = |window: &Window| world.record(window, 1, Force::Nothing);
    assert_eq!(record(&window), record(&whole));
    // An empty catalog has a plan's error too.
    let empty = World::new();
    let part = block_on(empty.catalog.window_for(&empty.cluster, &Target::Latest)).unwrap();
    assert!(plan_restore(&part.catalog, &Target::Latest, "backups", empty.now).is_err());
}
