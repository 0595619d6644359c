//! A promotion's report as a page: how it ended and what to do now, then who decided on what, what was replaced and where the old data
//! lies, how long each step took, every check, and the way back.

use crate::{bars, checks, fact, lasting, page, table, when, words};
use highwater_core::consent::{PromotionRequest, Word};
use highwater_core::identity::BinlogPosition;
use highwater_core::outcome::Outcome;
use highwater_core::promotion::{Place, PromotionId, PromotionJournalV1, Slot, State};
use highwater_core::{BackupId, ClusterId, HostId, Pinned};
use jiff::Timestamp;
use maud::{Markup, html};

/// How a promotion ended, or that it waits for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The restored data serves.
    Promoted,
    /// It failed, and the old data serves.
    RolledBack,
    /// The primary was not touched.
    Refused,
    /// Nobody knows which data serves.
    Stuck,
    /// It had succeeded, and an operator brought the old data back.
    Reverted,
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Promoted => Self::Promoted,
            Outcome::RolledBack => Self::RolledBack,
            Outcome::Refused => Self::Refused,
            Outcome::Stuck => Self::Stuck,
        }
    }
}

impl Ending {
    /// The page's name in the promotion's folder. What is known while a promotion is stuck, how it ended, and that it was brought back later are
    /// three pages: none is ever overwritten.
    pub fn page_name(self) -> &'static str {
        match self {
            Self::Promoted | Self::RolledBack | Self::Refused => "report.html",
            Self::Stuck => "report-stuck.html",
            Self::Reverted => "report-reverted.html",
        }
    }

    /// In words, as in a title.
    pub fn words(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
            Self::Refused => "refused",
            Self::Stuck => "STUCK, ACT NOW",
            Self::Reverted => "brought back",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Promoted => "good",
            Self::RolledBack | Self::Refused | Self::Reverted => "warn",
            Self::Stuck => "bad",
        }
    }
}

/// What the page is made of.
#[derive(Debug, Clone, Copy)]
pub struct PromotionView<'a> {
    /// The deployment: its documents are named by it.
    pub deployment: &'a str,
    /// The promotion.
    pub id: &'a PromotionId,
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The host; unknown for one that was refused before it was recorded.
    pub host: Option<&'a HostId>,
    /// The restore point, likewise.
    pub backup_id: Option<&'a BackupId>,
    /// The approval that the host was shown.
    pub approval: &'a Pinned,
    /// Who asked, and who decided on what; nothing if the catalog has lost it.
    pub request: Option<&'a PromotionRequest>,
    /// How it ended.
    pub ending: Ending,
    /// Why, in words, with what the host said to do.
    pub reason: &'a str,
    /// When it was known.
    pub at: Timestamp,
    /// The host's own record of its steps; nothing if the host could not tell.
    pub journal: Option<&'a PromotionJournalV1>,
}

/// The page of one promotion.
pub fn promotion_report(p: &PromotionView<'_>) -> String {
    let title = format!("Promotion of {}: {}", p.cluster, p.ending.words());
    page(
        &title,
        html! {
            h1 { (title) }
            p.dim {
                "Promotion " code { (p.id) } @if let Some(host) = p.host { " on " (host) }
                @if let Some(journal) = p.journal { ", begun " (when(journal.began_at)) }
                ", known " (when(p.at))
            }
            (verdict(p))
            h2 { "Who decided on what" }
            (decision(p))
            h2 { "What was replaced" }
            (replaced(p))
            h2 { "How long each step took" }
            (steps(p.journal))
            h2 { "Checks of the new primary" }
            (checked(p.journal))
            h2 { "The way back" }
            (way_back(p))
        },
    )
}

fn verdict(p: &PromotionView<'_>) -> Markup {
    let host = p.host.map_or_else(|| "the primary".to_owned(), HostId::to_string);
    html! {
        div class={ "verdict " (p.ending.class()) } {
            @match p.ending {
                Ending::Promoted => {
                    strong { "The restored data serves." }
                    p { (host) " serves " @if let Some(id) = p.backup_id { code { (id) } } @else { "the restore point" } " now. The next backup is a full in a new incarnation, by itself. Rebuild every replica." }
                    @if let Some(seconds) = p.journal.and_then(out_of_service) { p { "Out of service for " strong { (lasting(seconds)) } "." } }
                }
                Ending::RolledBack => {
                    strong { "The promotion failed; the old data serves again." }
                    (said(p.reason))
                    @if let Some(seconds) = p.journal.and_then(out_of_service) { p { "Out of service for " strong { (lasting(seconds)) } "." } }
                }
                Ending::Refused => { strong { "Nothing has changed: the primary was not touched." } (said(p.reason)) }
                Ending::Reverted => { strong { "An operator brought the old data back." } p { "The next backup is a full in a new incarnation." } }
                Ending::Stuck => {
                    strong { "Nobody knows which data serves, or whether any does." }
                    (said(p.reason))
                    ol {
                        li { "Finish or undo it: " (command(p, "resume")) }
                        li { "If that does not end it, log in on " (host) ": " code { "sudo highwater-host promote --resume" } " says what it sees and what to type." }
                        li { "Nothing was deleted. Backups of " (p.cluster) " wait until it has ended. RUNBOOK: promotion-stuck." }
                    }
                }
            }
        }
    }
}

/// What the host said: its hint may have lines to be typed.
fn said(reason: &str) -> Markup {
    if reason.contains('\n') {
        html! { pre { (reason) } }
    } else {
        html! { p { (reason) } }
    }
}

fn command(p: &PromotionView<'_>, document: &str) -> Markup {
    let host = p.host.map_or_else(|| "HOST".to_owned(), HostId::to_string);
    html! { code { "aws ssm send-command --document-name " (p.deployment) "-" (document) " --instance-ids " (host) } }
}

fn decision(p: &PromotionView<'_>) -> Markup {
    let Some(request) = p.request else {
        return html! {
            @match p.journal {
                Some(journal) => p { "Asked for by " (journal.requester) ", approved by " (journal.approvers.join(", ")) ", as the host read it in the approval." },
                None => p { "The catalog has no request of this promotion; the approval names both." },
            }
            dl { (pinned("Approval", p.approval)) }
        };
    };
    html! {
        dl {
            (fact("Asked for by", match &request.requester {
                Some(caller) => html! { (caller.name) ", " (when(request.requested_at)) },
                None => html! { "nobody known: it was started in the console, " (when(request.requested_at)) "; two had to approve" },
            }))
            @if let Some(target) = &request.target { (fact("Asked for", html! { code { (target) } })) }
            @if let Some(question) = &request.question {
                (fact("Restore point", html! { code { (question.backup_id) } ", the data as of " (when(question.restores_to)) "; what was written later was to be lost" }))
                (fact("Host", question.host.to_string()))
                (fact("Proven by", html! { a href={ "../../drills/" (question.drill_id) "/report.html" } { "drill " (question.drill_id) } }))
                (pinned("Certificate", &question.certificate))
                (pinned("Plan", &question.plan))
            }
            (pinned("Approval", p.approval))
        }
        (table(&[words("Vote"), words("By"), words("At"), words("Why")], request.votes.iter().map(|vote| vec![
            match vote.word { Word::Approve => html! { "approved" }, Word::Deny => html! { strong.bad { "denied" } } },
            html! { (vote.by.name) },
            html! { (when(vote.at)) },
            html! { (vote.reason.as_deref().unwrap_or("–")) },
        ])))
    }
}

fn pinned(name: &str, at: &Pinned) -> Markup {
    fact(name, html! { code { (at.uri) } br; span.dim { "SHA-256 " } code { (at.sha256) } })
}

/// Where each directory lies now, as the journal says.
fn replaced(p: &PromotionView<'_>) -> Markup {
    let Some(journal) = p.journal else {
        return html! { p { @if p.ending == Ending::Refused { "Nothing." } @else { "The host did not say. Its journal does: " code { "sudo highwater-host promote --resume" } "." } } };
    };
    html! {
        dl {
            @for slot in &journal.slots {
                @for (what, path) in places(&journal.state, slot) { (fact(what, html! { code { (path) } })) }
            }
            @if let Some(at) = &journal.restored_to { (fact("Restored up to", binlog(at))) }
            @if let State::Done { fence, .. } = &journal.state { @if let Some(at) = &fence.last { (fact("Old binlog ends at", binlog(at))) } }
            @if let State::Reverted { promoted: Some(fence), .. } = &journal.state { @if let Some(at) = &fence.last { (fact("Promoted binlog ends at", binlog(at))) } }
        }
        @if let (State::Done { .. }, Some(_)) = (&journal.state, &journal.restored_to) {
            p.dim { "To replay what came after the restore point, read the old binlogs between these two positions." }
        }
    }
}

fn places<'a>(state: &State, slot: &'a Slot) -> Vec<(&'static str, std::path::Display<'a>)> {
    let at = |what, place| (what, slot.path(place).display());
    match state {
        State::Done { .. } => vec![at("New data, serving", Place::Live), at("Old data, kept", Place::Aside)],
        State::Reverted { .. } => vec![at("Old data, serving", Place::Live), at("Promoted data, kept", Place::Undone)],
        State::RolledBack { .. } => vec![at("Old data, serving", Place::Live), at("New data, if it got so far", Place::Undone)],
        State::Aborted { .. } | State::Staging {} | State::Smoking {} => {
            vec![at("Old data, untouched", Place::Live), at("Restored data, if kept", Place::Staged)]
        }
        _ => vec![
            at("The server looks at", Place::Live),
            at("Old data, if moved", Place::Aside),
            at("New data, if not moved", Place::Staged),
            at("New data, if taken out", Place::Undone),
        ],
    }
}

fn binlog(at: &BinlogPosition) -> String {
    match at.gtid.is_empty() {
        true => format!("{}:{}", at.file, at.position),
        false => format!("{}:{}, GTID {}", at.file, at.position, at.gtid),
    }
}

/// From the fence to the end of the last state that took writes away.
fn out_of_service(journal: &PromotionJournalV1) -> Option<f64> {
    let end = match &journal.state {
        State::Done { finished_at, .. } | State::RolledBack { finished_at, .. } => finished_at,
        _ => return None,
    };
    let fenced = journal.history.iter().find(|e| e.state == "fencing")?;
    Some(end.duration_since(fenced.at).as_secs_f64())
}

/// Each state but the last lasted until the next one was entered.
fn steps(journal: Option<&PromotionJournalV1>) -> Markup {
    let Some(journal) = journal.filter(|j| !j.history.is_empty()) else {
        return html! { p { "The host did not tell its steps." } };
    };
    let lasted = journal.history.iter().zip(journal.history.iter().skip(1));
    let steps: Vec<_> =
        lasted.map(|(entered, next)| (step(&entered.state).to_owned(), next.at.duration_since(entered.at).as_secs_f64(), None)).collect();
    let total: f64 = steps.iter().map(|(_, seconds, _)| *seconds).sum();
    html! {
        (bars(&steps))
        p.dim {
            (lasting(total)) " from the first step to the last record"
            @if !journal.state.is_closed() { "; it stands still in: " strong { (step(journal.state.name())) } }
            "."
        }
    }
}

fn step(state: &str) -> &str {
    match state {
        "staging" => "restore beside the data",
        "smoking" => "smoke start of the copy",
        "fencing" => "fence: no more writes",
        "stopping" => "stop the server",
        "swapping" => "exchange the directories",
        "starting" => "start and check",
        "rolling-back" => "bring the old data back",
        "reverting" => "bring the old data back, as asked",
        "reinstating" => "bring the promoted data back",
        "done" => "serving the new data",
        other => other,
    }
}

fn checked(journal: Option<&PromotionJournalV1>) -> Markup {
    match journal.map(|j| &j.state) {
        Some(State::Done { checks: found, .. }) if !found.is_empty() => checks(found),
        Some(State::Done { .. } | State::Reverted { .. }) => html! { p { "They passed when it was promoted." } },
        _ => html! { p { "It did not pass them: see how it ended." } },
    }
}

fn way_back(p: &PromotionView<'_>) -> Markup {
    match p.ending {
        Ending::Promoted => html! {
            p { "As long as the old data is kept, it comes back by this; what was written since stays with the promoted data, beside it." }
            pre { "aws ssm send-command --document-name " (p.deployment) "-rollback --instance-ids " (p.host.map(HostId::to_string).unwrap_or_default()) }
        },
        Ending::RolledBack | Ending::Refused => {
            html! { p { "There is nothing to take back. For another try, ask again: an approval holds for one promotion." } }
        }
        Ending::Reverted => html! { p { "This was it. The promoted data is kept beside the old; remove it when nobody needs it." } },
        Ending::Stuck => html! { p { "First finish or undo it, as above." } },
    }
}
