//! How a promotion ended, from what its host's command says: the exit code first, then the helper's JSON.
//!
//! A command that did not report an exit code of the helper proves nothing: a time-out or a kill leaves a journal on the
//! host that somebody has to finish or undo. Such a promotion is *stuck*, never "failed, so nothing happened".

use crate::failure::Failure;
use crate::promotion::{PromotionId, PromotionJournalV1};
use crate::{ClusterId, Sha256};
use serde::{Deserialize, Serialize};

/// How a promotion ended: what the state machine branches on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The restored data serves.
    Promoted,
    /// The promotion failed; the old data serves.
    RolledBack,
    /// The primary was not touched.
    Refused,
    /// Nobody knows which data serves, or whether any does: a person must act.
    Stuck,
}

impl Outcome {
    /// The word, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
            Self::Stuck => "stuck",
        }
    }
}

/// Which document the command ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCommand {
    /// `highwater-host promote`.
    Promote,
    /// `highwater-host promote --resume`.
    Resume,
    /// `highwater-host rollback`.
    Rollback,
}

/// The end of a command on the host.
#[derive(Debug, Clone, Copy)]
pub struct CommandEnd<'a> {
    /// SSM's word, `Success`, `Failed`, `TimedOut`, …
    pub status: &'a str,
    /// The script's exit code; none, or negative, when SSM has none.
    pub exit_code: Option<i32>,
    /// What the helper wrote on standard output, perhaps cut.
    pub output: &'a str,
}

/// What a command's end means for the promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The end; none when this command says nothing about it.
    pub outcome: Option<Outcome>,
    /// The old data was brought back after a success, as an operator asked.
    pub reverted: bool,
    /// For a person.
    pub reason: String,
}

/// What is read of the helper's result. Everything else in it is for people.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Said {
    #[serde(default)]
    promotion: Option<SaidPromotion>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    hint: Option<String>,
}

/// The journal's head in a helper's result.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SaidPromotion {
    /// The helper's own id of the promotion.
    pub id: PromotionId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The approval that it used.
    pub approval_sha256: Sha256,
    state: SaidState,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct SaidState {
    name: String,
}

/// The promotion that a helper's result is about, if it names one.
pub fn promotion_in(output: &str) -> Option<SaidPromotion> {
    serde_json::from_str::<Said>(output.trim()).ok()?.promotion
}

/// The whole journal in a helper's result, if it is there and of a version that is known here.
pub fn journal_in(output: &str) -> Option<PromotionJournalV1> {
    #[derive(Deserialize)]
    struct Whole {
        promotion: PromotionJournalV1,
    }
    serde_json::from_str::<Whole>(output.trim()).ok().map(|whole| whole.promotion)
}

/// What a command's end means.
pub fn judge(command: HostCommand, end: CommandEnd<'_>) -> Judgement {
    let said: Option<Said> = serde_json::from_str(end.output.trim()).ok();
    let state = said.as_ref().and_then(|s| s.promotion.as_ref()).map(|p| p.state.name.as_str());
    let failure = end.exit_code.and_then(Failure::from_exit_code);
    let words = |otherwise: &str| match &said {
        Some(Said { message, hint, .. }) if !message.is_empty() => match hint {
            Some(hint) => format!("{message} ({hint})"),
            None => message.clone(),
        },
        _ => otherwise.to_owned(),
    };
    let judged = |outcome, reason: String| Judgement { outcome, reverted: false, reason };
    match (command, end.exit_code, failure) {
        (HostCommand::Promote, Some(0), _) => judged(Some(Outcome::Promoted), "the restored data serves".into()),
        (_, Some(0), _) => match state {
            Some("done") => judged(Some(Outcome::Promoted), "the restored data serves".into()),
            Some("reverted") => {
                Judgement { outcome: None, reverted: true, reason: "the old data serves again, as an operator asked".into() }
            }
            _ if said.is_some() => judged(None, "nothing was open on the host".into()),
            _ => judged(Some(Outcome::Stuck), "the helper succeeded, and what it said cannot be read: look at the host".into()),
        },
        (_, _, Some(Failure::Stuck)) => judged(Some(Outcome::Stuck), words("the promotion and its roll-back failed")),
        (HostCommand::Promote | HostCommand::Resume, _, Some(Failure::RolledBack)) => {
            judged(Some(Outcome::RolledBack), words("the promotion failed; the old data serves"))
        }
        // Another command of this promotion, or a backup, holds the host: that one's end decides.
        (_, _, Some(Failure::Busy)) => judged(None, words("another operation holds the host")),
        (HostCommand::Promote, _, Some(_)) => judged(Some(Outcome::Refused), words("the primary was not touched")),
        // These act on a journal that is there before them: when they cannot begin, it stays as it was.
        (HostCommand::Resume | HostCommand::Rollback, _, Some(_)) => judged(None, words("nothing was changed")),
        (_, code, None) => {
            let code = code.map_or_else(|| "no exit code".to_owned(), |c| format!("exit code {c}"));
            judged(Some(Outcome::Stuck), format!("the command ended as {} with {code}: nobody knows how far it got", end.status))
        }
    }
}

/// What a promotion's commands say together, in the order in which they were sent; none while nothing is decided.
///
/// Of several `promote` commands of one approval (a lost reply sends a second one) the helper lets one act: what a later one
/// was refused says nothing about the first. A `resume` or `rollback` acts on what all before it left, so it decides.
pub fn decisive(judged: Vec<(HostCommand, Judgement)>) -> Option<Judgement> {
    let weight = |outcome: Option<Outcome>| match outcome {
        Some(Outcome::Promoted) => 4,
        Some(Outcome::RolledBack) => 3,
        Some(Outcome::Stuck) => 2,
        Some(Outcome::Refused) => 1,
        None => 0,
    };
    let mut decided: Option<Judgement> = None;
    for (command, next) in judged {
        let decides = match command {
            HostCommand::Promote => decided.as_ref().is_none_or(|before| weight(next.outcome) > weight(before.outcome)),
            HostCommand::Resume | HostCommand::Rollback => next.outcome.is_some() || next.reverted,
        };
        if decides {
            decided = Some(next);
        }
    }
    // Only a `promote` that met another operation on the host: it did nothing, and it will not try again.
    decided.map(|end| match (end.outcome, end.reverted) {
        (None, false) => Judgement { outcome: Some(Outcome::Refused), ..end },
        _ => end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: HostCommand, exit_code: Option<i32>, output: &str, expected: (Option<Outcome>, bool)) {
        let judged = judge(command, CommandEnd { status: "Failed", exit_code, output });
        assert_eq!((judged.outcome, judged.reverted), expected, "{command:?} {exit_code:?} {output}: {}", judged.reason);
    }

    fn journal(state: &str) -> String {
        let digest = Sha256::of(b"approval");
        let promotion = format!(
            r#"{{"id":"20261122T020000Z-4f7c","cluster":"orders","approval_sha256":"{digest}","state":{{"name":"{state}","x":1}},"y":2}}"#
        );
        format!(r#"{{"next":[],"note":"","promotion":{promotion}}}"#)
    }

    #[test]
    fn the_exit_code_decides_and_the_helpers_words_explain() {
        use HostCommand::{Promote, Resume, Rollback};
        check(Promote, Some(0), &journal("done"), (Some(Outcome::Promoted), false));
        check(Promote, Some(0), r#"{"promotion":{"cut"#, (Some(Outcome::Promoted), false));
        check(Promote, Some(19), "", (Some(Outcome::RolledBack), false));
        check(Promote, Some(20), "", (Some(Outcome::Stuck), false));
        check(Promote, Some(17), "", (Some(Outcome::Refused), false));
        check(Promote, Some(42), "", (Some(Outcome::Refused), false));
        check(Promote, Some(40), "", (None, false));
        check(Resume, Some(0), &journal("done"), (Some(Outcome::Promoted), false));
        check(Resume, Some(0), &journal("reverted"), (None, true));
        check(Resume, Some(0), r#"{"promotion":null,"note":"nothing is open","next":[]}"#, (None, false));
        check(Resume, Some(0), r#"{"promotion":{"cut"#, (Some(Outcome::Stuck), false));
        check(Resume, Some(19), "", (Some(Outcome::RolledBack), false));
        check(Resume, Some(10), "", (None, false));
        check(Rollback, Some(0), &journal("reverted"), (None, true));
        check(Rollback, Some(15), "", (None, false));
        check(Rollback, Some(20), "", (Some(Outcome::Stuck), false));
        let silent = judge(Promote, CommandEnd { status: "Failed", exit_code: Some(17), output: r#"{"message":""}"# });
        assert_eq!(silent.reason, "the primary was not touched");
        let judged =
            judge(Promote, CommandEnd { status: "Failed", exit_code: Some(17), output: r#"{"message":"it expired","hint":"ask again"}"# });
        assert_eq!(judged.reason, "it expired (ask again)");
    }

    #[test]
    fn a_command_without_a_code_of_the_helper_proves_nothing() {
        for code in [None, Some(-1), Some(137), Some(1), Some(2), Some(126), Some(127)] {
            for command in [HostCommand::Promote, HostCommand::Resume, HostCommand::Rollback] {
                check(command, code, "", (Some(Outcome::Stuck), false));
            }
        }
    }

    #[test]
    fn commands_together_say_what_the_one_that_acted_said() {
        use HostCommand::{Promote, Resume, Rollback};
        let end = |command, exit_code, output: &str| (command, judge(command, CommandEnd { status: "x", exit_code, output }));
        let said = |ends: Vec<(HostCommand, Judgement)>| decisive(ends).map(|j| (j.outcome, j.reverted));
        assert_eq!(said(vec![]), None);
        let busy = || end(Promote, Some(40), "");
        let killed = || end(Promote, Some(137), "");
        assert_eq!(said(vec![busy()]), Some((Some(Outcome::Refused), false)));
        assert_eq!(said(vec![end(Promote, Some(0), ""), busy()]), Some((Some(Outcome::Promoted), false)));
        assert_eq!(said(vec![busy(), end(Promote, Some(19), "")]), Some((Some(Outcome::RolledBack), false)));
        assert_eq!(said(vec![killed(), end(Promote, Some(12), "")]), Some((Some(Outcome::Stuck), false)));
        assert_eq!(said(vec![killed(), end(Resume, Some(19), "")]), Some((Some(Outcome::RolledBack), false)));
        assert_eq!(said(vec![killed(), end(Resume, Some(0), &journal("done"))]), Some((Some(Outcome::Promoted), false)));
        assert_eq!(said(vec![killed(), end(Resume, Some(40), "")]), Some((Some(Outcome::Stuck), false)));
        assert_eq!(said(vec![end(Promote, Some(0), ""), end(Rollback, Some(0), &journal("reverted"))]), Some((None, true)));
        assert_eq!(said(vec![end(Promote, Some(0), ""), end(Rollback, Some(20), "")]), Some((Some(Outcome::Stuck), false)));
    }

    #[test]
    fn a_result_names_its_promotion() {
        let said = promotion_in(&journal("done")).unwrap();
        assert_eq!((said.cluster.to_string(), said.approval_sha256), ("orders".to_owned(), Sha256::of(b"approval")));
        assert_eq!(promotion_in(r#"{"promotion":null}"#), None);
        assert_eq!(promotion_in("no JSON"), None);
    }
}
