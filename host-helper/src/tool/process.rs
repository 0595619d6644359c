//! Runs a backup tool: in a process group of its own, its stderr drained and redacted all the time, its last lines kept.
//!
//! A full stderr pipe blocks the tool, and mariadb-backup blocks SIGTERM and SIGHUP (both measured): so a thread always
//! reads, and the end is SIGINT, then SIGKILL for the whole group. A thread starts the tool, waits for it and outlives
//! it; with `setpriv` on the host, the kernel kills the tool when this process dies, however it dies.

use super::redact::Redactor;
use crate::config::IoNice;
use crate::error::{Context, Error, Result};
use crate::shortage::Shortage;
use crate::signal::Cancel;
use highwater_core::Failure;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::watch;

/// Lines of stderr kept for the error message.
const KEPT_LINES: usize = 40;
/// A longer line is cut, so that a line without end costs no memory.
const MAX_LINE_BYTES: usize = 8 << 10;
/// Between SIGINT and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// For the last lines, once every process of the group is gone.
const DRAIN: Duration = Duration::from_secs(5);
/// The pipe between tool and helper, as large as an unprivileged process may have it.
const PIPE_BYTES: usize = 1 << 20;

/// What to run, and how gently.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) nice: u8,
    pub(crate) ionice: IoNice,
    pub(crate) redactor: Redactor,
}

/// A running tool. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct Running {
    what: String,
    stdout: Option<ChildStdout>,
    group: Arc<Group>,
    watched: Arc<Mutex<Watched>>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

/// The process group, signalled only while its leader has not been reaped: a number is never another's.
#[derive(Debug)]
struct Group {
    leader: Pid,
    reaped: Mutex<bool>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        let reaped = lock(&self.reaped);
        if !*reaped && let Err(error) = kill_process_group(self.leader, signal) {
            tracing::debug!(%error, ?signal, "signalling the tool's group");
        }
    }
}

/// What stderr has told so far.
#[derive(Debug, Default)]
struct Watched {
    tail: VecDeque<String>,
    redo_retries: u64,
    redo_overrun: Option<String>,
}

/// How the tool ended.
#[derive(Debug)]
pub(crate) struct Ended {
    what: String,
    status: ExitStatus,
    tail: Vec<String>,
    redo_overrun: Option<String>,
    redo_retries: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Starts it. `with_stdout`: its standard output is ours to read, else it is thrown away.
    ///
    /// # Errors
    /// `Precondition` when it cannot be started; `Resources`.
    pub(crate) async fn start(invocation: Invocation, with_stdout: bool) -> Result<Self> {
        let what = invocation.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = gentle_command(&invocation);
        command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(if with_stdout { Stdio::piped() } else { Stdio::null() });
        let watched = Arc::new(Mutex::new(Watched::default()));
        let (tell_end, ended) = watch::channel(None);
        let (tell_start, started) = tokio::sync::oneshot::channel();
        let (redactor, seen, name) = (invocation.redactor, watched.clone(), what.clone());
        std::thread::Builder::new()
            .name("tool".into())
            .spawn(move || match command.spawn() {
                Err(error) => {
                    let _ = tell_start.send(Err(error));
                }
                Ok(mut child) => {
                    let Some(leader) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
                    let group = Arc::new(Group { leader, reaped: Mutex::new(false) });
                    let drained = drain(&mut child, name, redactor, seen);
                    let _ = tell_start.send(Ok((child.stdout.take(), group.clone())));
                    let status = reap(&mut child, &group);
                    // The group is gone: what is left in the pipe is short, unless somebody outside the group holds it.
                    let _ = drained.recv_timeout(DRAIN);
                    tell_end.send_replace(Some(status));
                }
            })
            .context(Failure::Resources, || format!("start a thread for {what}"))?;
        let (stdout, group) = match started.await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(error).context(Failure::Precondition, || format!("start {}", invocation.program.display())),
            Err(_) => return Err(Error::new(Failure::Resources, format!("start {what}: its thread ended"))),
        };
        if let Some(stdout) = &stdout
            && let Err(error) = rustix::pipe::fcntl_setpipe_size(stdout, PIPE_BYTES)
        {
            tracing::debug!(%error, "enlarging the tool's pipe");
        }
        Ok(Self { what, stdout, group, watched, ended })
    }

    /// Its standard output, once.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> Ended {
        let status = self.ended.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        // The thread cannot end without a status; if it panicked, nothing good is known.
        let status = status.unwrap_or_else(|| ExitStatus::from_raw(9));
        let watched = lock(&self.watched);
        Ended {
            what: self.what.clone(),
            status,
            tail: watched.tail.iter().cloned().collect(),
            redo_overrun: watched.redo_overrun.clone(),
            redo_retries: watched.redo_retries,
        }
    }

    /// Waits for its end; ends it when cancelled.
    ///
    /// # Errors
    /// `Interrupted` when cancelled.
    pub(crate) async fn wait_or_cancel(&mut self, cancel: &Cancel) -> Result<Ended> {
        tokio::select! {
            ended = self.wait() => return Ok(ended),
            _ = cancel.cancelled() => {}
        }
        self.end().await;
        cancel.check()?;
        Err(Error::new(Failure::Interrupted, format!("{} was ended", self.what)))
    }

    /// Ends it and everything it started, and returns when they are gone.
    pub(crate) async fn end(&mut self) -> Ended {
        self.group.signal(Signal::INT);
        if let Ok(ended) = tokio::time::timeout(GRACE, self.wait()).await {
            return ended;
        }
        self.group.signal(Signal::KILL);
        self.wait().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

/// Waits for the leader, kills what it left of its group, and only then lets its number go.
fn reap(child: &mut Child, group: &Group) -> ExitStatus {
    loop {
        match waitid(WaitId::Pid(group.leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => break tracing::warn!(%error, "waiting for the tool"),
            Ok(_) => break,
        }
    }
    group.signal(Signal::KILL);
    let mut reaped = lock(&group.reaped);
    let status = child.wait();
    *reaped = true;
    status.unwrap_or_else(|error| {
        tracing::warn!(%error, "waiting for the tool");
        ExitStatus::from_raw(9)
    })
}

/// Reads stderr to its end in a thread; the receiver hears when it is there.
fn drain(child: &mut Child, what: String, redactor: Redactor, watched: Arc<Mutex<Watched>>) -> mpsc::Receiver<()> {
    let (done, drained) = mpsc::channel();
    if let Some(stderr) = child.stderr.take() {
        let reader = std::thread::Builder::new().name("tool-stderr".into()).spawn(move || {
            each_line(stderr, |line| note(&what, &redactor.clean(&String::from_utf8_lossy(line)), &watched));
            let _ = done.send(());
        });
        if let Err(error) = reader {
            // Dropping the pipe lets the tool fail on its next line instead of hanging.
            tracing::warn!(%error, "start a thread for the tool's stderr");
        }
    }
    drained
}

/// Every line of `source`, cut to a bounded length. A read error ends it as the end does.
fn each_line(source: impl Read, mut line: impl FnMut(&[u8])) {
    let mut source = BufReader::new(source);
    let mut buffer = [0u8; 4096];
    let mut pending = Vec::new();
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for byte in buffer.iter().take(count) {
            match byte {
                b'\n' => {
                    line(&pending);
                    pending.clear();
                }
                _ if pending.len() < MAX_LINE_BYTES => pending.push(*byte),
                _ => {}
            }
        }
    }
    if !pending.is_empty() {
        line(&pending);
    }
}

/// Keeps a line, and says early what a person should know while there is time.
fn note(what: &str, line: &str, watched: &Mutex<Watched>) {
    if line.trim().is_empty() {
        return;
    }
    tracing::debug!(tool = what, line, "tool");
    let mut watched = lock(watched);
    if watched.tail.len() == KEPT_LINES {
        watched.tail.pop_front();
    }
    watched.tail.push_back(line.to_owned());
    // mariadb-backup 10.6 to 11.8 say "Retrying read of log at LSN=" when the server overwrote what they wanted to read.
    if line.contains("Retrying read of log at LSN=") || line.contains("log block numbers mismatch") {
        watched.redo_retries += 1;
        if watched.redo_retries.is_power_of_two() {
            tracing::warn!(
                tool = what,
                line,
                retries = watched.redo_retries,
                "the server writes redo faster than it is copied: this backup may fail at its end; enlarge the redo log or speed up the upload"
            );
        }
    }
    if is_redo_overrun(line) && watched.redo_overrun.is_none() {
        watched.redo_overrun = Some(line.to_owned());
    }
}

/// The tools' own words for "the server overwrote redo that I had not copied yet".
fn is_redo_overrun(line: &str) -> bool {
    line.contains("Was only able to copy log from")
        || line.contains("log block numbers mismatch")
        || line.contains("It looks like InnoDB log has wrapped around before xtrabackup could process")
        || line.contains("log files have wrapped around")
}

impl Ended {
    /// The tool's success: exit 0 and `completed OK!` as the last line (I5).
    ///
    /// # Errors
    /// `RedoOverrun`, `Resources`, `Precondition`, `Server`, `Interrupted` where the tool's words or its signal say so;
    /// else `Tool`. The message holds the tool's own line.
    pub(crate) fn success(&self) -> Result<()> {
        let what = &self.what;
        let last = self.tail.last().map(String::as_str).unwrap_or_default();
        if let Some(line) = &self.redo_overrun {
            return Err(Error::new(Failure::RedoOverrun, format!("{what}: {line}"))
                .hint("enlarge the server's redo log (innodb_log_file_size or innodb_redo_log_capacity), or back up at a quieter time"));
        }
        if let Some(signal) = self.status.signal() {
            return Err(self.killed(signal));
        }
        if !self.status.success() {
            let line = self.telling_line().unwrap_or("it said nothing");
            let code = self.status.code().unwrap_or(-1);
            return Err(of_class(line, format!("{what} exited with {code}: {line}")));
        }
        if !last.trim_end().ends_with("completed OK!") {
            let line = if last.is_empty() { "nothing" } else { last };
            return Err(Error::new(
                Failure::Tool,
                format!("{what} exited with 0 but its last line is not `completed OK!`; it says: {line}"),
            ));
        }
        Ok(())
    }

    fn killed(&self, signal: i32) -> Error {
        let (what, line) = (&self.what, self.telling_line().unwrap_or("nothing"));
        let message = format!("{what} was killed by signal {signal}; the last it said: {line}");
        match signal {
            // HUP, INT, KILL, TERM: somebody's hand, or the kernel's.
            1 | 2 | 9 | 15 => {
                Error::new(Failure::Interrupted, message).hint("if nobody killed it, look for the OOM killer in the kernel log")
            }
            // Its own: InnoDB aborts where it can go no further, a full disk too (measured).
            _ => of_class(line, message),
        }
    }

    /// The line that says why: one that tells what ran short, else the last one that speaks of an error, else the last.
    fn telling_line(&self) -> Option<&str> {
        let speaks_of_error = |line: &&String| {
            let lower = line.to_ascii_lowercase();
            ["error", "fail", "denied", "cannot", "can't", "unknown option", "unable", "not seem", "needs a prepared"]
                .iter()
                .any(|w| lower.contains(w))
        };
        let short = self.tail.iter().rev().find(|line| Shortage::told_by(line).is_some());
        short.or_else(|| self.tail.iter().rev().find(speaks_of_error)).or_else(|| self.tail.last()).map(String::as_str)
    }

    /// Whether one of its last lines holds one of these words.
    pub(crate) fn says(&self, words: &[&str]) -> bool {
        self.tail.iter().any(|line| words.iter().any(|word| line.contains(word)))
    }

    /// How often the tool had to retry reading redo.
    pub(crate) fn redo_retries(&self) -> u64 {
        self.redo_retries
    }
}

/// An error of the class that a tool's line tells.
fn of_class(line: &str, message: String) -> Error {
    let any = |words: &[&str]| words.iter().any(|w| line.contains(w));
    if let Some(shortage) = Shortage::told_by(line) {
        shortage.error(message)
    } else if any(&["Access denied", "missing required privilege"]) {
        Error::new(Failure::Precondition, message).hint("`highwater-host doctor` names the missing privilege and the GRANT")
    } else if any(&["Failed to connect", "server has gone away", "Lost connection", "Can't connect"]) {
        Error::new(Failure::Server, message)
    } else {
        Error::new(Failure::Tool, message)
    }
}

/// The command behind `setpriv`, `nice` and `ionice` where the host has them: each only sets something and becomes the next.
fn gentle_command(invocation: &Invocation) -> Command {
    let mut argv: Vec<OsString> = Vec::new();
    let mut wrap = |binary: &str, args: &[&str]| {
        if let Some(path) = find_binary(None, binary) {
            argv.push(path.into());
            argv.extend(args.iter().map(OsString::from));
        }
    };
    wrap("setpriv", &["--pdeathsig", "KILL"]);
    if invocation.nice > 0 {
        wrap("nice", &["-n", &invocation.nice.to_string()]);
    }
    match invocation.ionice {
        IoNice::None => {}
        IoNice::BestEffort => wrap("ionice", &["-t", "-c", "2", "-n", "7"]),
        IoNice::Idle => wrap("ionice", &["-t", "-c", "3"]),
    }
    argv.push(invocation.program.clone().into());
    argv.extend(invocation.args.iter().cloned());
    let mut argv = argv.into_iter();
    let mut command = Command::new(argv.next().unwrap_or_default());
    command.args(argv).process_group(0).env("LC_ALL", "C");
    // The tool needs none of our secrets, and its environment can be read by whoever may read ours.
    for (name, _) in std::env::vars_os() {
        if name == "MYSQL_PWD" || name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    if let Some(dir) = &invocation.dir {
        command.current_dir(dir);
    }
    command
}

/// The first executable file called `name` in `first`, PATH and the usual places.
pub(crate) fn find_binary(first: Option<&Path>, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/libexec", "/bin"].map(PathBuf::from);
    first
        .map(Path::to_path_buf)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(usual)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Invocation {
        Invocation {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            dir: None,
            nice: 1,
            ionice: IoNice::BestEffort,
            redactor: Redactor::default(),
        }
    }

    async fn outcome(script: &str) -> Result<()> {
        Running::start(shell(script), false).await.unwrap().wait().await.success()
    }

    #[tokio::test]
    async fn only_exit_0_with_completed_ok_as_the_last_line_is_success() {
        let check = async |script: &str, expected: Option<(Failure, &str)>| match (outcome(script).await, expected) {
            (Ok(()), None) => {}
            (Err(e), Some((failure, text))) => assert!(e.failure == failure && e.message.contains(text), "{script}: {e:?}"),
            (got, _) => panic!("{script}: {got:?}"),
        };
        check("echo '[00] completed OK!' >&2", None).await;
        check("echo 'completed OK!' >&2; echo more >&2", Some((Failure::Tool, "it says: more"))).await;
        check("true", Some((Failure::Tool, "it says: nothing"))).await;
        check("echo 'completed OK!' >&2; exit 3", Some((Failure::Tool, "exited with 3"))).await;
        check("echo 'Error: writing file failed: Errcode: 28' >&2; echo bye >&2; exit 1", Some((Failure::Resources, "Errcode: 28"))).await;
        check("echo 'Was only able to copy log from 1 to 2, not 3' >&2; exit 1", Some((Failure::RedoOverrun, "from 1 to 2"))).await;
        check("echo 'Failed to connect to MariaDB server' >&2; exit 1", Some((Failure::Server, "Failed to connect"))).await;
        check("kill -9 $$", Some((Failure::Interrupted, "signal 9"))).await;
        check("kill -ABRT $$", Some((Failure::Tool, "signal 6"))).await;
        let full = "echo '[ERROR] InnoDB: preallocating 7 bytes for file ./ibdata1 failed with error 28' >&2; echo 'InnoDB: Assertion failure' >&2";
        check(&format!("{full}; kill -ABRT $$"), Some((Failure::Resources, "ibdata1 failed with error 28"))).await;
        check(&format!("{full}; kill -9 $$"), Some((Failure::Interrupted, "signal 9"))).await;
    }

    #[tokio::test]
    async fn a_flood_on_stderr_never_blocks_the_tool_and_keeps_its_last_lines_only() {
        let mut tool = Running::start(shell("i=0; while [ $i -lt 20000 ]; do echo \"line $i of many, padded ............\"; i=$((i+1)); done >&2; head -c 3000000 /dev/zero >&2; echo >&2; echo 'completed OK!' >&2"), false).await.unwrap();
        let ended = tool.wait().await;
        ended.success().unwrap();
        assert_eq!(ended.tail.len(), KEPT_LINES);
        assert!(ended.tail.iter().all(|l| l.len() <= MAX_LINE_BYTES));
    }

    #[tokio::test]
    async fn cancelling_ends_the_whole_group_even_when_it_ignores_every_polite_signal() {
        let (canceller, cancel) = Cancel::manual();
        let script = "trap '' TERM INT HUP; (trap '' TERM INT HUP; exec sleep 300) & echo child $! >&2; wait; sleep 300";
        let mut tool = Running::start(shell(script), false).await.unwrap();
        let begun = Instant::now();
        let child = loop {
            let line = lock(&tool.watched).tail.front().cloned();
            match line.and_then(|l| l.strip_prefix("child ").and_then(|n| n.parse::<i32>().ok())) {
                Some(pid) => break Pid::from_raw(pid).unwrap(),
                None if begun.elapsed() > Duration::from_secs(20) => panic!("the child never spoke"),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        canceller.cancel("SIGTERM");
        let error = tool.wait_or_cancel(&cancel).await.unwrap_err();
        assert_eq!(error.failure, Failure::Interrupted);
        // Gone, or a zombie that its new parent has not reaped yet.
        let ended = || std::fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |state| state.contains(") Z "));
        while !ended() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{child} survived its group");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn the_tool_sees_no_aws_credentials_and_runs_gently() {
        let mut tool = Running::start(shell("env | grep -c '^AWS_' >&2; nice >&2; echo 'completed OK!' >&2"), false).await.unwrap();
        let ended = tool.wait().await;
        ended.success().unwrap();
        assert_eq!(ended.tail.first().map(String::as_str), Some("0"));
    }
}
