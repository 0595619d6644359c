//! A drill's report as a page: the verdict first, then what was restored, how long it took, every check, and the proof.

use crate::{bytes, fact, lasting, page, when};
use highwater_core::Sha256;
use highwater_core::drill::{Check, CheckKind, DrillReportV1, Outcome, Phase};
use highwater_core::identity::Vendor;
use highwater_core::plan::RestorePlanV1;
use maud::{Markup, html};

/// What the page says of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateView {
    /// Where it lies.
    pub uri: String,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
    /// The key that signed it.
    pub key: String,
}

/// The page of one drill. `certificate` is there when it passed.
pub fn drill_report(drill_id: &str, plan: &RestorePlanV1, report: &DrillReportV1, certificate: Option<&CertificateView>) -> String {
    let passed = report.outcome == Outcome::Passed;
    let title = format!("Drill of {}: {}", report.cluster, if passed { "passed" } else { "FAILED" });
    page(
        &title,
        html! {
            h1 { (title) }
            p.dim { "Drill " code { (drill_id) } ", " (when(report.started_at)) " to " (when(report.finished_at)) }
            (verdict(report, passed))
            h2 { "What was restored" }
            (restored(plan, report))
            h2 { "How long it took" }
            (timeline(&report.phases))
            h2 { "Checks" }
            (checks(&report.checks))
            h2 { "Proof" }
            (proof(report, certificate))
        },
    )
}

fn verdict(report: &DrillReportV1, passed: bool) -> Markup {
    let failed: Vec<_> = report.checks.iter().filter(|c| c.outcome == Outcome::Failed).collect();
    html! {
        div class={ "verdict " @if passed { "good" } @else { "bad" } } {
            @if passed {
                strong { "This restore point restores." }
                " The data was restored on " (report.host_id) ", a server started on it, and each of the " (report.checks.len()) " checks passed."
            } @else {
                strong { "This restore point is not proven." }
                @if let Some(failure) = &report.failure { " " (failure) }
                @if !failed.is_empty() { " " (failed.len()) " of " (report.checks.len()) " checks failed; they stand first below." }
                " Do not promote it; look at the RUNBOOK, section “A drill failed”."
            }
        }
    }
}

fn restored(plan: &RestorePlanV1, report: &DrillReportV1) -> Markup {
    html! {
        dl {
            (fact("Cluster", report.cluster.to_string()))
            (fact("Restore point", html! { code { (plan.point.backup_id) } ", the data as of " (when(plan.point.time)) }))
            (fact("LSN", plan.point.last_lsn.to_string()))
            @if let Some(binlog) = &plan.point.binlog {
                (fact("Binlog position", html! { (binlog.file) ":" (binlog.position) @if !binlog.gtid.is_empty() { ", GTID " (binlog.gtid) } }))
            }
            (fact("Incarnation", html! { code { (plan.incarnation) } }))
            (fact("Server", html! { (vendor(plan.server.vendor)) " " (plan.server.version) @if let Some(v) = &report.server_version { "; restored under " (v) } }))
        }
        table {
            thead { tr { th { "Step" } th { "Backup" } th.number { "Files" } th.number { "Stored" } th.number { "Redo" } th { "LSN" } th { "Tool" } } }
            tbody {
                @for (index, step) in plan.steps.iter().enumerate() {
                    tr {
                        td { (index + 1) }
                        td { code { (step.backup_id) } }
                        td.number { (bytes(step.raw_bytes)) }
                        td.number { (bytes(step.objects.iter().map(|o| o.size).fold(0, u64::saturating_add))) }
                        td.number { (bytes(step.redo_bytes)) }
                        td { (step.from_lsn) " → " (step.to_lsn) }
                        td { (step.tool.name) " " (step.tool.version) }
                    }
                }
            }
        }
    }
}

/// A bar for each phase, in order; the numbers stand beside it, so that nothing is said by the picture alone.
fn timeline(phases: &[Phase]) -> Markup {
    const ROW: f64 = 22.0;
    const LEFT: f64 = 330.0;
    const WIDTH: f64 = 430.0;
    let longest = phases.iter().map(|p| p.seconds).fold(0.001, f64::max);
    let total: f64 = phases.iter().map(|p| p.seconds).sum();
    let height = ROW * phases.len() as f64 + 4.0;
    html! {
        @if phases.is_empty() {
            p { "No phase was finished." }
        } @else {
            svg viewBox={ "0 0 960 " (height) } role="img" aria-label="Duration of each phase" {
                @for (row, phase) in phases.iter().enumerate() {
                    @let y = ROW * row as f64;
                    text x="0" y=(y + 15.0) { (phase.name) @if let Some(id) = &phase.backup_id { " " (id) } }
                    rect.bar x=(LEFT) y=(y + 4.0) width=(format!("{:.1}", (phase.seconds / longest * WIDTH).max(1.0))) height=(ROW - 8.0) {}
                    text x=(LEFT + WIDTH + 10.0) y=(y + 15.0) { (lasting(phase.seconds)) @if let Some(rate) = rate(phase) { ", " (rate) } }
                }
            }
            p.dim { (lasting(total)) " together; fetching the next incremental overlaps with applying the one before." }
        }
    }
}

fn rate(phase: &Phase) -> Option<String> {
    let moved = phase.bytes.filter(|_| phase.seconds > 0.0)?;
    Some(format!("{}/s", bytes((moved as f64 / phase.seconds) as u64)))
}

/// Every check, the failed ones first.
fn checks(checks: &[Check]) -> Markup {
    let of = |outcome| checks.iter().filter(move |c| c.outcome == outcome);
    html! {
        @if checks.is_empty() {
            p.bad { "No check ran." }
        } @else {
            table {
                thead { tr { th { "Outcome" } th { "Check" } th { "Of" } th { "Expected" } th { "Found" } th.number { "Took" } } }
                tbody {
                    @for check in of(Outcome::Failed).chain(of(Outcome::Passed)) {
                        tr {
                            td class=(if check.outcome == Outcome::Passed { "good" } else { "bad" }) { (if check.outcome == Outcome::Passed { "passed" } else { "FAILED" }) }
                            td { (words(check.kind)) }
                            td { (check.subject) }
                            td { (check.expected) }
                            td { (check.found) }
                            td.number { (lasting(check.seconds)) }
                        }
                    }
                }
            }
        }
    }
}

fn vendor(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Mariadb => "MariaDB",
        Vendor::Mysql => "MySQL",
    }
}

fn words(kind: CheckKind) -> &'static str {
    match kind {
        CheckKind::ServerUp => "server is up",
        CheckKind::RestorePoint => "restore point reached",
        CheckKind::Schema => "schema exists",
        CheckKind::Table => "table exists",
        CheckKind::CheckTable => "CHECK TABLE",
        CheckKind::RowCount => "row count",
        CheckKind::RowHash => "row hash",
        CheckKind::NewestRow => "newest row",
        CheckKind::Assertion => "your assertion",
        CheckKind::ErrorLog => "error log",
    }
}

fn proof(report: &DrillReportV1, certificate: Option<&CertificateView>) -> Markup {
    html! {
        dl {
            (fact("Plan", html! { "SHA-256 " code { (report.plan_sha256) } }))
            @if let Some(certificate) = certificate {
                (fact("Certificate", html! { code { (certificate.uri) } }))
                (fact("", html! { "SHA-256 " code { (certificate.sha256) } }))
                (fact("Signed by", html! { code { (certificate.key) } }))
            }
        }
        @match certificate {
            Some(_) => {
                p { "This page proves nothing; the certificate does. Anyone with the public key can check it, offline:" }
                pre { "highwater certificate verify certificate.json --key highwater.pem" }
            }
            None => p { "There is no certificate: only a passed drill has one." },
        }
    }
}
