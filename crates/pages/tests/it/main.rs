//! The pages as a browser gets them: what must be on them, and what must not.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod fixture;

use fixture::{certificate, cluster, fixture};
use highwater_core::drill::{Check, CheckKind, Outcome};
use highwater_pages::{ClusterView, drill_report, status};

#[test]
fn a_passed_drill_says_so_names_its_point_and_its_proof() {
    let (plan, report) = fixture();
    let page = drill_report("d-1", &plan, &report, Some(&certificate()));
    for wanted in [
        "Drill of orders: passed",
        "20261122T020000Z-full-4f7c",
        "2026-11-22 02:00:41 UTC",
        "4370075969",
        "0-33060-417434",
        "129 MB/s",
        "certificate.json",
        "row hash",
    ] {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert!(!page.contains("FAILED"));
}

#[test]
fn a_failed_drill_never_looks_like_a_passed_one() {
    let (plan, mut report) = fixture();
    report.checks.push(Check {
        kind: CheckKind::RowCount,
        subject: "orders.lines".into(),
        outcome: Outcome::Failed,
        expected: "exactly 5".into(),
        found: "4".into(),
        seconds: 0.1,
    });
    report.outcome = Outcome::Failed;
    let page = drill_report("d-1", &plan, &report, None);
    assert!(page.contains("Drill of orders: FAILED") && page.contains("1 of 6 checks failed") && page.contains("There is no certificate"));
    assert!(!page.contains("This restore point restores"));
    assert!(page.find("exactly 5").unwrap() < page.find("an answer").unwrap(), "failed checks stand first");
    report.checks.clear();
    report.phases.clear();
    report.failure = Some("the instance ended".into());
    let page = drill_report("d-1", &plan, &report, None);
    assert!(page.contains("No check ran") && page.contains("No phase was finished") && page.contains("the instance ended"));
}

#[test]
fn nothing_from_outside_becomes_markup_and_nothing_is_loaded_or_run() {
    let (plan, mut report) = fixture();
    let evil = "<script>alert(1)</script><img src=x onerror=y>\"'&";
    report.failure = Some(evil.into());
    report.outcome = Outcome::Failed;
    for check in &mut report.checks {
        (check.subject, check.found) = (evil.into(), evil.into());
    }
    let mut troubled = cluster("orders");
    troubled.problems.push(evil.into());
    troubled.drills[0].report = Some("javascript\":alert(1)".into());
    for page in [drill_report(evil, &plan, &report, None), status(evil, &[troubled], "2026-11-22T05:00:00Z".parse().unwrap())] {
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("javascript\":"));
        assert!(page.contains("&lt;script&gt;") && page.contains("default-src 'none'"));
        assert!(!page.contains("http://") && !page.contains("https://"), "self-contained");
    }
}

#[test]
fn the_status_leads_with_what_needs_a_person() {
    let now = "2026-11-22T05:00:00Z".parse().unwrap();
    let well = status("highwater", &[cluster("billing"), cluster("orders")], now);
    assert!(well.contains("Nothing needs you") && well.contains("20 min 34 s") && well.contains("2 of 2 chains"));
    let mut troubled = cluster("orders");
    troubled.problems.push("no restore point for 30 h".into());
    let page = status("highwater", &[cluster("billing"), troubled], now);
    assert!(page.contains("1 of 2 clusters need you") && !page.contains("Nothing needs you"));
    assert!(page.find("no restore point for 30 h").unwrap() < page.find("Newest restore point").unwrap());
    let empty = ClusterView {
        backups: vec![],
        drills: vec![],
        proven: None,
        expected_restore: None,
        problems: vec!["no backup yet".into()],
        ..cluster("new")
    };
    let page = status("highwater", &[empty], now);
    assert!(page.contains("No backup is committed") && page.contains("not measured") && page.contains("no drill has passed yet"));
    assert!(status("highwater", &[], now).contains("No cluster is configured"));
}

#[test]
fn a_chain_is_one_line_and_proof_is_visible() {
    let page = status("highwater", &[cluster("orders")], "2026-11-22T05:00:00Z".parse().unwrap());
    assert_eq!(page.matches("<rect class=\"proven\"").count(), 1);
    assert_eq!(page.matches("<rect class=\"unproven\"").count(), 1);
    assert_eq!(page.matches("<circle class=\"unproven\"").count(), 2);
    assert_eq!(page.matches("<line class=\"link\"").count(), 1, "a chain of one has no line");
}
