//! `make bench-catalog`: what a decision reads, and how long it takes, in a catalog of 100 backups and in one of 100,000, whose
//! records are really there; and how long judging all of their manifests again takes. Writes its part of docs/BENCHMARKS.md.
//! Argument: another number than 100,000, a multiple of 100; then it only prints.

use highwater_aws::catalog::CatalogTable;
use highwater_aws::s3::Endpoint;
use highwater_aws::table::Table;
use highwater_core::ClusterId;
use highwater_core::catalog::{Catalog, Found};
use highwater_core::plan::Target;
use highwater_core::planner::plan_restore;
use highwater_core::schedule::{Force, NextFacts, SchedulePolicy, next_backup};
use highwater_tests::benchmarks::{self, Part};
use highwater_tests::{Cloud, Meter, add_chains, begin_next, block_on, catalog_table, chains_of};
use jiff::{SignedDuration, Timestamp};
use std::time::Instant;

const CHAIN: i64 = 25;
const FEW: i64 = 100;
const MANY: i64 = 100_000;
const ROUNDS: i64 = 15;

/// One decision: bytes that DynamoDB answered, and milliseconds; medians.
struct Measured {
    what: &'static str,
    bytes: u64,
    ms: f64,
}

fn main() {
    let other: Option<i64> = std::env::args().nth(1).map(|n| n.parse().expect("a number of backups"));
    let backups = other.unwrap_or(MANY);
    let (few, many) = (decisions(FEW), decisions(backups));
    let judged = [backups / 100, backups / 10, backups].map(|n| (n, judge(n)));
    let text = report(&few, (backups, &many), &judged);
    if other.is_none() {
        benchmarks::write(Part::Catalog, &text);
    }
    println!("{text}");
}

fn decisions(backups: i64) -> Vec<Measured> {
    let (cloud, orders): (_, ClusterId) = (Cloud::start(), "orders".parse().expect("a cluster"));
    let table = catalog_table(&cloud);
    let began = Instant::now();
    add_chains(&table, 0, backups / CHAIN);
    eprintln!("{backups} backups written in {:.0} s", began.elapsed().as_secs_f64());
    let meter = Meter::before(cloud.url());
    let key = || "test".to_owned();
    let endpoint = Endpoint { url: meter.url().to_owned(), region: "eu-west-1".into(), access_key_id: key(), secret_access_key: key() };
    let metered = CatalogTable::new(Table::new(&block_on(endpoint.sdk_config()), "catalog"));
    let plain = CatalogTable::new(table);
    let newest = block_on(plain.head(&orders)).expect("the head").newest.expect("a newest backup");
    let half = newest.finished_at - SignedDuration::from_hours(backups / 2);
    let past =
        block_on(plain.window_for(&orders, &Target::Time(half))).expect("the middle").catalog.newest().expect("a backup").manifest.clone();

    // What comes before a round is not measured: `prepare` gives what `work` is about.
    fn measure<T>(meter: &Meter, what: &'static str, mut prepare: impl FnMut(i64) -> T, work: impl Fn(T)) -> Measured {
        let (mut bytes, mut ms) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let about = prepare(round);
            meter.reset();
            let began = Instant::now();
            work(about);
            ms.push(began.elapsed().as_secs_f64() * 1e3);
            bytes.push(meter.bytes());
        }
        bytes.sort_unstable();
        ms.sort_by(f64::total_cmp);
        Measured { what, bytes: bytes[bytes.len() / 2], ms: ms[ms.len() / 2] }
    }
    let plan = |target: &Target| {
        let window = block_on(metered.window_for(&orders, target)).expect("what a plan needs");
        plan_restore(&window.catalog, target, "backups", Timestamp::UNIX_EPOCH).expect("a plan");
    };
    let planned = |what, target: Target| measure(&meter, what, |_| (), |()| plan(&target));
    let decide = || {
        let window = block_on(metered.window(&orders)).expect("the window");
        let facts =
            NextFacts { now: newest.finished_at, nonce: 1, source: None, tool: None, owed: None, force: Force::Nothing, measured: &[] };
        next_backup(&window.catalog, SchedulePolicy::default(), facts);
    };
    vec![
        measure(&meter, "`start-backup`: the next backup", |_| (), |()| decide()),
        planned("`plan-restore`: `latest`", Target::Latest),
        planned("`plan-restore`: a time, in the middle", Target::Time(half)),
        planned("`plan-restore`: an LSN, in the middle", Target::Lsn(past.last_lsn)),
        planned("`plan-restore`: a backup, in the middle", Target::Backup(past.backup_id.clone())),
        // Last, since each commit makes the newest chain one longer.
        measure(
            &meter,
            "`finish-backup`: the commit",
            |round| begin_next(&plain, backups + round),
            |(stored, text)| {
                block_on(metered.commit(&stored, &text, stored.manifest.finished_at)).expect("a commit");
            },
        ),
    ]
}

/// Seconds of judging so many manifests again: the thinking of `catalog rebuild`.
fn judge(backups: i64) -> f64 {
    let found: Vec<_> = chains_of(backups).into_iter().map(|stored| Found::Manifest(Box::new(stored))).collect();
    let began = Instant::now();
    let catalog = Catalog::rebuild("orders".parse().expect("a cluster"), found);
    assert_eq!((catalog.backups().count() as i64, catalog.rejected().len()), (backups, 0));
    began.elapsed().as_secs_f64()
}

fn report(few: &[Measured], (backups, many): (i64, &[Measured]), judged: &[(i64, f64)]) -> String {
    let mut text = format!(
        "Written by `make bench-catalog`, {}: a debug build, medians of {ROUNDS}. Bytes are what DynamoDB answers on the wire. Times are of the whole\n\
         call on the local cloud, which finds a range by bisection; a round trip to AWS comes on top. Chains of {CHAIN}.\n\n\
         | decision | {FEW} backups, bytes | ms | {backups} backups, bytes | ms |\n| --- | ---: | ---: | ---: | ---: |\n",
        Timestamp::now().strftime("%Y-%m-%d"),
    );
    for (few, many) in few.iter().zip(many) {
        text.push_str(&format!("| {} | {} | {:.1} | {} | {:.1} |\n", few.what, few.bytes, few.ms, many.bytes, many.ms));
    }
    text.push_str("\n| `catalog rebuild`: manifests judged | s | µs each |\n| ---: | ---: | ---: |\n");
    for (n, seconds) in judged {
        text.push_str(&format!("| {n} | {seconds:.2} | {:.0} |\n", seconds * 1e6 / *n as f64));
    }
    text
}
