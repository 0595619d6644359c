//! Following what runs elsewhere: a backup on its host, a drill, a promotion. Whoever stops following ends nothing.

use crate::deployment::{Context, Deployment, OfCluster};
use crate::error::{Error, Result};
use crate::{STOPPED_FOLLOWING, backup, drill, promotion};
use highwater_core::promotion::PromotionId;
use highwater_core::status::lasting;
use highwater_core::{BackupId, ClusterId, DrillId, Failure};
use jiff::Timestamp;
use serde_json::json;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `follow`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater follow 20261122T020000Z-full-4f7c --cluster orders      # a backup\n  highwater follow 20261122T023000Z-4f7c90ab --cluster orders       # a drill\n  highwater follow 20261122T025000Z-4f7c --cluster orders           # a promotion\n\nCtrl-C stops following, and nothing else."
)]
pub(crate) struct FollowArgs {
    /// A backup's, a drill's or a request's id, or the ARN of a drill's execution.
    #[arg(value_name = "ID")]
    operation: Operation,
    #[command(flatten)]
    of: OfCluster,
}

/// What can be followed.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Backup(BackupId),
    Drill(DrillId),
    Execution(String),
    Promotion(PromotionId),
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let backup = text.parse().map(Self::Backup).ok();
        let drill = || text.parse().map(Self::Drill).ok();
        let promotion = || text.parse().map(Self::Promotion).ok();
        let execution = || text.contains(":execution:").then(|| Self::Execution(text.to_owned()));
        backup.or_else(drill).or_else(promotion).or_else(execution).ok_or_else(|| {
            "expected a backup's id (20261122T020000Z-full-4f7c), a drill's (20261122T023000Z-4f7c90ab), a request's \
             (20261122T025000Z-4f7c) or an execution's ARN"
                .to_owned()
        })
    }
}

pub(crate) async fn run(args: &FollowArgs, cx: &Context) -> Result<()> {
    let (deployment, config) = args.of.find(cx).await?;
    match &args.operation {
        Operation::Backup(id) => backup::follow(&deployment, &config.cluster, id, cx).await,
        Operation::Drill(id) => {
            let record = deployment.catalog().drill(&config.cluster, id).await?;
            let execution = record.map(|record| record.execution).ok_or_else(|| unknown("drill", id, &config.cluster))?;
            drill::follow(&deployment, &config.cluster, &execution, cx).await
        }
        Operation::Execution(arn) => drill::follow(&deployment, &config.cluster, arn, cx).await,
        Operation::Promotion(id) => promotion::follow(&deployment, &config.cluster, id, cx).await,
    }
}

/// The catalog knows none of that id.
pub(crate) fn unknown(what: &str, id: impl fmt::Display, cluster: &ClusterId) -> Error {
    Error::new(Failure::Document, format!("the catalog of {cluster} has no {what} {id}")).hint("see `highwater status`")
}

/// What is followed.
#[derive(Debug)]
pub(crate) struct Followed<'a> {
    /// `backup`, `drill` or `promotion`.
    pub(crate) what: &'static str,
    /// By what it is followed again.
    pub(crate) id: String,
    pub(crate) cluster: &'a ClusterId,
    /// When it began.
    pub(crate) began: Timestamp,
    /// How long such a one usually takes, seconds; nothing if none was measured.
    pub(crate) usually: Option<i64>,
}

/// What a look showed.
#[derive(Debug)]
pub(crate) enum Seen<T> {
    /// It runs: its step, and what to say of it.
    Runs(String),
    /// It has ended.
    Ended(T),
}

/// Looks until the operation has ended. Says each step once, on a terminal also how long it lasts.
///
/// # Errors
/// Those of a look, but for a service that does not answer for a while; `Interrupted` on Ctrl-C.
pub(crate) async fn until_ended<T>(followed: &Followed<'_>, cx: &Context, mut look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    let mut progress =
        Progress { terminal: !cx.json && std::io::stderr().is_terminal(), step: String::new(), said_at: Timestamp::UNIX_EPOCH };
    let (mut pause, mut lost) = (Duration::from_millis(300), 0);
    // Listened for from here on, so that one that comes during a look is not lost, nor ends the command without a word.
    let listen = signal(SignalKind::interrupt());
    let mut interrupts = listen.map_err(|e| Error::new(Failure::Resources, format!("listen for Ctrl-C: {e}")))?;
    loop {
        match look().await {
            Ok(Seen::Ended(ended)) => {
                progress.done();
                return Ok(ended);
            }
            Ok(Seen::Runs(step)) => {
                lost = 0;
                progress.say(followed, &step, Timestamp::now());
            }
            // A service that is away for a moment is no news of the operation.
            Err(error) if error.failure == Failure::Storage && lost < LOST_LOOKS => lost += 1,
            Err(error) => {
                progress.done();
                return Err(error);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 5 / 4).min(LONGEST_PAUSE),
            _ = interrupts.recv() => {
                progress.done();
                let Followed { what, id, cluster, .. } = followed;
                return Err(Error::new(Failure::Interrupted, format!("{what} {id} goes on; it is not followed any more"))
                    .hint(format!("highwater follow {id} --cluster {cluster}"))
                    .exit_with(STOPPED_FOLLOWING));
            }
        }
    }
}

const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Looks in a row that may get no answer: after the client's own retries that is minutes.
const LOST_LOOKS: u32 = 10;
/// Without a terminal the same step is said again after this long: a log shows that it goes on.
const SAY_AGAIN_SECONDS: i64 = 60;

struct Progress {
    terminal: bool,
    step: String,
    said_at: Timestamp,
}

impl Progress {
    #[expect(clippy::print_stderr, reason = "progress is shown beside the result")]
    fn say(&mut self, followed: &Followed<'_>, step: &str, now: Timestamp) {
        let is_new = step != self.step;
        let elapsed = now.duration_since(followed.began).as_secs().max(0);
        if self.terminal {
            let end = if is_new && !self.step.is_empty() { "\n" } else { "" };
            eprint!("{end}\r\u{1b}[2K{}", line(followed, step, elapsed));
            let _ = std::io::stderr().flush();
        } else if is_new || now.duration_since(self.said_at).as_secs() >= SAY_AGAIN_SECONDS {
            let line = json!({
                "at": now, "operation": followed.what, "id": followed.id, "cluster": followed.cluster, "step": step,
                "elapsed_seconds": elapsed, "usually_seconds": followed.usually,
            });
            eprintln!("{line}");
            self.said_at = now;
        }
        step.clone_into(&mut self.step);
    }

    #[expect(clippy::print_stderr, reason = "the line of progress ends")]
    fn done(&mut self) {
        if self.terminal && !self.step.is_empty() {
            eprintln!();
            self.step.clear();
        }
    }
}

fn line(followed: &Followed<'_>, step: &str, elapsed: i64) -> String {
    let left = match followed.usually {
        Some(usually) if usually > elapsed => format!(", about {} to go", lasting(usually - elapsed)),
        Some(usually) => format!(", usually done after {}", lasting(usually)),
        None => String::new(),
    };
    format!("{} {}: {step}, {}{left}", followed.what, followed.id, lasting(elapsed))
}

/// The median, which one slow one does not decide.
pub(crate) fn usually(seconds: impl IntoIterator<Item = i64>) -> Option<i64> {
    let mut seconds: Vec<_> = seconds.into_iter().filter(|s| *s > 0).collect();
    seconds.sort_unstable();
    seconds.get(seconds.len() / 2).copied()
}

/// The machines of a deployment.
pub(crate) fn executions(deployment: &Deployment) -> highwater_aws::sfn::Executions {
    highwater_aws::sfn::Executions::new(&deployment.sdk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_what_it_names() {
        let of = |text: &str| match text.parse() {
            Ok(Operation::Backup(_)) => "backup",
            Ok(Operation::Drill(_)) => "drill",
            Ok(Operation::Promotion(_)) => "promotion",
            Ok(Operation::Execution(_)) => "execution",
            Err(_) => "nothing",
        };
        assert_eq!(of("20261122T020000Z-full-4f7c"), "backup");
        assert_eq!(of("20261122T020000Z-4f7c90ab"), "drill");
        assert_eq!(of("20261122T020000Z-4f7c"), "promotion");
        assert_eq!(of("arn:aws:states:eu-west-1:1:execution:highwater-drill:x"), "execution");
        assert_eq!(of("orders"), "nothing");
    }

    #[test]
    fn a_line_says_the_step_the_time_and_what_is_left() {
        let cluster = "orders".parse().unwrap();
        let mut followed = Followed {
            what: "drill",
            id: "20261122T020000Z-4f7c90ab".into(),
            cluster: &cluster,
            began: Timestamp::UNIX_EPOCH,
            usually: Some(300),
        };
        let check = |followed: &Followed<'_>, elapsed, expected| assert_eq!(line(followed, "running", elapsed), expected);
        check(&followed, 60, "drill 20261122T020000Z-4f7c90ab: running, 1 min, about 4 min to go");
        check(&followed, 301, "drill 20261122T020000Z-4f7c90ab: running, 5 min 1 s, usually done after 5 min");
        followed.usually = None;
        check(&followed, 5, "drill 20261122T020000Z-4f7c90ab: running, 5 s");
        assert_eq!((usually([]), usually([9, 1, 500]), usually([0])), (None, Some(9), None));
    }
}
