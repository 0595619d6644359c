//! Following what runs elsewhere: a backup on its host, a drill, a promotion. Whoever stops following ends nothing.

use crate::decide::UrlArgs;
use crate::deployment::{Context, Deployment, OfCluster};
use crate::error::{Error, Result};
use crate::{STOPPED_FOLLOWING, backup, drill, promotion};
use highwater_core::promotion::PromotionId;
use highwater_core::status::lasting;
use highwater_core::{BackupId, ClusterId, DrillId, Failure};
use jiff::Timestamp;
use serde_json::{Value, json};
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
    let cluster = &args.of.cluster;
    let of = || args.of.find(cx);
    match &args.operation {
        Operation::Backup(id) => backup::follow(&of().await?.0, cluster, id, cx).await,
        Operation::Drill(id) => {
            let (deployment, _) = of().await?;
            let record = deployment.catalog().drill(cluster, id).await?;
            let execution = record.map(|record| record.execution).ok_or_else(|| unknown("drill", id, cluster))?;
            drill::follow(&deployment, cluster, &execution, cx).await
        }
        Operation::Execution(arn) => drill::follow(&of().await?.0, cluster, arn, cx).await,
        Operation::Promotion(id) => {
            let at = UrlArgs { url: None, cluster: cluster.clone() };
            promotion::follow(&promotion::source(&at, cx).await?, id, cx).await
        }
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
    /// The approval URL, where it was given in this very call and is the only way to the operation.
    pub(crate) url: Option<&'a str>,
    /// When it began.
    pub(crate) began: Timestamp,
}

/// What a look showed.
#[derive(Debug)]
pub(crate) enum Seen<T> {
    /// It runs: its step.
    Runs(Step),
    /// It has ended.
    Ended(T),
}

/// What an operation does at the moment.
#[derive(Debug)]
pub(crate) struct Step {
    /// In words.
    pub(crate) says: String,
    /// How long it usually lasts, where that was measured.
    pub(crate) usual: Option<Usual>,
}

/// How long something usually lasts: the whole operation, or the step that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usual {
    /// When it began.
    pub(crate) began: Timestamp,
    pub(crate) seconds: i64,
}

impl Usual {
    /// Where earlier ones were measured: their median, which one slow one does not decide.
    pub(crate) fn of(began: Timestamp, seconds: impl IntoIterator<Item = i64>) -> Option<Self> {
        let mut seconds: Vec<_> = seconds.into_iter().filter(|s| *s > 0).collect();
        seconds.sort_unstable();
        seconds.get(seconds.len() / 2).map(|seconds| Self { began, seconds: *seconds })
    }

    /// What is left of it, seconds; nothing once it is over.
    fn left(self, now: Timestamp) -> i64 {
        (self.seconds - now.duration_since(self.began).as_secs()).max(0)
    }
}

/// Looks until the operation has ended. Says each step once, on a terminal also how long it lasts.
///
/// # Errors
/// Those of a look, but for a service that does not answer for a while; `Interrupted` on Ctrl-C.
pub(crate) async fn until_ended<T>(followed: &Followed<'_>, cx: &Context, mut look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    let mut progress = Progress {
        terminal: !cx.json && std::io::stderr().is_terminal(),
        json: cx.json,
        step: String::new(),
        said_at: Timestamp::UNIX_EPOCH,
    };
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
                let Followed { what, id, cluster, url, .. } = followed;
                let url = url.map(|url| format!("HIGHWATER_APPROVAL_URL={url} ")).unwrap_or_default();
                return Err(Error::new(Failure::Interrupted, format!("{what} {id} goes on; it is not followed any more"))
                    .hint(format!("{url}highwater follow {id} --cluster {cluster}"))
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
    /// A line that is written over; else a line for each step, as JSON where the result is.
    terminal: bool,
    json: bool,
    step: String,
    said_at: Timestamp,
}

impl Progress {
    #[expect(clippy::print_stderr, reason = "progress is shown beside the result")]
    fn say(&mut self, followed: &Followed<'_>, step: &Step, now: Timestamp) {
        let is_new = step.says != self.step;
        if self.terminal {
            let end = if is_new && !self.step.is_empty() { "\n" } else { "" };
            eprint!("{end}\r\u{1b}[2K{}", line(followed, step, now));
            let _ = std::io::stderr().flush();
        } else if is_new || now.duration_since(self.said_at).as_secs() >= SAY_AGAIN_SECONDS {
            match self.json {
                true => eprintln!("{}", value(followed, step, now)),
                false => eprintln!("{}", line(followed, step, now)),
            }
            self.said_at = now;
        }
        step.says.clone_into(&mut self.step);
    }

    #[expect(clippy::print_stderr, reason = "the line of progress ends")]
    fn done(&mut self) {
        if self.terminal && !self.step.is_empty() {
            eprintln!();
            self.step.clear();
        }
    }
}

fn elapsed(followed: &Followed<'_>, now: Timestamp) -> i64 {
    now.duration_since(followed.began).as_secs().max(0)
}

fn value(followed: &Followed<'_>, step: &Step, now: Timestamp) -> Value {
    json!({
        "at": now, "operation": followed.what, "id": followed.id, "cluster": followed.cluster, "step": step.says,
        "elapsed_seconds": elapsed(followed, now), "usually_seconds": step.usual.map(|usual| usual.seconds),
        "left_seconds": step.usual.map(|usual| usual.left(now)),
    })
}

fn line(followed: &Followed<'_>, step: &Step, now: Timestamp) -> String {
    let left = match step.usual.map(|usual| (usual.left(now), usual.seconds)) {
        Some((0, usually)) => format!(", usually done after {}", lasting(usually)),
        Some((left, _)) => format!(", about {} to go", lasting(left)),
        None => String::new(),
    };
    format!("{} {}: {}, {}{left}", followed.what, followed.id, step.says, lasting(elapsed(followed, now)))
}

/// The machines of a deployment.
pub(crate) fn executions(deployment: &Deployment) -> highwater_aws::sfn::Executions {
    highwater_aws::sfn::Executions::new(&deployment.sdk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

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
        let began = Timestamp::UNIX_EPOCH;
        let followed = Followed { what: "drill", id: "20261122T020000Z-4f7c90ab".into(), cluster: &cluster, url: None, began };
        let after = |seconds: i64| began + SignedDuration::from_secs(seconds);
        let check = |usual: Option<Usual>, now: i64, expected: &str| {
            assert_eq!(line(&followed, &Step { says: "running".into(), usual }, after(now)), expected);
        };
        let whole = Usual { began, seconds: 300 };
        check(Some(whole), 60, "drill 20261122T020000Z-4f7c90ab: running, 1 min, about 4 min to go");
        check(Some(whole), 301, "drill 20261122T020000Z-4f7c90ab: running, 5 min 1 s, usually done after 5 min");
        check(None, 5, "drill 20261122T020000Z-4f7c90ab: running, 5 s");
        // A step that began an hour after the operation has its own time.
        let step = Usual { began: after(3600), seconds: 60 };
        check(Some(step), 3610, "drill 20261122T020000Z-4f7c90ab: running, 1 h, about 50 s to go");
        let said = value(&followed, &Step { says: "running".into(), usual: Some(step) }, after(3610));
        assert_eq!((&said["elapsed_seconds"], &said["usually_seconds"], &said["left_seconds"]), (&json!(3610), &json!(60), &json!(50)));
        let median = |seconds: &[i64]| Usual::of(began, seconds.iter().copied()).map(|usual| usual.seconds);
        assert_eq!((median(&[]), median(&[9, 1, 500]), median(&[0])), (None, Some(9), None));
    }
}
