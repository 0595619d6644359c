//! The isolated server: on restored data, for nobody but us.
//!
//! Relies on: a server binary of the data's series; as root, on the configured user. What a crash leaves: nothing that runs
//! (the kernel ends the server when we die), and `<parent of the data>/server/` with its log.

use crate::config::{DrillConfig, ServerConfig};
use crate::error::{Context, Error, Result};
use crate::restore::stamp::SERVER;
use crate::server::Server;
use crate::shortage::Shortage;
use crate::signal::Cancel;
use crate::small;
use crate::tool::Tool;
use highwater_core::Failure;
use highwater_core::identity::{Vendor, Version};
use highwater_core::plan::PlanServer;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long an orderly shutdown may take before the server is killed.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// Reserved for the server's log, bytes.
const LOG_ROOM: u64 = 1 << 20;
/// `sun_path` holds 107 bytes and a NUL; the name of the socket takes five.
const LONGEST_SOCKET_DIR: usize = 100;

/// A server on restored data that nobody else can reach: one socket in a private directory, no TCP, no replication,
/// no events, no binlog, no grants. Ended when dropped.
#[derive(Debug)]
pub struct IsolatedServer {
    child: Child,
    group: Option<Pid>,
    version: Version,
    socket_dir: PathBuf,
    log: PathBuf,
}

/// The user that the server runs as.
#[derive(Debug, Clone, Copy)]
struct RunAs {
    uid: u32,
    gid: u32,
}

impl IsolatedServer {
    /// Starts it and waits until it answers. As root, `datadir` is given to the configured user and the server runs as that
    /// user; otherwise it runs as us.
    ///
    /// # Errors
    /// `Damaged` for a directory that was never prepared: a server starts on one without complaint and serves old data
    /// (measured). `Tool` with the end of its error log, or `Resources` when that tells what ran short; `Precondition` when no server binary of a fitting version is found;
    /// `Interrupted`.
    pub async fn start(datadir: &Path, of: &PlanServer, config: &DrillConfig, server: &ServerConfig, cancel: &Cancel) -> Result<Self> {
        refuse_unprepared(datadir, of.vendor)?;
        let binary = find_binary(server, of).await?;
        let run_as = run_as(&config.user).await?;
        let dirs = Dirs::make(datadir)?;
        if let Some(user) = run_as {
            for tree in [datadir, &dirs.server, &dirs.socket] {
                give(tree, user).context(Failure::Resources, || format!("give {} to {}", tree.display(), config.user))?;
            }
        }
        let mut command = Command::new(&binary.path);
        command.args(options(datadir, &dirs, of, &binary, config)?);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/").env("TZ", "UTC");
        command.process_group(0).kill_on_drop(true);
        if let Some(user) = run_as {
            command.uid(user.uid).gid(user.gid);
        }
        die_with_us(&mut command);
        let child = command.spawn().context(Failure::Precondition, || format!("start {}", binary.path.display()))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        tracing::info!(binary = %binary.path.display(), version = %binary.version, datadir = %datadir.display(), "isolated server starts");
        let mut server = Self { child, group, version: binary.version, socket_dir: dirs.socket, log: dirs.server.join("error.log") };
        let within = Duration::from_secs(config.start_timeout_s);
        let up = server.wait_until_up(within, cancel).await;
        let up = up.map_err(|e| server.explain(e, datadir, of, run_as));
        if let Err(error) = up {
            server.kill().await;
            return Err(error);
        }
        Ok(server)
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// `Server`.
    pub async fn connect(&self) -> Result<Server> {
        Server::connect_socket(&self.socket_dir.join("sock"), "root").await
    }

    /// The version of the running server.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its error log; stays after `stop`.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Shuts it down in order and waits for its end; kills it after a minute.
    ///
    /// # Errors
    /// `Tool` when it had to be killed or exited with an error.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let ended = timeout(STOP_WAIT, self.child.wait()).await;
        let problem = match ended {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => format!("ended with {status}"),
            Ok(Err(error)) => format!("could not be waited for: {error}"),
            Err(_) => format!("did not end within {} s and was killed", STOP_WAIT.as_secs()),
        };
        self.kill().await;
        Err(Error::new(Failure::Tool, format!("the isolated server {problem}; its log ends: {}", tail(&self.log))))
    }

    async fn wait_until_up(&mut self, within: Duration, cancel: &Cancel) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            cancel.check()?;
            let ended = self.child.try_wait().context(Failure::Tool, || "wait for the isolated server".into())?;
            if let Some(status) = ended {
                return Err(self.ended_early(status));
            }
            if self.socket_dir.join("sock").exists()
                && let Ok(mut connection) = self.connect().await
            {
                let isolated = check_isolation(&mut connection).await;
                connection.close().await;
                return isolated;
            }
            if Instant::now() > deadline {
                let message =
                    format!("the isolated server did not answer within {} s; its log ends: {}", within.as_secs(), tail(&self.log));
                return Err(Error::new(Failure::Tool, message).hint("raise drill.start_timeout_s if recovery needs longer"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn ended_early(&self, status: ExitStatus) -> Error {
        Error::new(Failure::Tool, format!("the isolated server ended with {status} before it answered; its log ends: {}", tail(&self.log)))
    }

    /// Adds the likely causes that we can see from here.
    fn explain(&self, error: Error, datadir: &Path, of: &PlanServer, user: Option<RunAs>) -> Error {
        if error.hint.is_some() || error.failure != Failure::Tool {
            return error;
        }
        // A machine that ran short says nothing about the data.
        if let Some(shortage) = Shortage::told_by(&error.chain()) {
            return shortage.error(error.chain());
        }
        let barred = user.and_then(|user| datadir.ancestors().skip(1).find(|dir| !passable(dir, user)).map(Path::to_owned));
        match barred {
            Some(dir) => error.hint(format!("its user cannot pass through {}: restore below a directory that it can", dir.display())),
            None if of.settings.encrypted => {
                error.hint("the data is encrypted at rest: give the server its keys by drill.server_options (`--plugin-load-add=…`)")
            }
            None => error,
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }

    async fn kill(&mut self) {
        self.signal(Signal::KILL);
        if timeout(STOP_WAIT, self.child.wait()).await.is_err() {
            tracing::error!("the isolated server does not die");
        }
    }
}

impl Drop for IsolatedServer {
    fn drop(&mut self) {
        // Ended and reaped already: its group may be another's by now.
        if self.child.id().is_some() {
            self.signal(Signal::KILL);
        }
        if let Err(error) = fs::remove_dir_all(&self.socket_dir) {
            tracing::debug!(%error, dir = %self.socket_dir.display(), "remove the socket's directory");
        }
    }
}

fn refuse_unprepared(datadir: &Path, vendor: Vendor) -> Result<()> {
    let found = Tool::read_checkpoints(datadir)?;
    if crate::drill::is_prepared(&found, vendor) {
        return Ok(());
    }
    Err(Error::new(Failure::Damaged, format!("{} is not prepared: its checkpoints file says {}", datadir.display(), found.backup_type))
        .hint("restore it with `highwater-host restore`"))
}

/// Asks the server itself whether it is as alone as we asked for.
async fn check_isolation(connection: &mut Server) -> Result<()> {
    let sql = "SELECT @@skip_networking, @@log_bin, @@event_scheduler IN ('OFF', 'DISABLED')";
    let alone = connection.first::<(i64, i64, i64)>(sql).await?;
    let replicas = if alone == Some((1, 0, 1)) { connection.all::<mysql_async::Row>("SHOW PROCESSLIST").await? } else { Vec::new() };
    let replicating = replicas.iter().any(|row| {
        let command: Option<String> = row.get::<Option<String>, _>("Command").flatten();
        command.is_some_and(|c| matches!(c.as_str(), "Slave_IO" | "Slave_SQL" | "Slave_worker" | "Binlog Dump"))
    });
    if alone == Some((1, 0, 1)) && !replicating {
        return Ok(());
    }
    let message =
        format!("the isolated server is not isolated: (skip_networking, log_bin, no events) is {alone:?}, replicating: {replicating}");
    Err(Error::new(Failure::Tool, message))
}

struct Dirs {
    /// `<parent of the data>/server`: log and temporary files.
    server: PathBuf,
    socket: PathBuf,
}

impl Dirs {
    fn make(datadir: &Path) -> Result<Self> {
        let parent = datadir.parent().unwrap_or(Path::new("/"));
        let server = parent.join(SERVER);
        let make =
            |dir: &Path| DirBuilder::new().mode(0o700).create(dir).context(Failure::Resources, || format!("create {}", dir.display()));
        match fs::remove_dir_all(&server) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).context(Failure::Resources, || format!("remove {}", server.display()));
            }
            _ => make(&server)?,
        }
        make_log(&server.join("error.log"))?;
        make(&server.join("tmp"))?;
        // secure_file_priv points here: SQL can read and write no other file.
        make(&server.join("files"))?;
        let mut socket = server.join("run");
        if socket.as_os_str().len() > LONGEST_SOCKET_DIR {
            let name = format!("highwater-{}-{:x}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
            socket = Path::new("/tmp").join(name);
        }
        make(&socket)?;
        Ok(Self { server, socket })
    }
}

/// The server's log, with room of its own: on a full disk the server could not say so, and the data would be blamed for its end.
fn make_log(path: &Path) -> Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let log = made.context(Failure::Resources, || format!("create {}", path.display()))?;
    match fallocate(&log, FallocateFlags::KEEP_SIZE, 0, LOG_ROOM) {
        // Where none can be reserved, the log is written like everything else.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(std::io::Error::from(error)).context(Failure::Resources, || format!("reserve room for {}", path.display())),
    }
}

pub(super) struct Binary {
    path: PathBuf,
    version: Version,
}

/// The first server binary of the data's vendor and series: in `server.bin_dir`, PATH, or where packages put it.
///
/// # Errors
/// `Precondition`, with the package to install.
pub(super) async fn find_binary(server: &ServerConfig, of: &PlanServer) -> Result<Binary> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/libexec", "/usr/local/sbin"].map(PathBuf::from);
    let dirs = server.bin_dir.iter().cloned().chain(std::env::split_paths(&path)).chain(usual);
    let names: &[&str] = match of.vendor {
        Vendor::Mariadb => &["mariadbd", "mysqld"],
        Vendor::Mysql => &["mysqld"],
    };
    let mut seen = Vec::new();
    for candidate in dirs.flat_map(|dir| names.iter().map(move |name| dir.join(name))).filter(|p| p.is_absolute() && p.is_file()) {
        let asked = Command::new(&candidate).args(["--no-defaults", "--version"]).stdin(Stdio::null()).kill_on_drop(true).output();
        let Ok(Ok(output)) = timeout(Duration::from_secs(30), asked).await else { continue };
        let Some((vendor, version)) = parse_version(&String::from_utf8_lossy(&output.stdout)) else { continue };
        if vendor == of.vendor && version.series() == of.version.series() {
            return Ok(Binary { path: candidate, version });
        }
        let found = format!("{} is {version}", candidate.display());
        if !seen.contains(&found) {
            seen.push(found);
        }
    }
    let (major, minor) = of.version.series();
    let name = match of.vendor {
        Vendor::Mariadb => "MariaDB",
        Vendor::Mysql => "MySQL",
    };
    let found = if seen.is_empty() { "none was found".to_owned() } else { seen.join(", ") };
    Err(Error::new(Failure::Precondition, format!("the data needs a {name} {major}.{minor} server; {found}"))
        .hint(format!("install the {name} {major}.{minor} server package, or set server.bin_dir")))
}

/// `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)`.
fn parse_version(text: &str) -> Option<(Vendor, Version)> {
    let version = text.split_whitespace().skip_while(|word| *word != "Ver").nth(1)?;
    let vendor = if text.contains("MariaDB") { Vendor::Mariadb } else { Vendor::Mysql };
    Some((vendor, version.parse().ok()?))
}

/// The command line. The last of two equal options wins, so those that isolate come last.
fn options(datadir: &Path, dirs: &Dirs, of: &PlanServer, binary: &Binary, config: &DrillConfig) -> Result<Vec<String>> {
    let path = |name: &str, at: &Path| format!("--{name}={}", at.display());
    let mut options = vec!["--no-defaults".to_owned()];
    options.extend(data_options(datadir)?);
    options.push(format!("--innodb-page-size={}", of.settings.innodb_page_size));
    options.push(format!("--lower-case-table-names={}", of.settings.lower_case_table_names));
    options.push(format!("--innodb-buffer-pool-size={}M", config.buffer_pool_mib.max(32)));
    options.extend(config.server_options.iter().cloned());
    options.extend([
        path("datadir", datadir),
        path("socket", &dirs.socket.join("sock")),
        path("pid-file", &dirs.socket.join("pid")),
        path("log-error", &dirs.server.join("error.log")),
        path("tmpdir", &dirs.server.join("tmp")),
        path("secure-file-priv", &dirs.server.join("files")),
    ]);
    let mut alone = vec![
        "--skip-networking",
        "--skip-grant-tables",
        "--skip-log-bin",
        "--event-scheduler=DISABLED",
        "--local-infile=OFF",
        "--performance-schema=OFF",
        "--general-log=OFF",
        "--slow-query-log=OFF",
        // The statistics tables are data too, and are compared: nothing may rewrite them behind the checks.
        "--innodb-stats-auto-recalc=OFF",
        "--innodb-buffer-pool-load-at-startup=OFF",
        "--innodb-buffer-pool-dump-at-shutdown=OFF",
    ];
    alone.extend(match of.vendor {
        Vendor::Mariadb => ["--skip-slave-start", "--loose-feedback=OFF", "--loose-wsrep-on=OFF"].as_slice(),
        Vendor::Mysql if binary.version.series() >= (8, 4) => &["--skip-replica-start", "--loose-mysqlx=OFF"],
        Vendor::Mysql => &["--skip-slave-start", "--loose-mysqlx=OFF"],
    });
    options.extend(alone.into_iter().map(str::to_owned));
    Ok(options)
}

/// The settings without which InnoDB does not find or read its files, from the tool's `backup-my.cnf`: nothing else of
/// that file, and no path that leaves the data directory, reaches the server.
fn data_options(datadir: &Path) -> Result<Vec<String>> {
    const KNOWN: [&str; 5] = [
        "innodb_checksum_algorithm",
        "innodb_data_file_path",
        "innodb_undo_directory",
        "innodb_undo_tablespaces",
        "innodb_compression_level",
    ];
    let file = datadir.join("backup-my.cnf");
    let text = match small::read(&file, small::TOOL_FILE_BYTES) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context(Failure::Damaged, || format!("read {}", file.display())),
    };
    let mut options = Vec::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.trim(), v.trim())) {
        if !KNOWN.contains(&key) || value.is_empty() {
            continue;
        }
        let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b":;._-/".contains(&b));
        let inside = value.split([';', ':']).all(|part| !part.starts_with('/')) && !value.split(['/', ';', ':']).any(|part| part == "..");
        if !(plain && inside) {
            let message = format!("{} sets {key} to {value:?}, which leaves the data directory", file.display());
            return Err(
                Error::new(Failure::Precondition, message).hint("set it by drill.server_options, to where the files are on this host")
            );
        }
        options.push(format!("--{}={value}", key.replace('_', "-")));
    }
    Ok(options)
}

/// The configured user when we are root; a server refuses to run as root.
async fn run_as(user: &str) -> Result<Option<RunAs>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let uid = id("-u", user).await?;
    if uid == 0 {
        return Err(Error::new(Failure::Config, "drill.user is root; name an unprivileged user"));
    }
    Ok(Some(RunAs { uid, gid: id("-g", user).await? }))
}

/// Asks `id`, which knows users from every source that the host has.
async fn id(what: &str, user: &str) -> Result<u32> {
    let asked = Command::new("id").args([what, "--", user]).stdin(Stdio::null()).output().await;
    let output = asked.context(Failure::Precondition, || format!("run id {what} {user}"))?;
    let number = String::from_utf8_lossy(&output.stdout).trim().parse().ok().filter(|_| output.status.success());
    number.ok_or_else(|| {
        Error::new(Failure::Precondition, format!("the user {user} does not exist")).hint("install the server package, or set drill.user")
    })
}

fn give(tree: &Path, user: RunAs) -> std::io::Result<()> {
    let found = fs::symlink_metadata(tree)?;
    if (found.uid(), found.gid()) != (user.uid, user.gid) {
        lchown(tree, Some(user.uid), Some(user.gid))?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(tree)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// Whether `user` may pass through `dir`, by its mode alone.
fn passable(dir: &Path, user: RunAs) -> bool {
    let Ok(found) = fs::metadata(dir) else { return true };
    let mode = found.permissions().mode();
    let bit = if found.uid() == user.uid {
        0o100
    } else if found.gid() == user.gid {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

/// Has the kernel kill the server when we die, even by SIGKILL. It is the death of the starting *thread* that counts: the
/// commands start servers on the main thread or on one of the runtime's, which live as long as the process does.
#[expect(unsafe_code, reason = "pre_exec is the only way to set PR_SET_PDEATHSIG after the change of user, which clears it")]
fn die_with_us(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only two async-signal-safe system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before the line above took effect.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
        });
    }
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    const LINES: usize = 12;
    let text = crate::drill::read_log(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.is_empty() { "(nothing)".into() } else { lines[lines.len().saturating_sub(LINES)..].join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_binary_tells_its_vendor_and_version() {
        let check = |text, expected: Option<(Vendor, &str)>| {
            assert_eq!(parse_version(text).map(|(vendor, v)| (vendor, v.to_string())), expected.map(|(vendor, v)| (vendor, v.to_owned())));
        };
        let mariadb = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        check(mariadb, Some((Vendor::Mariadb, "10.11.19")));
        check("/usr/sbin/mysqld  Ver 8.0.36-28 for Linux on x86_64 (Percona Server (GPL))", Some((Vendor::Mysql, "8.0.36")));
        check("mysqld: unknown", None);
        check("", None);
    }

    #[test]
    fn only_known_settings_that_stay_inside_the_data_directory_reach_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let check = |text: &str| {
            fs::write(dir.path().join("backup-my.cnf"), text).unwrap();
            data_options(dir.path()).map_err(|e| e.failure)
        };
        let text = "[mysqld]\ninnodb_data_file_path=ibdata1:12M;more/ibdata2:10M:autoextend\ninnodb_undo_directory=./\nplugin_load=evil.so\ninit-file=/x\n#innodb_compression_level=6\n";
        assert_eq!(check(text).unwrap(), ["--innodb-data-file-path=ibdata1:12M;more/ibdata2:10M:autoextend", "--innodb-undo-directory=./"]);
        for bad in [
            "innodb_data_file_path=/dev/sda:10Graw",
            "innodb_data_file_path=ibdata1:12M;/dev/sda:1M",
            "innodb_undo_directory=/x",
            "innodb_undo_directory=../x",
            "innodb_undo_directory=a b",
        ] {
            assert_eq!(check(bad), Err(Failure::Precondition), "{bad}");
        }
    }
}
