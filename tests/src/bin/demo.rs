//! `make demo`: a live database is backed up, drilled, damaged, promoted and rolled back. Needs no cloud and no account;
//! everything runs below temporary directories and is gone at the end, except the documents in `target/demo/`.

use highwater_core::drill::Outcome;
use highwater_core::manifest::ManifestV1;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, Failure};
use highwater_tests::{Host, Load, MariaDb, Output, S3};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Orders in the shop before anything writes: about 300 MB with their index.
const ORDERS: u64 = 500_000;

fn main() {
    let mut demo = Demo::begin();
    demo.back_up();
    demo.drill();
    demo.damage();
    demo.promote();
    demo.end();
}

struct Demo {
    s3: S3,
    db: MariaDb,
    host: Host,
    load: Option<Load>,
    backups: Vec<ManifestV1>,
    rows: Vec<[String; 4]>,
    started: Instant,
}

impl Demo {
    fn begin() -> Self {
        let started = Instant::now();
        say("A private MariaDB server, a local S3, and a shop that never stops selling");
        let (db, s3) = (MariaDb::start(), S3::start_on_disk());
        Load::fill(&db, ORDERS);
        // On two processors a second writer would leave the helper, which is nice, hardly any time.
        let load = Load::start_with(&db, 1, true);
        let mut host = Host::new(&db, &s3);
        host.promotable(&db);
        host.add("drill.assert", "name = \"every order has its customer\"\nexpect = \"0\"\nsql = \"SELECT COUNT(*) FROM shop.orders o LEFT JOIN shop.customers c ON c.id = o.customer WHERE c.id IS NULL\"");
        host.add("drill.newest", "table = \"shop.orders\"\ncolumn = \"placed\"\nmax_age_s = 300");
        host.add(
            "promote.assert",
            "name = \"orders are there\"\ncompare = \">=\"\nexpect = \"1\"\nsql = \"SELECT COUNT(*) FROM shop.orders\"",
        );
        let data: u64 = db.value("SELECT SUM(data_length + index_length) FROM information_schema.tables WHERE table_schema = 'shop'");
        println!("  {} of data, {} orders, one writer and one changing tables", mb(data), count(&db));
        println!("  host.toml: {}", host.config().display());
        Self { s3, db, host, load: Some(load), backups: Vec::new(), rows: Vec::new(), started }
    }

    /// One full and three incrementals, while the shop sells.
    fn back_up(&mut self) {
        say("Backups, under the write load: one full, then three incrementals");
        for round in 0..4 {
            let request = self.host.path(&format!("request-{round}.json"));
            self.highwater(&["next-backup", "--bucket", "backups", "--cluster", "shop", "--out", path(&request)]);
            let (_, took) = self.helper(&["backup", "--request", path(&request)]);
            let manifest = self.newest_manifest();
            println!("  -> {}, LSN {} to {}", manifest.backup_id, manifest.from_lsn, manifest.to_lsn);
            let ratio = manifest.raw_bytes as f64 / manifest.stored_bytes as f64;
            self.row(
                format!("{} backup", manifest.kind),
                "taken, every byte checked",
                took,
                format!("{} stored as {} ({ratio:.1}x)", mb(manifest.raw_bytes), mb(manifest.stored_bytes)),
            );
            self.backups.push(manifest);
            self.sell_more();
        }
    }

    /// The newest point and an older one come back, start, and pass their checks.
    fn drill(&mut self) {
        say("Drills: is it really restorable? Restore, start an isolated server, check");
        let older = self.backups[1].backup_id.to_string();
        for (name, target) in [("latest", "latest"), ("older", older.as_str())] {
            let (plan, report) = (self.plan(name, target), self.host.path(&format!("{name}.report.json")));
            let work = self.host.path(&format!("drill-{name}"));
            let (_, took) = self.helper(&["drill", "--plan", path(&plan), "--work", path(&work), "--report", path(&report)]);
            let report: highwater_core::drill::DrillReportV1 = read(&report);
            let passed = report.checks.iter().filter(|c| c.outcome == Outcome::Passed).count();
            for phase in report.phases.iter().filter(|p| p.seconds >= 0.1) {
                println!(
                    "  {:>7.1} s  {} {}",
                    phase.seconds,
                    phase.name,
                    phase.backup_id.as_ref().map(ToString::to_string).unwrap_or_default()
                );
            }
            let steps = read::<RestorePlanV1>(&plan).steps.len();
            self.row(
                format!("drill of the {name} point"),
                "PASSED",
                took,
                format!("{steps} backups applied, {passed} of {} checks passed", report.checks.len()),
            );
        }
    }

    /// One flipped bit in one object of the chain is found and named.
    fn damage(&mut self) {
        say("Damage: one bit of one stored object flips");
        let object = &self.backups[2].objects[0].clone();
        let flip = |bytes: &mut Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        };
        self.s3.damage(&object.key, flip);
        let (plan, report) = (self.host.path("latest.plan.json"), self.host.path("damaged.report.json"));
        let work = self.host.path("drill-damaged");
        let args = ["drill", "--plan", path(&plan), "--work", path(&work), "--report", path(&report)];
        show("highwater-host", &args);
        let started = Instant::now();
        let output = self.host.run(&args);
        output.failed(Failure::Damaged);
        let said = output.error();
        println!("  exit code {}: {said}", Failure::Damaged.exit_code());
        assert!(said.contains(&object.key), "the error must name the object {}", object.key);
        self.row(
            "drill over a damaged object".into(),
            "FAILED, as it must",
            started.elapsed(),
            "the error names the object and the frame".into(),
        );
        self.s3.damage(&object.key, flip);
        println!("  (the bit is flipped back)");
    }

    /// An accident, a promotion that undoes it, and the way back.
    fn promote(&mut self) {
        say("Promotion: somebody deletes the orders; the newest backup takes the primary's place");
        if let Some(load) = self.load.take() {
            let report = load.stop();
            println!("  the shop closes: {} transactions and {} table changes since the start", report.transactions, report.ddl);
        }
        let before = count(&self.db);
        self.db.run("DELETE FROM shop.orders");
        println!("  mariadb> DELETE FROM shop.orders;   -- {before} orders are gone");
        let (plan, report) = (self.host.path("latest.plan.json"), self.host.path("latest.report.json"));
        let approval = self.host.path("approval.json");
        self.highwater(&[
            "write-approval",
            "--plan",
            path(&plan),
            "--report",
            path(&report),
            "--host",
            "db-1",
            "--requester",
            "alice",
            "--approver",
            "bob",
            "--out",
            path(&approval),
        ]);
        self.host.as_root(&self.db);
        let (_, took) = self.helper(&["promote", "--plan", path(&plan), "--approval", path(&approval), "--report", path(&report)]);
        let promoted = count(&self.db);
        assert!(promoted > 0, "the orders must be back");
        println!("  -> {promoted} orders are back, as of the newest backup");
        self.row("promotion".into(), "the orders are back", took, format!("{promoted} orders; the old data is kept beside them"));

        say("Roll-back: the data that was replaced comes back");
        let (_, took) = self.helper(&["rollback"]);
        let back = count(&self.db);
        assert_eq!(back, 0, "the replaced data, accident included, must be back");
        println!("  -> {back} orders: exactly the data that was replaced");
        self.row("roll-back".into(), "the replaced data is back", took, "nothing was lost on either way".into());
    }

    fn end(self) {
        say("What happened");
        let head = ["what", "result", "time", "detail"].map(str::to_owned);
        let width = |i: usize| self.rows.iter().chain([&head]).map(|r| r[i].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2)];
        for row in [&head].into_iter().chain(&self.rows) {
            println!("  {:<a$}  {:<b$}  {:>c$}  {}", row[0], row[1], row[2], row[3], a = widths[0], b = widths[1], c = widths[2]);
        }
        let kept = PathBuf::from("target/demo");
        std::fs::create_dir_all(&kept).expect("make target/demo");
        for entry in std::fs::read_dir(self.host.scratch().path()).expect("list the documents").flatten() {
            if entry.path().extension().is_some_and(|e| e == "json" || e == "toml") {
                std::fs::copy(entry.path(), kept.join(entry.file_name())).expect("keep a document");
            }
        }
        println!(
            "\n  {:.0} s in all. Requests, plans, reports, approval and host.toml are in {}/",
            self.started.elapsed().as_secs_f64(),
            kept.display()
        );
    }

    /// `highwater …`, which must succeed.
    fn highwater(&self, args: &[&str]) -> Output {
        show("highwater", args);
        let output = self.host.cli(args);
        output.success();
        output.stdout.lines().for_each(|line| println!("  {line}"));
        output
    }

    /// `highwater-host …`, which must succeed, and how long it took.
    fn helper(&self, args: &[&str]) -> (Output, Duration) {
        show("highwater-host", args);
        let started = Instant::now();
        let output = self.host.run(args);
        output.success();
        (output, started.elapsed())
    }

    fn plan(&self, name: &str, target: &str) -> PathBuf {
        let plan = self.host.path(&format!("{name}.plan.json"));
        self.highwater(&["plan", "--bucket", "backups", "--cluster", "shop", "--target", target, "--out", path(&plan)]);
        plan
    }

    fn newest_manifest(&self) -> ManifestV1 {
        let keys = self.s3.keys("v1/shop/");
        let newest = keys.iter().filter(|k| k.ends_with("/manifest.json")).max_by_key(|k| k.rsplit('/').nth(1).map(str::to_owned));
        ManifestV1::parse(&self.s3.get(newest.expect("a manifest"))).expect("a sound manifest")
    }

    /// Lets the shop sell until the next backup has something to say.
    fn sell_more(&self) {
        if let Some(load) = &self.load {
            for _ in 0..20 {
                load.wait_for_progress();
            }
        }
    }

    fn row(&mut self, what: String, result: &str, took: Duration, detail: String) {
        println!("  {result} in {:.1} s: {detail}", took.as_secs_f64());
        self.rows.push([what, result.to_owned(), format!("{:.1} s", took.as_secs_f64()), detail]);
    }
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Prints a command as a person would type it, without the directories of this demonstration.
fn show(program: &str, args: &[&str]) {
    let short = |arg: &&str| arg.rsplit('/').next().unwrap_or(arg).to_owned();
    println!("  $ {program} {}", args.iter().map(short).collect::<Vec<_>>().join(" "));
}

fn count(db: &MariaDb) -> u64 {
    db.value("SELECT COUNT(*) FROM shop.orders")
}

fn read<D: Document>(file: &PathBuf) -> D {
    D::parse(&std::fs::read(file).expect("read a document")).expect("a sound document")
}

fn mb(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
