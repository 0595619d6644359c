//! A deployment's status as a page: what needs a person first, then every cluster with its chains, drills and promotions.

use crate::promotion::Ending;
use crate::{bytes, fact, lasting, numbers, page, table, when, words};
use highwater_core::promotion::PromotionId;
use highwater_core::status::{ClusterStatus, Drill, DrillState, Need};
use highwater_core::{BackupId, BackupKind};
use jiff::Timestamp;
use maud::{Markup, html};

/// One cluster: its status, and what only the page shows.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// The status, as every other place has it.
    pub status: ClusterStatus,
    /// The newest committed backups, oldest first.
    pub backups: Vec<BackupView>,
    /// The newest promotions, the newest first.
    pub promotions: Vec<PromotionLine>,
}

/// One committed backup.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupView {
    /// Its id.
    pub id: BackupId,
    /// The parent of an incremental.
    pub parent: Option<BackupId>,
    /// The restore point's time.
    pub at: Timestamp,
    /// Bytes stored.
    pub stored: u64,
}

/// One promotion.
#[derive(Debug, Clone, PartialEq)]
pub struct PromotionLine {
    /// Its id.
    pub id: PromotionId,
    /// The restore point.
    pub backup_id: BackupId,
    /// How it ended; absent while it runs.
    pub ending: Option<Ending>,
    /// When that was known, or when it began.
    pub at: Timestamp,
}

/// The page's key in its bucket.
pub const STATUS_NAME: &str = "index.html";

/// Drills and promotions shown, newest first.
const LINES: usize = 10;
/// Chains shown, newest first.
const CHAINS: usize = 6;
/// Characters of a problem where it stands in the list at the top; its cluster's section has it whole.
const SHORT: usize = 240;

/// The page of a deployment as it was at `now`. `unreadable` says of each cluster that could not be read why.
pub fn status(deployment: &str, clusters: &[ClusterView], unreadable: &[String], now: Timestamp) -> String {
    let needing: Vec<_> = clusters.iter().filter(|c| !c.status.needs.is_empty()).collect();
    page(
        &format!("Highwater: {deployment}"),
        html! {
            h1 { "Highwater: " (deployment) }
            p.dim { "As of " strong { (when(now)) } ". Written anew every few minutes: a page that is more than a quarter of an hour old says that " code { "reconcile" } " does not run." }
            @if clusters.is_empty() && unreadable.is_empty() {
                div.verdict.warn { strong { "No cluster is configured." } }
            } @else if needing.is_empty() && unreadable.is_empty() {
                div.verdict.good { strong { "Nothing needs you." } p { "Every cluster (" (clusters.len()) ") has a restore point in time and a proven one." } }
            } @else {
                div.verdict.bad {
                    strong { (needing.len() + unreadable.len()) " of " (clusters.len() + unreadable.len()) " clusters need you." }
                    ul {
                        @for reason in unreadable { li { "A cluster could not be read: " (reason) } }
                        @for (cluster, need) in most_urgent_first(&needing) {
                            li { a href={ "#" (cluster.status.cluster) } { strong { (cluster.status.cluster) } } ": " (short(&need.to_string())) " " (runbook(need)) }
                        }
                    }
                }
            }
            (waiting(clusters))
            @if !clusters.is_empty() { (overview(clusters, now)) }
            @for cluster in clusters { (one(cluster, now)) }
        },
    )
}

/// Of all clusters; of one kind, in the order of the clusters.
fn most_urgent_first<'a>(needing: &[&'a ClusterView]) -> Vec<(&'a ClusterView, &'a Need)> {
    let mut all: Vec<_> = needing.iter().flat_map(|cluster| cluster.status.needs.iter().map(|need| (*cluster, need))).collect();
    all.sort_by_key(|(_, need)| Need::SECTIONS.iter().position(|section| *section == need.section()));
    all
}

fn runbook(need: &Need) -> Markup {
    html! { span.whole { "→ RUNBOOK: " (need.section()) } }
}

fn short(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    match first.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", first.get(..end).unwrap_or_default()),
        None if first.len() < text.len() => format!("{first} …"),
        None => first.to_owned(),
    }
}

/// Requests for promotions that wait for votes: somebody other than the requester has to decide.
fn waiting(clusters: &[ClusterView]) -> Markup {
    let waiting: Vec<_> =
        clusters.iter().flat_map(|c| c.status.requests.iter().filter(|r| r.is_waiting).map(move |r| (&c.status.cluster, r))).collect();
    html! {
        @if !waiting.is_empty() {
            div.verdict.warn {
                strong { "Waiting for a decision" }
                ul { @for (cluster, request) in waiting {
                    li { "promotion " code { (request.id) } " of " (cluster) @if let Some(at) = request.expires_at { ", until " (when(at)) } ": " code { "highwater approve" } " or " code { "highwater deny" } }
                } }
            }
        }
    }
}

fn overview(clusters: &[ClusterView], now: Timestamp) -> Markup {
    let columns = [
        words("Cluster"),
        words("State"),
        numbers("Newest restore point"),
        numbers("Drill passed"),
        numbers("Chain"),
        numbers("Expected restore"),
        words("Runs now"),
    ];
    table(
        &columns,
        clusters.iter().map(|c| {
            let s = &c.status;
            vec![
                html! { a href={ "#" (s.cluster) } { (s.cluster) } },
                if s.needs.is_empty() {
                    html! { span.good { "well" } }
                } else {
                    html! { strong.bad { "needs you" } }
                },
                html! { (s.newest.as_ref().map_or("none".into(), |point| ago(point.age_seconds))) },
                html! { (s.proven.as_ref().map_or("never".into(), |proven| since(proven.passed_at, now))) },
                html! { @if let Some(chain) = &s.chain { (chain.backups.len()) ", " (bytes(chain.stored_bytes)) } @else { "none" } },
                rto(s),
                html! { @if s.running.is_empty() { "–" } @else { (s.running.iter().map(|r| r.what).collect::<Vec<_>>().join(", ")) } },
            ]
        }),
    )
}

fn since(at: Timestamp, now: Timestamp) -> String {
    ago(now.duration_since(at).as_secs().max(0))
}

fn ago(seconds: i64) -> String {
    format!("{} ago", lasting(seconds as f64))
}

fn rto(s: &ClusterStatus) -> Markup {
    let target = s.rto.target_seconds.map(|target| format!(" of {}", lasting(target as f64)));
    html! {
        @match s.rto.expected_seconds {
            Some(expected) => span class=[s.rto.is_over_target().then_some("bad")] { (lasting(expected as f64)) (target.unwrap_or_default()) },
            None => "not measured",
        }
    }
}

fn one(c: &ClusterView, now: Timestamp) -> Markup {
    let s = &c.status;
    html! {
        section.cluster id=(s.cluster) {
            h2 { (s.cluster) " " span.dim { "on " (s.host) } }
            @for need in &s.needs { p.bad { strong { (need) } " " (runbook(need)) } }
            dl {
                (fact("Newest restore point", match &s.newest {
                    Some(point) => html! { code { (point.backup_id) } ", " (ago(point.age_seconds)) "; overdue after " (s.overdue_hours) " h" },
                    None => html! { "none" },
                }))
                (fact("Newest proven", match &s.proven {
                    Some(proven) => html! {
                        code { (proven.backup_id) } @if let Some(time) = proven.time { ", the data as of " (when(time)) }
                        ", drilled " (since(proven.passed_at, now)) "; overdue after " (s.overdue_days) " d"
                    },
                    None => html! { "none: no drill has passed yet" },
                }))
                (fact("Restore", match (s.rto.expected_seconds, s.rto.measured_seconds) {
                    (Some(_), measured) => html! { "expected " (rto(s)) @if let Some(measured) = measured { "; the last drill took " (lasting(measured)) } },
                    (None, _) => html! { "not measured: no drill has passed yet" },
                }))
                @if let Some(reason) = &s.next_is_full { (fact("Next backup", html! { "a full: " (reason) })) }
                @for run in &s.running { (fact("Runs now", html! { (run.what) " " code { (run.id) } @if let Some(step) = run.step { ", " (step) } ", since " (when(run.since)) })) }
                @if let Some(failed) = &s.last_failure { (fact("Last failure", html! { code { (failed.backup_id) } ", " (when(failed.at)) " (" (failed.failure) "): " (failed.message) })) }
            }
            h3 { "Chains" }
            (chains(c))
            h3 { "Drills" }
            (drills(c))
            @if !c.promotions.is_empty() { h3 { "Promotions" } (promotions(c)) }
        }
    }
}

/// Backups, oldest first, as chains: each a full and what continues it.
fn chains_of(backups: &[BackupView]) -> Vec<Vec<&BackupView>> {
    let mut chains: Vec<Vec<&BackupView>> = Vec::new();
    for backup in backups {
        let home = match &backup.parent {
            Some(parent) => chains.iter_mut().find(|chain| chain.iter().any(|b| b.id == *parent)),
            None => None,
        };
        match home {
            Some(chain) => chain.push(backup),
            None => chains.push(vec![backup]),
        }
    }
    chains
}

/// The newest chains on one axis of time: squares are fulls, circles incrementals, filled ones are proven.
fn chains(c: &ClusterView) -> Markup {
    let proven = |id: &BackupId| {
        let drilled = |drill: &Drill| drill.backup_id == *id && matches!(drill.state, DrillState::Passed { .. });
        c.status.proven.as_ref().is_some_and(|proven| proven.backup_id == *id) || c.status.drills.iter().any(drilled)
    };
    // What is left of a chain whose full is not among the newest backups cannot be drawn truly.
    let chains: Vec<_> =
        chains_of(&c.backups).into_iter().filter(|chain| chain.first().is_some_and(|b| b.id.kind() == BackupKind::Full)).collect();
    let shown: Vec<_> = chains.iter().rev().take(CHAINS).collect();
    let times: Vec<_> = shown.iter().flat_map(|chain| chain.iter()).map(|b| b.at).collect();
    let (Some(from), Some(to)) = (times.iter().min(), times.iter().max()) else {
        return html! { p { "No backup is committed." } };
    };
    let span = to.duration_since(*from).as_secs_f64();
    // Percent of the width, with room for the marks.
    let x = |b: &BackupView| {
        let part = if span > 0.0 { b.at.duration_since(*from).as_secs_f64() / span } else { 0.5 };
        format!("{:.2}%", 1.0 + 98.0 * part)
    };
    html! {
        @for chain in &shown {
            @let stored = chain.iter().map(|b| b.stored).fold(0, u64::saturating_add);
            div.chain {
                span { @if let Some(full) = chain.first() { (full.at.strftime("%Y-%m-%d %H:%M")) } ", " (chain.len()) @if chain.len() == 1 { " backup, " } @else { " backups, " } (bytes(stored)) }
                svg height="26" role="img" aria-label={ "A chain of " (chain.len()) " on an axis of time; the table below has its backups" } {
                    line.axis x1="0" y1="13" x2="100%" y2="13" {}
                    @if let [first, .., last] = chain.as_slice() { line.link x1=(x(first)) y1="13" x2=(x(last)) y2="13" {} }
                    @for backup in chain.iter() {
                        @let class = if proven(&backup.id) { "proven" } else { "unproven" };
                        @if backup.id.kind() == BackupKind::Full {
                            rect class=(class) x=(x(backup)) y="7" width="12" height="12" transform="translate(-6)" { title { (backup.id) } }
                        } @else {
                            circle class=(class) cx=(x(backup)) cy="13" r="5" { title { (backup.id) } }
                        }
                    }
                }
            }
        }
        div.chain { span {} div.ends.dim { span { (from.strftime("%Y-%m-%d %H:%M")) } span { (to.strftime("%Y-%m-%d %H:%M")) } } }
        p.dim { "Squares are fulls, circles incrementals; a filled one was restored by a drill that passed. The newest " (shown.len()) @if shown.len() == 1 { " chain." } @else { " chains." } }
        details {
            summary { "These backups as a table" }
            (table(
                &[words("Backup"), words("Continues"), words("Restore point"), numbers("Stored"), words("Proven")],
                shown.iter().flat_map(|chain| chain.iter().rev()).map(|backup| vec![
                    html! { code { (backup.id) } },
                    html! { @if let Some(parent) = &backup.parent { code { (parent) } } @else { "–" } },
                    html! { (when(backup.at)) },
                    html! { (bytes(backup.stored)) },
                    if proven(&backup.id) { html! { span.good { "yes" } } } else { html! { span.dim { "not itself" } } },
                ]),
            ))
        }
    }
}

fn drills(c: &ClusterView) -> Markup {
    if c.status.drills.is_empty() {
        return html! { p { "No drill was begun." } };
    }
    let report = |drill: &Drill| format!("v1/{}/drills/{}/report.html", c.status.cluster, drill.drill_id);
    html! {
        (trend(&c.status))
        (table(
            &[words("Drill"), words("Outcome"), words("Restored"), numbers("Restore took"), words("Ended")],
            c.status.drills.iter().take(LINES).map(|drill| {
                let (outcome, took, at) = match &drill.state {
                    DrillState::Open { step } => (html! { (step) }, None, None),
                    DrillState::Passed { at, measured } => (html! { span.good { "passed" } }, measured.map(|m| m.seconds()), Some(*at)),
                    DrillState::Failed { at, reason } => (html! { strong.bad { "FAILED" } " " (short(reason)) }, None, Some(*at)),
                };
                vec![
                    html! { @if drill.has_report { a href=(report(drill)) { (drill.drill_id) } } @else { (drill.drill_id) } },
                    outcome,
                    html! { code { (drill.backup_id) } },
                    html! { (took.map_or("–".into(), lasting)) },
                    html! { (at.map_or("–".into(), when)) },
                ]
            }),
        ))
    }
}

/// What the restores of the drills took, oldest first, with the target.
fn trend(s: &ClusterStatus) -> Markup {
    let took = |drill: &Drill| match &drill.state {
        DrillState::Passed { measured, .. } => measured.map(|m| (drill.drill_id.to_string(), m.seconds())),
        _ => None,
    };
    let mut points: Vec<_> = s.drills.iter().filter_map(took).collect();
    points.reverse();
    if points.len() < 2 {
        return html! {};
    }
    let target = s.rto.target_seconds.map(|target| target as f64);
    let most = points.iter().map(|(_, seconds)| *seconds).chain(target).fold(0.001, f64::max);
    let y = |seconds: f64| 84.0 - 76.0 * seconds / most;
    let x = |nth: usize| format!("{:.2}%", 1.0 + 98.0 * nth as f64 / (points.len() - 1) as f64);
    html! {
        div.trend {
            svg height="90" role="img" aria-label="What the restore of each passed drill took, oldest first; the table below has the numbers" {
                line.axis x1="0" y1="84" x2="100%" y2="84" {}
                @if let Some(target) = target { line.limit x1="0" y1=(format!("{:.1}", y(target))) x2="100%" y2=(format!("{:.1}", y(target))) {} }
                @for (nth, pair) in points.windows(2).enumerate() { @if let [(_, a), (_, b)] = pair {
                    line.link x1=(x(nth)) y1=(format!("{:.1}", y(*a))) x2=(x(nth + 1)) y2=(format!("{:.1}", y(*b))) {}
                } }
                @for (nth, (id, seconds)) in points.iter().enumerate() { circle.proven cx=(x(nth)) cy=(format!("{:.1}", y(*seconds))) r="4" { title { (id) ": " (lasting(*seconds)) } } }
            }
            p.dim { "Restore times of the last " (points.len()) " passed drills, up to " (lasting(most)) @if target.is_some() { "; the dashed line is the target" } "." }
        }
    }
}

fn promotions(c: &ClusterView) -> Markup {
    table(
        &[words("Promotion"), words("Outcome"), words("Restored"), words("At")],
        c.promotions.iter().take(LINES).map(|promotion| {
            let report =
                promotion.ending.map(|ending| format!("v1/{}/promotions/{}/{}", c.status.cluster, promotion.id, ending.page_name()));
            vec![
                html! { @match report { Some(report) => a href=(report) { (promotion.id) }, None => (promotion.id) } },
                match promotion.ending {
                    Some(Ending::Stuck) => html! { strong.bad { (Ending::Stuck.words()) } },
                    Some(ending) => html! { (ending.words()) },
                    None => html! { "runs" },
                },
                html! { code { (promotion.backup_id) } },
                html! { (when(promotion.at)) },
            ]
        }),
    )
}
