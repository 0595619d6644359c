//! A database host: its configuration, the real `highwater-host` and `highwater` on it, and what their runs said.

use crate::host_toml::HostToml;
use crate::mariadb::MariaDb;
use crate::s3::{BUCKET, S3};
use crate::scratch::Scratch;
use crate::{binary, block_on, wait_for};
use highwater_aws::s3::Bucket;
use highwater_core::approval::ApprovalV1;
use highwater_core::drill::DrillReportV1;
use highwater_core::ids::backup_prefix;
use highwater_core::manifest::{MANIFEST_NAME, ManifestV1, ObjectRef, ParentLink, Strategy};
use highwater_core::plan::{PlanServer, PlanStep, RestorePlanV1, RestorePoint, Target};
use highwater_core::request::{BackupRequestV1, ParentState};
use highwater_core::{BackupId, BackupKind, ClusterId, Document, Failure, HostId, Incarnation, Sha256};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// WARN lines that any run may log, and why they are no surprise.
const ALLOWED_WARNINGS: &[(&str, &str)] = &[
    ("asked to end: cleaning up", "the test sent the signal"),
    ("Retrying read of log at LSN", "two tests on two cores: the tool can fall behind for a moment"),
];

/// A host with its own configuration, for one server and one S3.
#[derive(Debug)]
pub struct Host {
    scratch: Scratch,
    env: Vec<(&'static str, String)>,
    bucket: Bucket,
    incarnation: Incarnation,
    nonce: AtomicU16,
    toml: HostToml,
    allowed: Vec<String>,
}

/// A backup that was taken.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Its manifest.
    pub manifest: ManifestV1,
    /// Where the manifest lies, exactly.
    pub object: ObjectRef,
    /// The request it was taken for.
    pub request: PathBuf,
}

/// A plan in a file.
#[derive(Debug, Clone)]
pub struct PlanFile {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub plan: RestorePlanV1,
    /// The digest of its bytes.
    pub sha256: Sha256,
}

impl Host {
    /// A host `db-1` of cluster `shop` with a configuration for `db` and `s3`, written to `host.toml`. The server is reached as
    /// the least privileged backup user, by a 0600 defaults file.
    pub fn new(db: &MariaDb, s3: &S3) -> Self {
        let scratch = Scratch::new("host");
        let mut host = Self {
            toml: HostToml::new(scratch.join("host.toml")),
            scratch,
            env: s3.env().to_vec(),
            bucket: s3.bucket(),
            incarnation: Incarnation::new(Timestamp::now(), 0),
            nonce: AtomicU16::new(0),
            allowed: Vec::new(),
        };
        host.set("", "cluster", "\"shop\"").set("", "host_id", "\"db-1\"");
        let state_dir = quoted(&host.scratch.join("state"));
        host.set("", "state_dir", state_dir);
        host.set("server", "socket", quoted(&db.socket())).set("server", "defaults_file", quoted(&db.backup_user()));
        // A test's server has a disk of its own to fill: none.
        host.set("restore", "keep_free_mib", "64").set("drill", "buffer_pool_mib", "64");
        host
    }

    /// Sets a key of a table of host.toml (`""` for the top); `value` is TOML, strings quoted.
    pub fn set(&mut self, table: &str, key: &str, value: impl Into<String>) -> &mut Self {
        self.toml.set(table, key, value);
        self
    }

    /// Adds an element to an array of tables of host.toml: `add("drill.assert", "name = …\nsql = …")`.
    pub fn add(&mut self, array: &str, body: &str) -> &mut Self {
        self.toml.add(array, body);
        self
    }

    /// Lets this host promote `db`'s data directory, with `db`'s scripts as its service.
    pub fn promotable(&mut self, db: &MariaDb) -> &mut Self {
        self.toml.promotable(db);
        self
    }

    /// Reaches the server as its root from now on: a promotion fences it, which a backup user may not.
    pub fn as_root(&mut self, db: &MariaDb) -> &mut Self {
        let path = db.root_defaults();
        self.set("server", "defaults_file", quoted(&path))
    }

    /// Allows a WARN line that contains `text` in the runs from now on. Say why beside the call.
    pub fn allow(&mut self, text: &str) -> &mut Self {
        self.allowed.push(text.to_owned());
        self
    }

    /// Its commands reach the store by way of another address from now on: a [`crate::Proxy`]'s.
    pub fn reach_store_at(&mut self, url: &str) -> &mut Self {
        self.env.iter_mut().filter(|(name, _)| *name == "AWS_ENDPOINT_URL").for_each(|(_, value)| *value = url.to_owned());
        self
    }

    /// Its host.toml.
    pub fn config(&self) -> PathBuf {
        self.toml.path().to_owned()
    }

    /// A path below the host's directory, for work directories, reports and documents; nothing is created.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Its directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The incarnation that its backups are taken in.
    pub fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// From now on, backups belong to a new incarnation, as after a promotion.
    pub fn new_incarnation(&mut self) {
        self.incarnation = Incarnation::new(Timestamp::now(), self.next_nonce());
    }

    /// Starts `highwater-host --json …`, with more environment if need be.
    pub fn start_with(&self, args: &[&str], env: &[(&str, &str)]) -> Running {
        let mut command = self.scratch.command(binary("highwater-host"));
        command.arg("--json").arg("--config").arg(self.config()).args(args);
        command.envs(self.env.iter().map(|(k, v)| (k, v))).envs(env.iter().copied());
        Running::start(command, self.allowed.clone())
    }

    /// Runs `highwater-host --json …` to its end under limits as prlimit takes them: `--nofile=64`, `--as=536870912`.
    pub fn run_within(&self, limits: &[&str], args: &[&str]) -> Output {
        let mut command = self.scratch.command("prlimit");
        command.args(limits).arg(binary("highwater-host"));
        self.run_by(command, args, &[])
    }

    /// Runs `highwater-host --json …` to its end by a command that has come as far as its name: inside a namespace, under limits.
    pub fn run_by(&self, mut command: Command, args: &[&str], env: &[(&str, &str)]) -> Output {
        command.arg("--json").arg("--config").arg(self.config()).args(args);
        command.envs(self.env.iter().map(|(k, v)| (k, v))).envs(env.iter().copied());
        Running::start(command, self.allowed.clone()).finish()
    }

    /// Starts `highwater-host --json …`.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(args, &[])
    }

    /// Runs `highwater-host --json …` to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.start(args).finish()
    }

    /// Runs the operator's `highwater …` to its end.
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = self.scratch.command(binary("highwater"));
        command.args(args).envs(self.env.iter().map(|(k, v)| (k, v))).current_dir(self.scratch.path());
        Running::start(command, self.allowed.clone()).finish()
    }

    /// A request for a backup, as `next_backup` would make it; change it before `write_request` to make a bad one.
    pub fn request(&self, parent: Option<&Backup>) -> BackupRequestV1 {
        let now = Timestamp::now();
        let kind = if parent.is_some() { BackupKind::Incremental } else { BackupKind::Full };
        BackupRequestV1 {
            format: BackupRequestV1::FORMAT.to_owned(),
            cluster: cluster(),
            incarnation: parent.map_or(&self.incarnation, |p| &p.manifest.incarnation).clone(),
            backup_id: BackupId::new(now, kind, self.next_nonce()),
            kind,
            parent: parent.map(|p| ParentState {
                link: ParentLink {
                    backup_id: p.manifest.backup_id.clone(),
                    to_lsn: p.manifest.to_lsn,
                    manifest_sha256: p.object.sha256,
                    strategy: Strategy::Incremental,
                },
                last_lsn: p.manifest.last_lsn,
                source: p.manifest.source.clone(),
                binlog: p.manifest.binlog.clone(),
            }),
            bucket: BUCKET.to_owned(),
            created_at: now,
            expires_at: now + SignedDuration::from_mins(10),
        }
    }

    /// Writes a request to a file.
    pub fn write_request(&self, request: &BackupRequestV1) -> PathBuf {
        self.write(&format!("{}.request.json", request.backup_id), &request.to_bytes())
    }

    /// Takes a full backup.
    pub fn full(&self) -> Backup {
        self.take(&self.request(None))
    }

    /// Takes an incremental on `parent`.
    pub fn incremental(&self, parent: &Backup) -> Backup {
        self.take(&self.request(Some(parent)))
    }

    /// Takes a differential on `full`.
    pub fn differential(&self, full: &Backup) -> Backup {
        let mut request = self.request(Some(full));
        if let Some(parent) = &mut request.parent {
            parent.link.strategy = Strategy::Differential;
        }
        self.take(&request)
    }

    /// Takes the backup that a request asks for; panics unless it succeeds.
    pub fn take(&self, request: &BackupRequestV1) -> Backup {
        let path = self.write_request(request);
        self.run(&["backup", "--request", text(&path)]).success();
        self.backup_of(request, path)
    }

    /// The committed backup of a request: its manifest, as it lies in the bucket.
    pub fn backup_of(&self, request: &BackupRequestV1, path: PathBuf) -> Backup {
        let key = format!("{}{MANIFEST_NAME}", backup_prefix(&request.cluster, &request.incarnation, &request.backup_id));
        let (head, bytes) = block_on(async {
            let head = self.bucket.head(&key, None).await?;
            let bytes = self.bucket.get(&key, head.version_id.as_deref(), head.size).await?;
            Ok::<_, highwater_aws::s3::StoreError>((head, bytes))
        })
        .unwrap_or_else(|e| panic!("read the manifest: {e}"));
        let object = ObjectRef { key, version_id: head.version_id, size: head.size, sha256: Sha256::of(&bytes) };
        Backup { manifest: ManifestV1::parse(&bytes).unwrap_or_else(|e| panic!("{e:?}")), object, request: path }
    }

    /// The keys that exist below a request's prefix.
    pub fn keys_of(&self, request: &BackupRequestV1) -> Vec<String> {
        let prefix = backup_prefix(&request.cluster, &request.incarnation, &request.backup_id);
        block_on(self.bucket.list(&prefix)).expect("list the backup's keys")
    }

    /// A plan of exactly these backups, the full first. Nothing is checked, so that bad plans can be made too.
    pub fn plan_of(&self, backups: &[&Backup]) -> PlanFile {
        let last = &backups.last().expect("a plan of something").manifest;
        let step = |b: &&Backup| PlanStep {
            backup_id: b.manifest.backup_id.clone(),
            kind: b.manifest.kind,
            from_lsn: b.manifest.from_lsn,
            to_lsn: b.manifest.to_lsn,
            tool: b.manifest.tool.clone(),
            redo_bytes: b.manifest.redo_bytes,
            raw_bytes: b.manifest.raw_bytes,
            manifest: b.object.clone(),
            objects: b.manifest.objects.clone(),
            inventory: b.manifest.inventory.clone(),
        };
        self.write_plan(RestorePlanV1 {
            format: RestorePlanV1::FORMAT.to_owned(),
            cluster: cluster(),
            incarnation: last.incarnation.clone(),
            target: Target::Backup(last.backup_id.clone()),
            bucket: BUCKET.to_owned(),
            created_at: Timestamp::now(),
            server: PlanServer { vendor: last.source.vendor, version: last.source.version, settings: last.settings.clone() },
            point: RestorePoint {
                backup_id: last.backup_id.clone(),
                last_lsn: last.last_lsn,
                time: last.finished_at,
                binlog: last.binlog.clone(),
            },
            steps: backups.iter().map(step).collect(),
        })
    }

    /// Writes a plan to a file.
    pub fn write_plan(&self, plan: RestorePlanV1) -> PlanFile {
        let bytes = plan.to_bytes();
        let path = self.write(&format!("{}-{:04x}.plan.json", plan.point.backup_id, self.next_nonce()), &bytes);
        PlanFile { path, plan, sha256: Sha256::of(&bytes) }
    }

    /// Restores a plan into `into`; the data is in `<into>/data`.
    pub fn restore(&self, plan: &PlanFile, into: &Path) -> Output {
        self.run(&["restore", "--plan", text(&plan.path), "--into", text(into)])
    }

    /// Drills a plan; the report is at [`Host::report_of`].
    pub fn drill(&self, plan: &PlanFile) -> Output {
        let work = self.path(&format!("drill-{:04x}", self.next_nonce()));
        self.run(&["drill", "--plan", text(&plan.path), "--work", text(&work), "--report", text(&self.report_of(plan))])
    }

    /// Where `drill` writes a plan's report.
    pub fn report_of(&self, plan: &PlanFile) -> PathBuf {
        plan.path.with_extension("report.json")
    }

    /// The report of a plan's drill.
    pub fn report(&self, plan: &PlanFile) -> DrillReportV1 {
        let bytes = std::fs::read(self.report_of(plan)).expect("read the drill report");
        DrillReportV1::parse(&bytes).unwrap_or_else(|e| panic!("{e:?}"))
    }

    /// An approval of a drilled plan for this host, valid for an hour; change it before `write_approval` to make a bad one.
    pub fn approval(&self, plan: &PlanFile) -> ApprovalV1 {
        let report = std::fs::read(self.report_of(plan)).expect("read the drill report");
        let now = Timestamp::now();
        ApprovalV1 {
            format: ApprovalV1::FORMAT.to_owned(),
            cluster: cluster(),
            plan_sha256: plan.sha256,
            report_sha256: Sha256::of(&report),
            target_host: "db-1".parse::<HostId>().expect("a host id"),
            requester: "alice".to_owned(),
            approvers: vec!["bob".to_owned()],
            approved_at: now,
            expires_at: now + SignedDuration::from_hours(1),
        }
    }

    /// Writes an approval to a file.
    pub fn write_approval(&self, approval: &ApprovalV1) -> PathBuf {
        self.write(&format!("{:04x}.approval.json", self.next_nonce()), &approval.to_bytes())
    }

    /// The arguments of `promote` for a drilled plan, approved for this host.
    pub fn promote_args(&self, plan: &PlanFile) -> Vec<String> {
        let approval = self.write_approval(&self.approval(plan));
        let report = self.report_of(plan);
        ["promote", "--plan", text(&plan.path), "--approval", text(&approval), "--report", text(&report)].map(str::to_owned).to_vec()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path
    }

    fn next_nonce(&self) -> u16 {
        self.nonce.fetch_add(1, Ordering::Relaxed)
    }
}

fn cluster() -> ClusterId {
    "shop".parse().expect("a cluster id")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn quoted(path: &Path) -> String {
    format!("{:?}", text(path))
}

/// A run of a binary that has not ended yet, or not been looked at. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<String>>,
    allowed: Vec<String>,
}

impl Running {
    fn start(mut command: Command, allowed: Vec<String>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut stdout = child.stdout.take().expect("its standard output");
        let stderr = child.stderr.take().expect("its standard error");
        let log = Arc::clone(&lines);
        let readers = vec![
            std::thread::spawn(move || {
                let mut all = String::new();
                stdout.read_to_string(&mut all).expect("read standard output");
                all
            }),
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines() {
                    log.lock().expect("the log's lock").push(line.expect("read standard error"));
                }
                String::new()
            }),
        ];
        Self { child, lines, readers, allowed }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of its log contains `text`, and returns the line; panics when it ends without.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let mut ended = false;
        wait_for(&format!("{text:?} in the log"), || {
            let found = self.lines.lock().expect("the log's lock").iter().find(|l| l.contains(text)).cloned();
            assert!(found.is_some() || !ended, "it ended and never logged {text:?}: {:#?}", self.lines);
            // Looked at after the lines: what it logged before its end is read once more.
            ended = self.child.try_wait().expect("look at the process").is_some() && self.readers.iter().all(JoinHandle::is_finished);
            found
        })
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        crate::run(Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]));
    }

    /// SIGKILL; one that has ended is not hurt.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill the process");
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Output {
        let status = self.child.wait().expect("wait for the process");
        let mut stdout = String::new();
        for reader in self.readers.drain(..) {
            stdout.push_str(&reader.join().expect("a reader"));
        }
        let log = std::mem::take(&mut *self.lines.lock().expect("the log's lock"));
        Output { status, stdout, log, allowed: self.allowed.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a run left: its end, its standard output, its log.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error, line by line.
    pub log: Vec<String>,
    allowed: Vec<String>,
}

impl Output {
    /// It succeeded, and logged no WARN or ERROR that is not allowed.
    #[track_caller]
    pub fn success(&self) -> &Self {
        assert!(self.status.success(), "{self}");
        self.logged_no_surprise(0);
        self
    }

    /// It failed with this class, said so in exactly one ERROR line, and logged no WARN that is not allowed.
    #[track_caller]
    pub fn failed(&self, failure: Failure) -> &Self {
        assert_eq!(self.status.code(), Some(failure.exit_code().into()), "expected {failure}: {self}");
        self.logged_no_surprise(1);
        self
    }

    /// A signal ended it: SIGKILL, by the test or at a crash point.
    #[track_caller]
    pub fn killed(&self) -> &Self {
        assert_eq!(self.status.signal(), Some(9), "{self}");
        self
    }

    /// Whether SIGKILL ended it.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON: {e}: {self}"))
    }

    /// The message of its ERROR line, causes included; empty without one.
    pub fn error(&self) -> String {
        let error = self.events().find(|e| e["level"] == "ERROR");
        error.and_then(|e| e["message"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The lines of its log that are events.
    pub fn events(&self) -> impl Iterator<Item = Value> {
        self.log.iter().filter_map(|line| serde_json::from_str(line).ok())
    }

    /// The rule of the allowed log lines. A line that is no event (a panic's message, a child's babble) is never allowed.
    #[track_caller]
    fn logged_no_surprise(&self, errors: usize) {
        let strange: Vec<_> = self.log.iter().filter(|l| serde_json::from_str::<Value>(l).is_err()).collect();
        let json = self.log.iter().any(|l| l.starts_with('{'));
        assert!(strange.is_empty() || !json, "lines that are no events: {strange:#?}\n{self}");
        let known =
            |line: &str| ALLOWED_WARNINGS.iter().any(|(text, _)| line.contains(text)) || self.allowed.iter().any(|t| line.contains(t));
        let is = |line: &str, level: &str| serde_json::from_str::<Value>(line).is_ok_and(|e| e["level"] == level);
        let warnings: Vec<_> = self.log.iter().filter(|l| is(l, "WARN") && !known(l)).collect();
        assert!(warnings.is_empty(), "warnings that nobody allowed: {warnings:#?}\n{self}");
        let found = self.log.iter().filter(|l| is(l, "ERROR")).count();
        assert!(found == errors || !json, "expected {errors} ERROR lines, found {found}: {self}");
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n--- standard output\n{}\n--- standard error", self.status, self.stdout)?;
        self.log.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
