//! A deployment's status as a page: what needs a person first, then every cluster with its chains and drills.

use crate::{bytes, fact, lasting, page, when};
use highwater_core::drill::Outcome;
use highwater_core::{BackupId, BackupKind, ClusterId};
use jiff::Timestamp;
use maud::{Markup, html};

/// One cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// Its id.
    pub cluster: ClusterId,
    /// What a person must act on, in words; nothing: all is well.
    pub problems: Vec<String>,
    /// A restore point older than this is overdue, seconds.
    pub overdue_after: f64,
    /// The newest restore point that a drill proved.
    pub proven: Option<Proof>,
    /// Expected duration of a restore of the newest point, seconds; nothing before the first drill.
    pub expected_restore: Option<f64>,
    /// Committed backups, oldest first.
    pub backups: Vec<BackupView>,
    /// Drills, newest first.
    pub drills: Vec<DrillView>,
}

/// A proven restore point.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// Of which backup.
    pub backup_id: BackupId,
    /// By which drill.
    pub drill_id: String,
    /// When it passed.
    pub at: Timestamp,
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
    /// Whether a drill of this very restore point passed.
    pub proven: bool,
}

/// One drill that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillView {
    /// Its id.
    pub id: String,
    /// What it restored.
    pub backup_id: BackupId,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
    /// The restore alone, seconds; nothing when it did not get so far.
    pub restore_seconds: Option<f64>,
    /// Its page, relative to this one.
    pub report: Option<String>,
}

/// Drills shown, newest first.
const DRILLS: usize = 10;
/// Chains shown, newest first.
const CHAINS: usize = 6;

/// The page of a deployment as it was at `now`.
pub fn status(deployment: &str, clusters: &[ClusterView], now: Timestamp) -> String {
    let troubled: Vec<_> = clusters.iter().filter(|c| !c.problems.is_empty()).collect();
    page(
        &format!("Highwater: {deployment}"),
        html! {
            h1 { "Highwater: " (deployment) }
            p.dim { "As of " (when(now)) ". This page is written when something changes; if it is old, look at the alarms." }
            @if clusters.is_empty() {
                div.verdict.warn { strong { "No cluster is configured." } }
            } @else if troubled.is_empty() {
                div.verdict.good { strong { "Nothing needs you." } " Every cluster (" (clusters.len()) ") has a restore point in time and a proven one." }
            } @else {
                div.verdict.bad {
                    strong { (troubled.len()) " of " (clusters.len()) " clusters need you." }
                    ul { @for cluster in &troubled { @for problem in &cluster.problems { li { a href={ "#" (cluster.cluster) } { (cluster.cluster) } ": " (problem) } } } }
                }
            }
            @if !clusters.is_empty() { (overview(clusters, now)) }
            @for cluster in clusters { (one(cluster, now)) }
        },
    )
}

fn overview(clusters: &[ClusterView], now: Timestamp) -> Markup {
    html! {
        table {
            thead { tr { th { "Cluster" } th { "State" } th.number { "Newest restore point" } th.number { "Newest proven" } th.number { "Chain" } th.number { "Expected restore" } th.number { "Stored" } } }
            tbody {
                @for c in clusters {
                    @let newest = c.backups.last();
                    tr {
                        td { a href={ "#" (c.cluster) } { (c.cluster) } }
                        td class=(if c.problems.is_empty() { "good" } else { "bad" }) { (if c.problems.is_empty() { "well" } else { "needs you" }) }
                        td.number { (newest.map_or("none".into(), |b| age(b.at, now))) }
                        td.number { (c.proven.as_ref().map_or("none".into(), |p| age(p.at, now))) }
                        td.number { (chains(&c.backups).last().map_or(0, Vec::len)) }
                        td.number { (c.expected_restore.map_or("not measured".into(), lasting)) }
                        td.number { (bytes(c.backups.iter().map(|b| b.stored).fold(0, u64::saturating_add))) }
                    }
                }
            }
        }
    }
}

fn one(c: &ClusterView, now: Timestamp) -> Markup {
    html! {
        section.cluster id=(c.cluster) {
            h2 { (c.cluster) }
            @for problem in &c.problems { p.bad { strong { (problem) } } }
            dl {
                (fact("Newest restore point", match c.backups.last() {
                    Some(b) => html! { code { (b.id) } ", " (age(b.at, now)) " old; overdue after " (lasting(c.overdue_after)) },
                    None => html! { "none" },
                }))
                (fact("Newest proven", match &c.proven {
                    Some(p) => html! { code { (p.backup_id) } ", by drill " code { (p.drill_id) } " " (age(p.at, now)) " ago" },
                    None => html! { "none: no drill has passed yet" },
                }))
                (fact("Expected restore", c.expected_restore.map_or("not measured: no drill has passed yet".to_owned(), lasting)))
            }
            h3 { "Chains" }
            (timelines(&c.backups))
            h3 { "Drills" }
            (drills(&c.drills, now))
        }
    }
}

/// Backups, oldest first, as chains: each a full and what continues it.
fn chains(backups: &[BackupView]) -> Vec<Vec<&BackupView>> {
    let mut chains: Vec<Vec<&BackupView>> = Vec::new();
    for backup in backups {
        let home = match (backup.id.kind(), &backup.parent) {
            (BackupKind::Incremental, Some(parent)) => chains.iter_mut().find(|chain| chain.iter().any(|b| b.id == *parent)),
            _ => None,
        };
        match home {
            Some(chain) => chain.push(backup),
            None => chains.push(vec![backup]),
        }
    }
    chains
}

/// The newest chains on one axis of time: squares are fulls, circles incrementals, filled ones are proven.
fn timelines(backups: &[BackupView]) -> Markup {
    const ROW: f64 = 34.0;
    let chains = chains(backups);
    let shown: Vec<_> = chains.iter().rev().take(CHAINS).collect();
    let times: Vec<f64> = shown.iter().flat_map(|chain| chain.iter()).map(|b| b.at.as_millisecond() as f64).collect();
    let (from, to) = (times.iter().copied().fold(f64::MAX, f64::min), times.iter().copied().fold(f64::MIN, f64::max));
    let x = |b: &BackupView| 215.0 + 730.0 * if to > from { (b.at.as_millisecond() as f64 - from) / (to - from) } else { 0.5 };
    html! {
        @if shown.is_empty() {
            p { "No backup is committed." }
        } @else {
            svg viewBox={ "0 0 960 " (ROW * shown.len() as f64) } role="img" aria-label="Chains on an axis of time; the table below has the same backups" {
                @for (row, chain) in shown.iter().enumerate() {
                    @let y = ROW * (row as f64 + 0.5);
                    line.axis x1="205" y1=(y) x2="955" y2=(y) {}
                    @if let [first, .., last] = chain.as_slice() { line.link x1=(format!("{:.1}", x(first))) y1=(y) x2=(format!("{:.1}", x(last))) y2=(y) {} }
                    @if let Some(full) = chain.first() { text x="0" y=(y + 4.0) { (full.id.requested_at().strftime("%Y-%m-%d %H:%M")) ", " (chain.len()) } }
                    @for backup in chain.iter() {
                        @let class = if backup.proven { "proven" } else { "unproven" };
                        @if backup.id.kind() == BackupKind::Full {
                            rect class=(class) x=(format!("{:.1}", x(backup) - 6.0)) y=(y - 6.0) width="12" height="12" { title { (backup.id) } }
                        } @else {
                            circle class=(class) cx=(format!("{:.1}", x(backup))) cy=(y) r="5" { title { (backup.id) } }
                        }
                    }
                }
            }
            p.dim { "Squares are fulls, circles incrementals; a filled one was restored by a drill that passed. " (shown.len()) " of " (chains.len()) " chains, from " (at(from)) " to " (at(to)) "." }
            details {
                summary { "These backups as a table" }
                table {
                    thead { tr { th { "Backup" } th { "Continues" } th { "Restore point" } th.number { "Stored" } th { "Proven" } } }
                    tbody { @for backup in shown.iter().flat_map(|chain| chain.iter().rev()) { tr {
                        td { code { (backup.id) } }
                        td { @if let Some(parent) = &backup.parent { code { (parent) } } }
                        td { (when(backup.at)) }
                        td.number { (bytes(backup.stored)) }
                        td class=(if backup.proven { "good" } else { "dim" }) { (if backup.proven { "yes" } else { "not itself" }) }
                    } } }
                }
            }
        }
    }
}

fn drills(drills: &[DrillView], now: Timestamp) -> Markup {
    html! {
        @if drills.is_empty() {
            p { "No drill has ended." }
        } @else {
            table {
                thead { tr { th { "Drill" } th { "Outcome" } th { "Restored" } th.number { "Restore took" } th.number { "Ago" } } }
                tbody { @for drill in drills.iter().take(DRILLS) { tr {
                    td { @match &drill.report { Some(report) => a href=(report) { (drill.id) }, None => (drill.id) } }
                    td class=(if drill.outcome == Outcome::Passed { "good" } else { "bad" }) { (if drill.outcome == Outcome::Passed { "passed" } else { "FAILED" }) }
                    td { code { (drill.backup_id) } }
                    td.number { (drill.restore_seconds.map_or("–".into(), lasting)) }
                    td.number { (age(drill.at, now)) }
                } } }
            }
        }
    }
}

fn at(milliseconds: f64) -> String {
    Timestamp::from_millisecond(milliseconds as i64).map(when).unwrap_or_default()
}

fn age(at: Timestamp, now: Timestamp) -> String {
    lasting(now.duration_since(at).as_secs_f64().max(0.0))
}
