//! A store that is overloaded, resets, loses answers, answers wrongly, or knows our credentials or our clock no more: what
//! passes is survived with bounded retries, what stays is named by its class, and neither leaves a half-good backup.

use highwater_core::request::BackupRequestV1;
use highwater_core::{Document, Failure, Sha256};
use highwater_tests::{Call, Fault, Host, Load, MariaDb, Proxy, Rule, S3, Snapshot, Torture};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a faulty store comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The operation succeeds.
    Recovers,
    /// It fails with this class; with a healthy store, the same command succeeds.
    Fails(Failure),
}
use Then::{Fails, Recovers};

#[derive(Debug, Clone)]
struct Row {
    rule: Rule,
    then: Then,
}

fn row(rule: Rule, then: Then) -> Row {
    Row { rule, then }
}

/// Faults after which a request may be tried again.
const PASSING: [Fault; 4] = [Fault::Answer(Fault::SLOW_DOWN), Fault::Answer(Fault::INTERNAL), Fault::Reset, Fault::LoseAnswer];

/// What our own retries say.
const RETRIES: [&str; 4] =
    ["reading a body again", "completing the upload again", "the object is there although", "an unfinished upload stays"];

/// How long an operation may go on with a store that never recovers, and how many requests it may make of it meanwhile.
const PATIENCE: Duration = Duration::from_secs(150);
const REQUESTS: u32 = 150;

/// Runs the rows, a few at a time: most of their time is spent in pauses between tries.
fn each(rows: Vec<Row>, torture: &mut Torture, run: impl Fn(usize, &Row) + Sync) {
    let todo = Mutex::new(rows.iter().enumerate().collect::<Vec<_>>());
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let next = todo.lock().unwrap().pop();
                let Some((index, row)) = next else { return };
                let started = Instant::now();
                run(index, row);
                assert!(started.elapsed() < PATIENCE, "{row:?} took {:?}", started.elapsed());
            }
        };
        (0..4).for_each(|_| drop(scope.spawn(work)));
    });
    rows.iter().for_each(|row| torture.withstood(&format!("{:?}", row)));
}

fn met(proxy: &Proxy, row: &Row) {
    let met = proxy.met()[0];
    assert!(met > 0, "{row:?}: no request met it");
    assert!(met <= REQUESTS, "{row:?}: {met} requests");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_backup_survives_a_store_that_fails_for_a_moment_and_names_what_stays() {
    let (db, s3, mut torture) = (MariaDb::start(), S3::start(), Torture::begin("backup: store"));
    Load::fill(&db, 100);
    db.backup_user();
    let calls = [
        (Call::List, ""),
        (Call::Head, "requests/"),
        (Call::Get, "requests/"),
        (Call::Begin, ""),
        (Call::Part, ""),
        (Call::Complete, ""),
        (Call::Head, "/data-"),
        (Call::Put, "/inventory"),
        (Call::Put, "/manifest.json"),
        (Call::Get, "/manifest.json"),
    ];
    let mut passing: Vec<Row> = Vec::new();
    for (call, path) in calls {
        passing.extend(PASSING.map(|fault| row(Rule::once(call, fault).at(path), Recovers)));
        passing.push(row(Rule { times: 3, ..Rule::once(call, PASSING[0]).at(path) }, Recovers));
    }
    passing.push(row(Rule::once(Call::Complete, Fault::Answer(Fault::ERROR_IN_200)), Recovers));
    passing.push(row(Rule::once(Call::Complete, Fault::DoneButAnswer(Fault::ERROR_IN_200)), Recovers));
    passing.push(row(Rule::once(Call::Get, Fault::Cut).at("/manifest.json"), Recovers));
    passing.push(row(Rule::once(Call::Part, Fault::Slow(20)), Recovers));
    let staying = vec![
        row(Rule::always(Call::Begin, Fault::Answer(Fault::SLOW_DOWN)), Fails(Failure::Storage)),
        row(Rule::always(Call::Part, Fault::Answer(Fault::SLOW_DOWN)), Fails(Failure::Storage)),
        row(Rule::always(Call::Part, Fault::Reset), Fails(Failure::Storage)),
        row(Rule::always(Call::Part, Fault::Answer(Fault::EXPIRED)), Fails(Failure::AccessDenied)),
        row(Rule::always(Call::Part, Fault::Answer(Fault::ACCESS_DENIED)), Fails(Failure::AccessDenied)),
        row(Rule::always(Call::Any, Fault::Answer(Fault::SKEWED)), Fails(Failure::AccessDenied)),
        row(Rule::always(Call::Head, Fault::Answer(Fault::EXPIRED_HEAD)), Fails(Failure::AccessDenied)),
        row(Rule::always(Call::Complete, Fault::Answer(Fault::ERROR_IN_200)), Fails(Failure::Storage)),
        row(Rule::always(Call::Put, Fault::Answer(Fault::SLOW_DOWN)).at("/manifest.json"), Fails(Failure::Storage)),
        row(Rule::always(Call::Put, Fault::Answer(Fault::EXPIRED)).at("/manifest.json"), Fails(Failure::AccessDenied)),
        row(Rule::always(Call::Get, Fault::Cut).at("requests/"), Fails(Failure::Storage)),
        row(Rule::once(Call::Get, Fault::Flip).at("requests/"), Fails(Failure::Document)),
        row(Rule::once(Call::Get, Fault::Flip).at("/manifest.json"), Fails(Failure::Damaged)),
    ];
    let rows = [torture.some(passing, 5), torture.some(staying, 2)].concat();
    each(rows, &mut torture, |index, row| {
        let proxy = Proxy::before(&s3, &[row.rule]);
        let mut host = Host::new(&db, &s3);
        for line in RETRIES {
            host.allow(line);
        }
        let mut request = host.request(None);
        // A cluster of its own: several backups of one would be several fulls of one incarnation.
        request.cluster = format!("shop-{index}").parse().unwrap();
        host.set("", "cluster", format!("{:?}", request.cluster.to_string()));
        let args = stored(&s3, &request);
        let args = args.each_ref().map(String::as_str);
        host.reach_store_at(&proxy.url());
        let first = host.run(&args);
        met(&proxy, row);
        let reads_back = row.rule.path == "/manifest.json" && row.rule.call == Call::Get;
        match row.then {
            Recovers => {
                first.success();
            }
            Fails(failure) => {
                first.failed(failure);
                let has_manifest = host.keys_of(&request).iter().any(|key| key.ends_with("manifest.json"));
                assert_eq!(has_manifest, reads_back, "{row:?}: {:?}", host.keys_of(&request));
                let hint = first.json()["hint"].as_str().unwrap_or_default().to_owned();
                assert_eq!(hint.contains("expiry") && hint.contains("clock"), failure == Failure::AccessDenied, "{row:?}: {hint}");
                proxy.mend();
                host.run(&args).success();
            }
        }
        let of_the_cluster = format!("v1/{}/", request.cluster);
        let unfinished = s3.unfinished_uploads().into_iter().filter(|key| key.starts_with(&of_the_cluster)).count();
        // An upload whose id never arrived cannot be given up: the bucket's lifecycle rule is for it.
        let unknown = usize::from(row.rule.call == Call::Begin && row.rule.fault == Fault::LoseAnswer);
        assert_eq!(unfinished, unknown, "{row:?}: orphaned uploads");
        host.cli(&["audit", "--bucket", "backups", "--cluster", &request.cluster.to_string()]).success();
    });
    torture.end();
}

/// Stores a request where a function would, and gives the arguments that take its backup.
fn stored(s3: &S3, request: &BackupRequestV1) -> [String; 5] {
    let (key, bytes) = (format!("v1/{}/requests/{}.json", request.cluster, request.backup_id), request.to_bytes());
    s3.put(&key, &bytes);
    ["backup".into(), "--request".into(), format!("s3://backups/{key}"), "--sha256".into(), Sha256::of(&bytes).to_string()]
}

#[test]
fn an_upload_that_cannot_be_given_up_is_named_for_whoever_must() {
    let (db, s3, mut torture) = (MariaDb::start(), S3::start(), Torture::begin("backup: abort"));
    let mut host = Host::new(&db, &s3);
    let proxy = Proxy::before(
        &s3,
        &[Rule::always(Call::Complete, Fault::Answer(Fault::EXPIRED)), Rule::always(Call::Abort, Fault::Answer(Fault::EXPIRED))],
    );
    host.reach_store_at(&proxy.url()).allow("an unfinished upload stays");
    let request = host.request(None);
    let path = host.write_request(&request);
    let failed = host.run(&["backup", "--request", text(&path)]);
    failed.failed(Failure::AccessDenied);
    let named = failed.events().find(|event| event["level"] == "WARN").unwrap();
    assert_eq!(s3.unfinished_uploads(), [named["key"].as_str().unwrap()]);
    assert!(named["upload_id"].as_str().is_some(), "{named}");
    torture.withstood("credentials expired before the upload was completed, or given up");
    torture.end();
}

#[test]
fn a_restore_survives_a_store_that_fails_for_a_moment_and_names_what_stays() {
    let (db, s3, mut torture) = (MariaDb::start(), S3::start(), Torture::begin("restore: store"));
    Load::fill(&db, 100);
    let source = Host::new(&db, &s3);
    let full = source.full();
    db.run("UPDATE shop.orders SET cents = cents + 1");
    let incremental = source.incremental(&full);
    let (plan, rows) = (source.plan_of(&[&full, &incremental]), Snapshot::of(&db));
    let plan_key = "v1/shop/drills/20261122T020000Z-00000000/plan.json";
    s3.put(plan_key, &plan.plan.to_bytes());

    let mut passing: Vec<Row> = Vec::new();
    for (call, path) in [(Call::Head, "/plan.json"), (Call::Get, "/plan.json"), (Call::Get, "/data-")] {
        passing.extend(PASSING.map(|fault| row(Rule::once(call, fault).at(path), Recovers)));
        passing.push(row(Rule { times: 3, ..Rule::once(call, PASSING[0]).at(path) }, Recovers));
    }
    passing.push(row(Rule::once(Call::Get, Fault::Cut).at("/plan.json"), Recovers));
    passing.push(row(Rule { times: 3, ..Rule::once(Call::Get, Fault::Cut).at("/data-") }, Recovers));
    passing.push(row(Rule { skip: 2, ..Rule::once(Call::Get, Fault::Cut).at("/data-") }, Recovers));
    passing.push(row(Rule::always(Call::Get, Fault::Slow(400_000)).at("/data-"), Recovers));
    let staying = vec![
        row(Rule::always(Call::Get, Fault::Answer(Fault::SLOW_DOWN)).at("/data-"), Fails(Failure::Storage)),
        row(Rule::always(Call::Get, Fault::Reset).at("/data-"), Fails(Failure::Storage)),
        row(Rule::always(Call::Get, Fault::Cut).at("/data-"), Fails(Failure::Storage)),
        row(Rule::always(Call::Get, Fault::Flip).at("/data-"), Fails(Failure::Damaged)),
        row(Rule { skip: 3, ..Rule::once(Call::Get, Fault::Flip).at("/data-") }, Fails(Failure::Damaged)),
        row(Rule::always(Call::Get, Fault::Short).at("/data-"), Fails(Failure::Damaged)),
        row(Rule { skip: 1, ..Rule::always(Call::Get, Fault::Answer(Fault::EXPIRED)).at("/data-") }, Fails(Failure::AccessDenied)),
        row(Rule::always(Call::Any, Fault::Answer(Fault::SKEWED)), Fails(Failure::AccessDenied)),
        row(Rule::always(Call::Head, Fault::Answer(Fault::EXPIRED_HEAD)), Fails(Failure::AccessDenied)),
        row(Rule::once(Call::Get, Fault::Flip).at("/plan.json"), Fails(Failure::Document)),
        row(Rule::once(Call::Get, Fault::Short).at("/plan.json"), Fails(Failure::Damaged)),
    ];
    let table = [torture.some(passing, 4), torture.some(staying, 2)].concat();
    each(table, &mut torture, |index, row| {
        let proxy = Proxy::before(&s3, &[row.rule]);
        let mut host = Host::new(&db, &s3);
        for line in RETRIES {
            host.allow(line);
        }
        host.reach_store_at(&proxy.url());
        let into = host.path("into");
        let uri = format!("s3://backups/{plan_key}");
        let digest = plan.sha256.to_string();
        let args = ["restore", "--plan", &uri, "--sha256", &digest, "--into", text(&into)];
        let first = host.run(&args);
        met(&proxy, row);
        match row.then {
            Recovers => {
                first.success();
            }
            Fails(failure) => {
                first.failed(failure);
                if row.rule.fault == Fault::Flip && row.rule.path == "/data-" {
                    assert!(first.error().contains("/data-"), "names the object: {first}");
                }
                assert!(row.rule.path != "/plan.json" || !into.exists(), "{row:?}: something was restored");
                proxy.mend();
                host.run(&args).success();
            }
        }
        let restored = MariaDb::open(&into.join("data"));
        rows.assert_same(&Snapshot::of(&restored), &format!("row {index}, {row:?}"));
        drop(restored);
        fs::remove_dir_all(&into).unwrap();
    });
    torture.end();
}
