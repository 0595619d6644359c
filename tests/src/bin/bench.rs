//! `make bench`: the helper against the pipelines that people use, on one machine, in the same run, in turns.
//! Writes docs/BENCHMARKS.md. Arguments: `--rows N` (sysbench rows in each of four tables), `--rounds N`, `--stream-gb N`.

use highwater_tests::{Backup, Host, MariaDb, Output, S3, benchmarks, binary, run, tool, wait_for};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

fn main() {
    let args = Args::read();
    args.check_room();
    let bench = Bench::begin(&args);
    let mut results = Results::default();
    let mut backup = None;
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        backup = Some(bench.backups(round, &mut results));
        bench.ceilings(&mut results);
    }
    let backup = backup.expect("at least one round");
    for round in 1..=args.rounds {
        eprintln!("restores, round {round} of {}", args.rounds);
        bench.restores(&backup, &mut results);
    }
    let streams: Vec<_> = [args.stream_gb / 10, args.stream_gb].into_iter().map(|gb| bench.stream(gb.max(1))).collect();
    let text = report(&args, &backup, &results, &streams);
    benchmarks::write(benchmarks::Part::Helper, &text);
    println!("{text}");
}

struct Args {
    rows: u64,
    rounds: usize,
    stream_gb: u64,
}

impl Args {
    fn read() -> Self {
        let mut args = Self { rows: 2_750_000, rounds: 3, stream_gb: 20 };
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            let value = given.next().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{name} needs a number"));
            match name.as_str() {
                "--rows" => args.rows = value,
                "--rounds" => args.rounds = usize::try_from(value).expect("a small number of rounds"),
                "--stream-gb" => args.stream_gb = value,
                _ => panic!("unknown argument {name}"),
            }
        }
        args
    }

    /// A disk that fills in mid-run would be found by a peer that says no more than its exit code.
    fn check_room(&self) {
        let dir = std::env::temp_dir();
        let stat = rustix::fs::statvfs(&dir).expect("look at the disk");
        let free = stat.f_bavail * stat.f_frsize;
        // The database, a stored copy and a restored one; of the generated stream what is stored, while s3s-fs joins its parts.
        let needed = 3 * ROW_BYTES * 4 * self.rows + self.stream_gb * 1_000_000_000;
        let gb = |bytes: u64| bytes as f64 / 1e9;
        assert!(
            free > needed,
            "{} has {:.1} GB free, this needs {:.1} GB: fewer --rows, a smaller --stream-gb, another TMPDIR",
            dir.display(),
            gb(free),
            gb(needed)
        );
    }
}

/// A row of sysbench's tables with its index, on disk.
const ROW_BYTES: u64 = 255;

/// One measured run.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    cpu_seconds: f64,
    /// What the S3 server spent meanwhile, on the same processors.
    server_cpu_seconds: f64,
    /// Of the largest process that is ours to judge; zero where it was not asked.
    peak_rss_mib: u64,
    /// Uncompressed bytes that were moved.
    bytes: u64,
}

#[derive(Debug, Default)]
struct Results(BTreeMap<&'static str, Vec<Sample>>);

impl Results {
    fn add(&mut self, name: &'static str, sample: Sample) {
        eprintln!("  {name:<44} {:>6.1} s {:>6.0} MB/s", sample.seconds, sample.bytes as f64 / 1e6 / sample.seconds);
        self.0.entry(name).or_default().push(sample);
    }

    /// The median of something over a name's runs.
    fn median(&self, name: &str, of: impl Fn(&Sample) -> f64) -> f64 {
        let mut values: Vec<f64> = self.0[name].iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn speed(&self, name: &str) -> f64 {
        self.median(name, |s| s.bytes as f64 / 1e6 / s.seconds)
    }
}

const OURS_UP: &str = "highwater-host backup";
const S5CMD_UP: &str = "mariadb-backup | zstd -1 -T2 | s5cmd pipe";
const AWS_UP: &str = "mariadb-backup | zstd -1 -T2 | aws s3 cp -";
const TOOL: &str = "ceiling: mariadb-backup > /dev/null";
const COMPRESSOR: &str = "ceiling: mariadb-backup | zstd -1 -T2 > /dev/null";
const OURS_DOWN: &str = "highwater-host restore: fetch + extract";
const S5CMD_DOWN: &str = "s5cmd cat | zstd -dc | mbstream -x";
const AWS_DOWN: &str = "aws s3 cp | zstd -dc | mbstream -x";
const S5CMD_FLUSHED: &str = "s5cmd cat | zstd -dc | mbstream -x; sync -f";
const AWS_FLUSHED: &str = "aws s3 cp | zstd -dc | mbstream -x; sync -f";
const OURS_MEMORY: &str = "highwater-host restore: fetch + extract, into memory";
const S5CMD_MEMORY: &str = "s5cmd cat | zstd -dc | mbstream -x, into memory";
const SERVED: &str = "ceiling: s5cmd cat > /dev/null";
const DISK: &str = "ceiling: the disk (dd, fdatasync)";

struct Bench {
    db: MariaDb,
    s3: S3,
    host: Host,
    tool_flags: String,
}

impl Bench {
    fn begin(args: &Args) -> Self {
        eprintln!("loading {} rows", args.rows * 4);
        let (db, s3) =
            (MariaDb::start_with(&["innodb-buffer-pool-size=512M", "innodb-log-file-size=256M", "skip-log-bin"]), S3::start_on_disk());
        db.run("CREATE DATABASE sbtest");
        let mut sysbench = Command::new("sysbench");
        sysbench.args(["oltp_common", "--tables=4", "--threads=2", "--db-driver=mysql", "--mysql-db=sbtest", "--mysql-user=root"]);
        sysbench.arg(format!("--table-size={}", args.rows)).arg(format!("--mysql-socket={}", db.socket().display())).arg("prepare");
        run(&mut sysbench);
        // Dirty pages would be flushed into somebody's measurement.
        db.run("SET GLOBAL innodb_max_dirty_pages_pct = 0");
        wait_for_clean_pages(&db);
        let mut host = Host::new(&db, &s3);
        // On equal terms: no politeness towards the server, no counting of rows, which the others do not do either.
        host.set("backup", "nice", "0").set("backup", "ionice", "\"none\"").set("backup", "row_count_budget_s", "0");
        let user = db.backup_user();
        let tool_flags = format!(
            "--defaults-file={} --backup --stream=xbstream --parallel=2 --target-dir={}",
            user.display(),
            host.path("tool").display()
        );
        Self { db, s3, host, tool_flags }
    }

    /// Every way up, once, in an order that changes from round to round.
    fn backups(&self, round: usize, results: &mut Results) -> Backup {
        let s5cmd = tool("peers/lib").join(first_below(&tool("peers/lib"))).join("site-packages/s5cmd/bin/s5cmd");
        let tool_run = format!("mariadb-backup {} 2>{}", self.tool_flags, self.host.path("tool.log").display());
        let peers = [
            (S5CMD_UP, format!("{tool_run} | zstd -q -1 -T2 | {} pipe s3://backups/peer/s5cmd-{round}", s5cmd.display())),
            (
                AWS_UP,
                format!(
                    "{tool_run} | zstd -q -1 -T2 | {} s3 cp --expected-size 3000000000 - s3://backups/peer/aws-{round}",
                    tool("peers/bin/aws").display()
                ),
            ),
        ];
        let mut taken = None;
        for turn in 0..3 {
            settle();
            match (turn + round) % 3 {
                0 => taken = Some(self.backup(results)),
                peer => {
                    let (name, pipeline) = &peers[peer - 1];
                    results.add(name, self.pipeline(pipeline, self.stream_bytes()));
                }
            }
        }
        taken.expect("our own turn")
    }

    fn backup(&self, results: &mut Results) -> Backup {
        let request = self.host.request(None);
        let path = self.host.write_request(&request);
        let server = self.s3.cpu_seconds();
        let (seconds, cpu_seconds, peak_rss_mib, _) = self.helper(&["backup", "--request", text(&path)]);
        let server_cpu_seconds = self.s3.cpu_seconds() - server;
        let backup = self.host.backup_of(&request, path);
        let bytes = backup.manifest.objects.iter().map(|o| o.raw_bytes).sum();
        results.add(OURS_UP, Sample { seconds, cpu_seconds, server_cpu_seconds, peak_rss_mib, bytes });
        backup
    }

    /// What the tool, and the tool with the compressor, can do with nobody behind them.
    fn ceilings(&self, results: &mut Results) {
        let tool_run = format!("mariadb-backup {} 2>{}", self.tool_flags, self.host.path("tool.log").display());
        for (name, pipeline) in [(TOOL, format!("{tool_run} >/dev/null")), (COMPRESSOR, format!("{tool_run} | zstd -q -1 -T2 >/dev/null"))]
        {
            settle();
            results.add(name, self.pipeline(&pipeline, self.stream_bytes()));
        }
    }

    fn restores(&self, backup: &Backup, results: &mut Results) {
        let bytes = backup.manifest.objects.iter().map(|o| o.raw_bytes).sum();
        let s5cmd = tool("peers/lib").join(first_below(&tool("peers/lib"))).join("site-packages/s5cmd/bin/s5cmd");
        let fetch_s5cmd = format!("{} cat s3://backups/peer/s5cmd-1", s5cmd.display());
        let fetch_aws = format!("{} s3 cp s3://backups/peer/aws-1 -", tool("peers/bin/aws").display());
        let disk = self.host.path("extract");
        for (name, fetch, into, flush) in [
            (S5CMD_DOWN, &fetch_s5cmd, disk.clone(), false),
            (AWS_DOWN, &fetch_aws, disk.clone(), false),
            (S5CMD_FLUSHED, &fetch_s5cmd, disk.clone(), true),
            (AWS_FLUSHED, &fetch_aws, disk, true),
            (S5CMD_MEMORY, &fetch_s5cmd, in_memory("extract"), false),
        ] {
            std::fs::create_dir(&into).expect("make the directory to extract into");
            settle();
            let flushed = if flush { format!(" && sync -f {}", into.display()) } else { String::new() };
            results.add(name, self.pipeline(&format!("{fetch} | zstd -q -dc | mbstream -x -p 2 -C {}{flushed}", into.display()), bytes));
            std::fs::remove_dir_all(&into).expect("remove the extracted data");
        }

        settle();
        results.add(SERVED, self.pipeline(&format!("{} cat s3://backups/peer/s5cmd-1 >/dev/null", s5cmd.display()), bytes));

        let plan = self.host.plan_of(&[backup]);
        for (name, into) in [(OURS_DOWN, self.host.path("restored")), (OURS_MEMORY, in_memory("restored"))] {
            settle();
            let server = self.s3.cpu_seconds();
            let (_, cpu_seconds, peak_rss_mib, output) = self.helper(&["restore", "--plan", text(&plan.path), "--into", text(&into)]);
            let phases = output.json()["phases"].as_array().cloned().unwrap_or_default();
            let fetch: f64 = phases.iter().filter(|p| p["name"] == "fetch").filter_map(|p| p["seconds"].as_f64()).sum();
            assert!(fetch > 0.0, "the restore reports no fetch: {output}");
            // The processor time includes the prepare, which the others did not do; it is not compared.
            let server_cpu_seconds = self.s3.cpu_seconds() - server;
            results.add(name, Sample { seconds: fetch, cpu_seconds, server_cpu_seconds, peak_rss_mib, bytes });
            std::fs::remove_dir_all(&into).expect("remove the restored data");
        }

        let file = self.host.path("dd");
        settle();
        let dd = format!("dd if=/dev/zero of={} bs=4M count={} conv=fdatasync status=none", file.display(), bytes >> 22);
        results.add(DISK, self.pipeline(&dd, bytes));
        std::fs::remove_file(&file).expect("remove dd's file");
    }

    /// The pipeline alone, on a generated stream of any size.
    fn stream(&self, gb: u64) -> (u64, serde_json::Value) {
        eprintln!("a generated stream of {gb} GB");
        settle();
        let mut stream = Command::new(binary("bench_stream"));
        stream.args(["--gb", &gb.to_string(), "--bucket", "backups"]);
        let out = run(stream.envs(self.s3.env()).stderr(Stdio::inherit()));
        let start = out.find('{').expect("the stream's measurements");
        (gb, serde_json::from_str(&out[start..]).expect("the stream's measurements in JSON"))
    }

    /// A run of the helper: wall and processor seconds (its children's included), its own peak memory, its output.
    fn helper(&self, args: &[&str]) -> (f64, f64, u64, Output) {
        let (started, cpu) = (Instant::now(), children_cpu_seconds());
        let running = self.host.start(args);
        let status = PathBuf::from(format!("/proc/{}/status", running.pid()));
        let watch = std::thread::spawn(move || {
            let mut peak = 0;
            // Ends when the process does: a dead one has no memory.
            while let Some(kib) = peak_rss_kib(&status) {
                peak = kib;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            peak
        });
        let output = running.finish();
        let seconds = started.elapsed().as_secs_f64();
        output.success();
        (seconds, children_cpu_seconds() - cpu, watch.join().expect("the watcher") >> 10, output)
    }

    fn pipeline(&self, pipeline: &str, bytes: u64) -> Sample {
        let (started, cpu, server) = (Instant::now(), children_cpu_seconds(), self.s3.cpu_seconds());
        let mut shell = Command::new("bash");
        run(shell.args(["-o", "pipefail", "-c", pipeline]).envs(self.s3.env()).env("S3_ENDPOINT_URL", self.s3.url()));
        let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), children_cpu_seconds() - cpu);
        Sample { seconds, cpu_seconds, server_cpu_seconds: self.s3.cpu_seconds() - server, peak_rss_mib: 0, bytes }
    }

    /// The tool's stream is the data files and a little redo: a tenth of a per cent does not matter here.
    fn stream_bytes(&self) -> u64 {
        fn below(dir: &Path) -> u64 {
            let entries = std::fs::read_dir(dir).expect("list the data directory").flatten();
            entries.map(|e| if e.path().is_dir() { below(&e.path()) } else { e.metadata().map_or(0, |m| m.size()) }).sum()
        }
        let redo = std::fs::metadata(self.db.datadir().join("ib_logfile0")).map_or(0, |m| m.size());
        below(self.db.datadir()) - redo
    }
}

/// A directory that no disk holds up.
fn in_memory(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/highwater-bench-{}-{name}", std::process::id()))
}

/// What was written before is on disk before the next measurement begins.
fn settle() {
    run(&mut Command::new("sync"));
}

fn wait_for_clean_pages(db: &MariaDb) {
    for _ in 0..10 {
        let dirty: (String, u64) = db.query("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'").remove(0);
        if dirty.1 == 0 {
            return;
        }
        wait_for("a page to be flushed", || {
            let now: (String, u64) = db.query("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'").remove(0);
            (now.1 < dirty.1 || now.1 == 0).then_some(())
        });
    }
}

/// Processor seconds of every child that we waited for, and of theirs.
fn children_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("read our own statistics");
    // The fields behind the name, which may hold spaces; ticks are hundredths of a second on Linux.
    let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[13..15].iter().map(|f| f.parse::<f64>().expect("a number of ticks")).sum::<f64>() / 100.0
}

fn peak_rss_kib(status: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(status).ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

fn first_below(dir: &Path) -> std::ffi::OsString {
    std::fs::read_dir(dir).expect("list a directory").flatten().next().expect("something in it").file_name()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn report(args: &Args, backup: &Backup, results: &Results, streams: &[(u64, serde_json::Value)]) -> String {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = file("/proc/cpuinfo").lines().find_map(|l| l.strip_prefix("model name\t: ").map(str::to_owned)).unwrap_or_default();
    let memory = file("/proc/meminfo").split_whitespace().nth(1).and_then(|k| k.parse::<f64>().ok()).unwrap_or_default() / 1048576.0;
    let processors = file("/proc/cpuinfo").lines().filter(|l| l.starts_with("processor")).count();
    let system = file("/etc/os-release").lines().find_map(|l| l.strip_prefix("PRETTY_NAME=").map(|n| n.trim_matches('"').to_owned()));
    let raw: u64 = backup.manifest.objects.iter().map(|o| o.raw_bytes).sum();
    let peak = |name| results.0[name].iter().map(|s| s.peak_rss_mib).max().unwrap_or_default();
    let best = |names: [&str; 2]| names.iter().map(|n| results.speed(n)).fold(0.0, f64::max);
    let up = results.speed(OURS_UP) / best([S5CMD_UP, AWS_UP]);
    let down = results.speed(OURS_DOWN) / best([S5CMD_DOWN, AWS_DOWN]);
    let down_flushed = results.speed(OURS_DOWN) / best([S5CMD_FLUSHED, AWS_FLUSHED]);
    let down_memory = results.speed(OURS_MEMORY) / results.speed(S5CMD_MEMORY);
    let against = |aim: f64, is: f64| if is >= aim { "reached" } else { "not reached" };

    let mut t = String::from("# Benchmarks\n\nWritten by `make bench`; do not edit.\n\n");
    let _ = writeln!(
        t,
        "{} on {processors} × {processor}, {memory:.0} GB of memory, {}. Server, S3 (`s3s-fs`, on the same disk) and client share the machine.\n\
         Data: sysbench, 4 tables of {} rows, {:.2} GB of stream, {:.2} GB stored. Medians of {} rounds; the ways take turns within a round.\n\
         Peers: `--parallel=2`, `zstd -1 -T2`, `mbstream -x -p 2`; s5cmd and the AWS CLI with their defaults. Endpoint: plain HTTP.\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
        system.unwrap_or_default(),
        args.rows,
        raw as f64 / 1e9,
        backup.manifest.stored_bytes as f64 / 1e9,
        args.rounds,
    );
    let mut table = |title: &str, names: &[&str], cpu: bool| {
        let _ = writeln!(
            t,
            "## {title}\n\n| way | MB/s of raw data | range | CPU s per GB | of the S3 server | processors busy |\n| --- | ---: | ---: | ---: | ---: | ---: |"
        );
        for name in names {
            let mut speeds: Vec<f64> = results.0[name].iter().map(|s| s.bytes as f64 / 1e6 / s.seconds).collect();
            speeds.sort_by(f64::total_cmp);
            let spent = results.median(name, |s| s.cpu_seconds / (s.bytes as f64 / 1e9));
            let served = results.median(name, |s| s.server_cpu_seconds / (s.bytes as f64 / 1e9));
            let busy = results.median(name, |s| (s.cpu_seconds + s.server_cpu_seconds) / s.seconds / processors as f64) * 100.0;
            // Of a restore of ours the processor time is known with its prepare only.
            let (spent, busy) = match cpu || ![OURS_DOWN, OURS_MEMORY].contains(name) {
                true => (format!("{spent:.1}"), format!("{busy:.0} %")),
                false => ("–".to_owned(), "–".to_owned()),
            };
            // A bar would end the cell, also inside code.
            let cell = name.replace('|', "\\|");
            let _ = writeln!(
                t,
                "| `{cell}` | {:.0} | {:.0}–{:.0} | {spent} | {served:.1} | {busy} |",
                results.speed(name),
                speeds[0],
                speeds[speeds.len() - 1]
            );
        }
        t.push('\n');
    };
    let spent = results.median(OURS_UP, |s| (s.cpu_seconds + s.server_cpu_seconds) / (s.bytes as f64 / 1e9));
    let bound = processors as f64 / spent * 1000.0;
    table("Backup", &[OURS_UP, S5CMD_UP, AWS_UP, TOOL, COMPRESSOR], true);
    table("Restore: fetch and extract", &[OURS_DOWN, S5CMD_FLUSHED, AWS_FLUSHED, S5CMD_DOWN, AWS_DOWN, SERVED, DISK], false);
    table("The same without a disk", &[OURS_MEMORY, S5CMD_MEMORY], false);
    let _ = writeln!(
        t,
        "The server spends its share on the same processors: were they always busy, the helper's backup would reach {bound:.0} MB/s, {:.2} × the best pipeline.\n\
         When the store has every part, s3s-fs copies them into one file, which S3 does not; the processors rest then, whoever the client is.\n\n\
         The helper's restore has written to the disk, past the page cache. A pipeline ends with its data in memory, still to be written: `sync -f` waits for that too.",
        bound / best([S5CMD_UP, AWS_UP])
    );
    let _ =
        writeln!(t, "The helper also checks every frame, chunk and file size on the way down; the peers check a chunk's CRC at most.\n");
    let _ = writeln!(
        t,
        "## A stream of any size\n\n| generated stream | upload MB/s | verify MB/s | peak RSS |\n| ---: | ---: | ---: | ---: |"
    );
    for (gb, measured) in streams {
        let speed = |phase: &str| measured[phase]["raw_mb_per_s"].as_f64().unwrap_or_default();
        let _ = writeln!(t, "| {gb} GB | {:.0} | {:.0} | {} MiB |", speed("upload"), speed("verify"), measured["peak_rss_mib"]);
    }
    let rss = peak(OURS_UP).max(peak(OURS_DOWN)).max(streams.iter().filter_map(|s| s.1["peak_rss_mib"].as_u64()).max().unwrap_or_default());
    let _ = writeln!(t, "\n## Aims\n\n| aim | measured | |\n| --- | ---: | --- |");
    let _ = writeln!(t, "| backup ≥ 1.3 × the best pipeline | {up:.2} × | {} |", against(1.3, up));
    let _ = writeln!(
        t,
        "| fetch + extract ≥ 2 × the best pipeline that has its data on the disk | {down_flushed:.2} × | {} |",
        against(2.0, down_flushed)
    );
    let _ = writeln!(t, "| … that leaves it in memory | {down:.2} × | {} |", against(2.0, down));
    let _ = writeln!(t, "| … without a disk, both into memory | {down_memory:.2} × | {} |", against(2.0, down_memory));
    let limit = results.speed(OURS_UP) / bound;
    let _ = writeln!(
        t,
        "| backup within 15 % of what the processors can do, client and server always busy | {:.0} % of it | {} |",
        limit * 100.0,
        against(0.85, limit)
    );
    let limit = results.speed(OURS_UP) / results.speed(COMPRESSOR);
    let _ = writeln!(
        t,
        "| backup within 15 % of tool and compressor alone, nobody behind them | {:.0} % of it | {} |",
        limit * 100.0,
        against(0.85, limit)
    );
    let limit = results.speed(OURS_DOWN) / results.speed(DISK);
    let _ = writeln!(t, "| fetch + extract within 15 % of the disk | {:.0} % of it | {} |", limit * 100.0, against(0.85, limit));
    let _ = writeln!(t, "| peak RSS of the helper ≤ 256 MiB | {rss} MiB | {} |", against(rss as f64, 256.0));
    t
}
