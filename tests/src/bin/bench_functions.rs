//! `make bench-functions`: what each function weighs, how soon it asks for its first event, and the memory it comes to at
//! work: a backup, a drill, a promotion and retention on the local cloud. Writes its part of docs/BENCHMARKS.md.

use highwater_tests::{Cloud, Load, MariaDb, Person, benchmarks, config, wait_for, wait_for_within};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 30;
const AIMS: (f64, f64, f64) = (15.0, 4.0, 64.0);

struct Measured {
    name: String,
    /// Milliseconds from `execve` to the first `/next`: the median and the slowest.
    start_ms: (f64, f64),
    zip_mb: f64,
    binary_mb: f64,
    /// MiB: at the first `/next`, and after its work on the local cloud.
    peak_mib: (f64, f64),
}

fn main() {
    let mut functions: Vec<PathBuf> = std::fs::read_dir("target/lambda")
        .expect("target/lambda: run `make functions` first")
        .flatten()
        .map(|entry| entry.path().join("bootstrap"))
        .filter(|bootstrap| bootstrap.exists())
        .collect();
    functions.sort();
    let lambda = std::fs::canonicalize("target/lambda").expect("target/lambda");
    let mut cloud = Cloud::start();
    cloud.deploy_with(&config(), &|name| match name {
        "highwater-host" => highwater_tests::binary(name),
        function => lambda.join(function).join("bootstrap"),
    });
    let mut measured: Vec<_> = functions.iter().map(|bootstrap| measure(&cloud, bootstrap)).collect();
    let worked = at_work(&cloud, &lambda);
    for m in &mut measured {
        m.peak_mib.1 = *worked.get(&m.name).unwrap_or_else(|| panic!("{} has not run", m.name));
    }
    let text = report(&measured);
    benchmarks::write(benchmarks::Part::Functions, &text);
    println!("{text}");
}

fn measure(cloud: &Cloud, bootstrap: &Path) -> Measured {
    let name = bootstrap.parent().and_then(Path::file_name).expect("a function's directory").to_string_lossy().into_owned();
    // The deployed one: with a variable missing, a function would start without the clients that it works with.
    let environment = cloud.environment(&name);
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a runtime API");
    let mut starts: Vec<(f64, f64)> = (0..ROUNDS).map(|_| start(bootstrap, &name, &environment, &api)).collect();
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    // A zip of one file is its deflated bytes and a hundred more.
    let zip = highwater_tests::run(Command::new("sh").args(["-c", "gzip -9 <\"$0\" | wc -c"]).arg(bootstrap));
    eprintln!("{name}: {:.1} ms", starts[ROUNDS / 2].0);
    Measured {
        name,
        start_ms: (starts[ROUNDS / 2].0, starts[ROUNDS - 1].0),
        zip_mb: zip.trim().parse::<f64>().expect("a size") / 1e6,
        binary_mb: std::fs::metadata(bootstrap).expect("the binary").len() as f64 / 1e6,
        peak_mib: (starts.iter().map(|s| s.1).fold(0.0, f64::max), 0.0),
    }
}

/// Starts one until it asks for its first event: milliseconds, and its memory's peak in MiB.
fn start(bootstrap: &Path, name: &str, environment: &[(String, String)], api: &TcpListener) -> (f64, f64) {
    let mut command = Command::new(bootstrap);
    command.env_clear().env("AWS_LAMBDA_RUNTIME_API", api.local_addr().expect("its address").to_string());
    command.envs([("AWS_LAMBDA_FUNCTION_NAME", name), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"), ("AWS_LAMBDA_FUNCTION_VERSION", "1")]);
    command.envs([("AWS_LAMBDA_LOG_GROUP_NAME", "g"), ("AWS_LAMBDA_LOG_STREAM_NAME", "s"), ("AWS_REGION", "eu-west-1")]);
    command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_SESSION_TOKEN", "test")]);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let started = Instant::now();
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a function");
    let (stream, _) = api.accept().expect("the runtime's connection");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("the runtime's request");
    let took = started.elapsed().as_secs_f64() * 1e3;
    assert!(line.contains("/invocation/next"), "{name} asked for {line:?} first");
    let peak = peak_mib(process.id()).expect("its memory");
    process.kill().expect("end a function");
    process.wait().expect("a function's end");
    (took, peak)
}

/// The most memory that a process had at once.
fn peak_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().split(' ').next()?.parse::<f64>().ok()? / 1024.0)
}

/// The whole way with these binaries, and what each function's process came to.
fn at_work(cloud: &Cloud, lambda: &Path) -> BTreeMap<String, f64> {
    let db = MariaDb::start();
    Load::fill(&db, 1000);
    cloud.host("orders", &db);
    for n in 1..=3 {
        cloud.fire("backup-orders");
        wait_for("a committed backup", || (committed(cloud) == n).then_some(()));
        Load::fill(&db, 1000);
    }
    let (ada, bob) = (cloud.user("ada"), cloud.user("bob"));
    let call = |who: &Person, body: Value| cloud.call_approval_url(who, &body).1;
    let asked = call(&ada, json!({"action": "restore", "cluster": "orders"}));
    let question = wait_for_within(Duration::from_secs(180), "the question", || {
        let list = call(&bob, json!({"action": "list", "cluster": "orders"}));
        Some(list["requests"][0].clone()).filter(|request| request["state"] == "waiting")
    });
    let certificate = &question["question"]["certificate"]["sha256"];
    call(&bob, json!({"action": "approve", "cluster": "orders", "request_id": question["request_id"], "certificate_sha256": certificate}));
    let ended = cloud.wait_execution(asked["execution"].as_str().expect("an execution"));
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    wait_for("the forced full", || (committed(cloud) == 4).then_some(()));
    for function in ["reconcile", "prune"] {
        cloud.invoke(function, &json!({})).unwrap_or_else(|e| panic!("{function}: {e:?}"));
    }
    let mut peaks = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("list /proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(binary) = std::fs::read_link(entry.path().join("exe")) else { continue };
        let Some(name) = binary.strip_prefix(lambda).ok().and_then(|b| b.iter().next()) else { continue };
        let peak: &mut f64 = peaks.entry(name.to_string_lossy().into_owned()).or_default();
        *peak = peak.max(peak_mib(pid).unwrap_or_default());
    }
    peaks
}

fn committed(cloud: &Cloud) -> usize {
    cloud.items("orders").iter().filter(|item| item["state"] == "committed").count()
}

fn report(measured: &[Measured]) -> String {
    let mut text = format!(
        "Written by `make bench-functions`, {}: release binaries as cargo-lambda builds them, on the machine above. Start: from\n\
         `execve` to the first `/next` at the runtime API, median of {ROUNDS} and slowest. Peak: resident memory at that moment, and\n\
         after three backups, a drill, a promotion and retention on the local cloud.\n\n\
         | function | start, ms | slowest | zip, MB | binary, MB | peak at start, MiB | at work |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
    );
    for m in measured {
        text.push_str(&format!(
            "| `{}` | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} | {:.1} |\n",
            m.name, m.start_ms.0, m.start_ms.1, m.zip_mb, m.binary_mb, m.peak_mib.0, m.peak_mib.1
        ));
    }
    let worst = |of: fn(&Measured) -> f64| measured.iter().map(of).fold(0.0, f64::max);
    let aims = [
        ("first `/next` ≤ 15 ms (median)", worst(|m| m.start_ms.0), AIMS.0, "ms"),
        ("zip ≤ 4 MB", worst(|m| m.zip_mb), AIMS.1, "MB"),
        ("peak ≤ 64 MiB", worst(|m| m.peak_mib.1), AIMS.2, "MiB"),
    ];
    text.push_str("\n| aim | worst | |\n| --- | ---: | --- |\n");
    for (what, is, aim, unit) in aims {
        text.push_str(&format!("| {what} | {is:.1} {unit} | {} |\n", if is <= aim { "reached" } else { "not reached" }));
    }
    text
}
