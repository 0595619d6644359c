//! Service control: a systemd unit, or the configured commands. Every wait has an end; what the commands print is kept.

use crate::config::ServiceConfig;
use crate::error::{Context, Error, Result};
use highwater_core::Failure;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// What asks for a state may take so long.
const STATUS_LIMIT: Duration = Duration::from_secs(30);
/// How often a state is looked at while waiting for it.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// What service control says of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    /// On its way up or down.
    Changing,
    Stopped,
    Unknown(String),
}

/// Controls the server. `log` collects the commands' output, and that of a server that a command starts as its child.
pub(super) struct Service<'a> {
    pub(super) config: &'a ServiceConfig,
    pub(super) log: PathBuf,
}

impl Service<'_> {
    fn argv(&self, action: &str) -> Vec<String> {
        match self.config {
            ServiceConfig::Systemd(s) if action == "status" => {
                ["systemctl", "show", "--property=ActiveState", "--value", &s.unit].map(str::to_owned).to_vec()
            }
            ServiceConfig::Systemd(s) => vec!["systemctl".to_owned(), action.to_owned(), s.unit.clone()],
            ServiceConfig::Commands(c) => match action {
                "stop" => c.stop.clone(),
                "start" => c.start.clone(),
                _ => c.status.clone(),
            },
        }
    }

    /// The command line of an action, for a person to type.
    pub(super) fn command_line(&self, action: &str) -> String {
        self.argv(action).iter().map(|a| shell_word(a)).collect::<Vec<_>>().join(" ")
    }

    fn command(&self, action: &str) -> Result<Command> {
        let argv = self.argv(action);
        let Some((program, arguments)) = argv.split_first() else {
            return Err(Error::new(Failure::Config, format!("promote.service.{action} is empty")));
        };
        let mut command = Command::new(program);
        // A group of its own: a Ctrl-C meant for us must not reach the server.
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        Ok(command)
    }

    /// Asks for the state.
    pub(super) async fn status(&self) -> Result<Status> {
        let what = || format!("run `{}`", self.command_line("status"));
        let output = timeout(STATUS_LIMIT, self.command("status")?.kill_on_drop(true).output()).await;
        let output = match output {
            Ok(output) => output.context(Failure::Config, what)?,
            Err(_) => return Ok(Status::Unknown(format!("{} takes longer than {} s", what(), STATUS_LIMIT.as_secs()))),
        };
        Ok(match self.config {
            ServiceConfig::Systemd(_) => match String::from_utf8_lossy(&output.stdout).trim() {
                "active" | "reloading" => Status::Running,
                "activating" | "deactivating" => Status::Changing,
                "inactive" | "failed" => Status::Stopped,
                other => Status::Unknown(format!("systemd calls the unit {other:?}")),
            },
            ServiceConfig::Commands(_) => match output.status.code() {
                Some(0) => Status::Running,
                Some(3) => Status::Stopped,
                _ => Status::Unknown(format!("{}: {}", what(), output.status)),
            },
        })
    }

    fn spawn(&self, action: &str) -> Result<Child> {
        let log = || File::options().create(true).append(true).mode(0o600).open(&self.log);
        let [out, err] = [log(), log()].map(|f| f.context(Failure::Resources, || format!("open {}", self.log.display())));
        tracing::info!(command = self.command_line(action), output = %self.log.display(), "service");
        let child = self.command(action)?.stdout(out?).stderr(err?).spawn();
        child.context(Failure::Config, || format!("run `{}`", self.command_line(action)))
    }

    /// Runs the stop command to its end. The state is for the caller to look at.
    pub(super) async fn stop(&self, limit: Duration) -> Result<()> {
        let mut child = self.spawn("stop")?;
        match timeout(limit, child.wait()).await {
            Ok(ended) => {
                let ended = ended.context(Failure::Tool, || "wait for the stop command".into())?;
                if ended.success() { Ok(()) } else { Err(self.failed("stop", &ended.to_string())) }
            }
            Err(_) => {
                kill_group(&child);
                Err(self.failed("stop", &format!("it did not end within {} s", limit.as_secs())))
            }
        }
    }

    /// Begins the start command. It may end before the server answers, or be the server itself and never end.
    pub(super) fn start(&self) -> Result<Starting<'_>> {
        Ok(Starting { child: self.spawn("start")?, service: self })
    }

    fn failed(&self, action: &str, how: &str) -> Error {
        let tail = self.tail();
        let said = if tail.is_empty() { String::new() } else { format!("; it said: {tail}") };
        Error::new(Failure::Tool, format!("`{}` failed: {how}{said}", self.command_line(action)))
            .hint(format!("its output is kept in {}", self.log.display()))
    }

    /// The last lines of the commands' output.
    fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }
}

/// A start command that was begun.
pub(super) struct Starting<'a> {
    child: Child,
    service: &'a Service<'a>,
}

impl Starting<'_> {
    /// Fails once the start command has.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(ended)) if !ended.success() => Err(self.service.failed("start", &ended.to_string())),
            _ => Ok(()),
        }
    }
}

fn kill_group(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Looks again and again until `look` gives something, at most until `deadline`.
pub(super) async fn wait_until<T>(deadline: Instant, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    loop {
        if let Some(found) = look().await? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(POLL).await;
    }
}

/// A word as a shell reads it back.
pub(super) fn shell_word(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&b));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CommandService;

    fn commands(stop: &str, status: &str) -> ServiceConfig {
        let sh = |text: &str| ["sh", "-c", text].map(str::to_owned).to_vec();
        ServiceConfig::Commands(CommandService { stop: sh(stop), start: sh("true"), status: sh(status) })
    }

    #[tokio::test]
    async fn a_stop_command_that_fails_or_hangs_is_an_error_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let config = commands("echo no such server >&2; exit 5", "exit 3");
        let service = Service { config: &config, log: dir.path().join("log") };
        let failed = service.stop(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(failed.failure, Failure::Tool);
        assert!(failed.message.contains("exit status: 5") && failed.message.contains("no such server"), "{}", failed.message);
        let config = commands("sleep 60", "exit 3");
        let service = Service { config: &config, log: dir.path().join("log") };
        let failed = service.stop(Duration::from_millis(100)).await.unwrap_err();
        assert!(failed.message.contains("did not end"), "{}", failed.message);
    }

    #[tokio::test]
    async fn only_0_and_3_are_states() {
        for (status, expected) in [("exit 0", Some(Status::Running)), ("exit 3", Some(Status::Stopped)), ("exit 1", None)] {
            let config = commands("true", status);
            let found = Service { config: &config, log: PathBuf::new() }.status().await.unwrap();
            match expected {
                Some(expected) => assert_eq!(found, expected),
                None => assert!(matches!(found, Status::Unknown(_)), "{found:?}"),
            }
        }
    }

    #[test]
    fn words_for_a_person_survive_the_shell() {
        assert_eq!(shell_word("/var/lib/mysql.old-2026"), "/var/lib/mysql.old-2026");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
    }
}
