//! A drill's report as a page: the verdict first, then what was restored, how long it took, every check, and the proof.

use crate::{bars, bytes, checks, fact, lasting, numbers, page, table, when, words};
use highwater_core::Sha256;
use highwater_core::drill::{DrillReportV1, Outcome, Phase};
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

/// The page of one drill: of its certificate when it passed, else of the reason why it did not, which need not be in its report.
pub fn drill_report(drill_id: &str, plan: &RestorePlanV1, report: &DrillReportV1, ended: Result<&CertificateView, &str>) -> String {
    let title = format!("Drill of {}: {}", report.cluster, if ended.is_ok() { "passed" } else { "FAILED" });
    page(
        &title,
        html! {
            h1 { (title) }
            p.dim { "Drill " code { (drill_id) } ", " (when(report.started_at)) " to " (when(report.finished_at)) }
            (verdict(report, ended))
            h2 { "What was restored" }
            (restored(plan, report))
            h2 { "How long it took" }
            (timeline(&report.phases))
            h2 { "Checks" }
            @if report.checks.is_empty() { p.bad { "No check ran." } } @else { (checks(&report.checks)) }
            h2 { "Proof" }
            (proof(report, ended.ok()))
        },
    )
}

fn verdict(report: &DrillReportV1, ended: Result<&CertificateView, &str>) -> Markup {
    let failed = report.checks.iter().filter(|c| c.outcome == Outcome::Failed).count();
    match ended {
        Ok(_) => html! {
            div.verdict.good {
                strong { "This restore point restores." }
                p { "The data was restored on " (report.host_id) ", a server started on it, and each of the " (report.checks.len()) " checks passed." }
            }
        },
        Err(reason) => html! {
            div.verdict.bad {
                strong { "This restore point is not proven." }
                p { (reason) }
                @if failed > 0 { p { (failed) " of " (report.checks.len()) " checks failed; they stand first below." } }
                p { "Do not promote it. RUNBOOK: drills-failed." }
            }
        },
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
        (table(
            &[numbers("Step"), words("Backup"), numbers("Files"), numbers("Stored"), numbers("Redo"), words("LSN"), words("Tool")],
            plan.steps.iter().enumerate().map(|(index, step)| vec![
                html! { (index + 1) },
                html! { code { (step.backup_id) } },
                html! { (bytes(step.raw_bytes)) },
                html! { (bytes(step.objects.iter().map(|o| o.size).fold(0, u64::saturating_add))) },
                html! { (bytes(step.redo_bytes)) },
                html! { (step.from_lsn) " → " (step.to_lsn) },
                html! { (step.tool.name) " " (step.tool.version) },
            ]),
        ))
    }
}

fn timeline(phases: &[Phase]) -> Markup {
    let total: f64 = phases.iter().map(|p| p.seconds).sum();
    let steps = phases.iter().map(|phase| {
        let name = phase.backup_id.as_ref().map_or_else(|| phase.name.clone(), |id| format!("{} {id}", phase.name));
        (name, phase.seconds, rate(phase))
    });
    html! {
        @if phases.is_empty() {
            p { "No phase was finished." }
        } @else {
            (bars(&steps.collect::<Vec<_>>()))
            p.dim { (lasting(total)) " together; fetching the next incremental overlaps with applying the one before." }
        }
    }
}

fn rate(phase: &Phase) -> Option<String> {
    let moved = phase.bytes.filter(|_| phase.seconds > 0.0)?;
    Some(format!("{}/s", bytes((moved as f64 / phase.seconds) as u64)))
}

fn vendor(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Mariadb => "MariaDB",
        Vendor::Mysql => "MySQL",
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
