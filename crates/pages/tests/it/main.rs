//! The pages as a browser gets them: what must be on them, and what must not. `tests/tests/pages.rs` shows them to a browser.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod fixture;

use fixture::{ENDINGS, EVIL, certificate, cluster, fixture, new_cluster, now, promotion, said, troubled};
use highwater_core::drill::{Check, CheckKind, Outcome};
use highwater_core::status::Need;
use highwater_pages::{Ending, drill_report, status};

#[test]
fn a_passed_drill_says_so_names_its_point_and_its_proof() {
    let (plan, report) = fixture();
    let page = drill_report("d-1", &plan, &report, Ok(&certificate()));
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
    // Its task failed, whatever its report says.
    let page = drill_report("d-1", &plan, &report, Err("States.Timeout: the instance fell silent"));
    assert!(
        page.contains("Drill of orders: FAILED") && page.contains("the instance fell silent") && page.contains("There is no certificate")
    );
    assert!(!page.contains("This restore point restores"));
    report.checks.push(Check {
        kind: CheckKind::RowCount,
        subject: "orders.lines".into(),
        outcome: Outcome::Failed,
        expected: "exactly 5".into(),
        found: "4".into(),
        seconds: 0.1,
    });
    report.outcome = Outcome::Failed;
    let page = drill_report("d-1", &plan, &report, Err("1 of 6 checks failed, first RowCount of orders.lines"));
    assert!(page.contains("1 of 6 checks failed; they stand first"));
    assert!(page.find("exactly 5").unwrap() < page.find("an answer").unwrap(), "failed checks stand first");
    report.checks.clear();
    report.phases.clear();
    let page = drill_report("d-1", &plan, &report, Err("the instance ended"));
    assert!(page.contains("No check ran") && page.contains("No phase was finished") && page.contains("the instance ended"));
}

#[test]
fn a_promotions_page_says_how_it_ended_who_decided_where_the_old_data_lies_and_the_way_back() {
    let page = |ending| promotion(ending, said(ending));
    let promoted = page(Ending::Promoted);
    for wanted in [
        "Promotion of orders: promoted",
        "assumed-role/AWSReservedSSO_dba_0123456789abcdef/ada",
        "assumed-role/AWSReservedSSO_dba_0123456789abcdef/grace",
        "certificate.json",
        "../../drills/20261122T090500Z-9f86d081/report.html",
        "/var/lib/mysql.old-20261122T091500Z-0a1b",
        "Out of service for <strong>20 s</strong>",
        "<td>restore beside the data</td>",
        "23 min 29 s",
        "1000000",
        "--document-name highwater-rollback --instance-ids i-0123456789abcdef0",
        "binlog.000003:73111841, GTID 0-33060-431007",
    ] {
        assert!(promoted.contains(wanted), "{wanted}");
    }
    let rolled_back = page(Ending::RolledBack);
    assert!(rolled_back.contains("the old data serves again") && rolled_back.contains("found 999871"));
    assert!(rolled_back.contains("started in the console") && rolled_back.contains("bring the old data back"));
    let refused = page(Ending::Refused);
    assert!(
        refused.contains("the primary was not touched") && refused.contains("did not tell its steps") && !refused.contains("-rollback")
    );
    let stuck = page(Ending::Stuck);
    assert!(
        stuck.contains("STUCK, ACT NOW")
            && stuck.contains("highwater-resume")
            && stuck.contains("mv -nT")
            && stuck.contains("it stands still in")
    );
    assert!(stuck.contains("RUNBOOK: promotion-stuck") && !stuck.contains("serving</dt>"), "nobody claims to know which data serves");
    let reverted = page(Ending::Reverted);
    assert!(reverted.contains("/var/lib/mysql.undone-20261122T091500Z-0a1b") && reverted.contains("brought the old data back"));
    for ending in ENDINGS {
        assert_eq!(page(ending).contains("The restored data serves"), ending == Ending::Promoted, "{ending:?}");
    }
}

#[test]
fn nothing_from_outside_becomes_markup_and_nothing_is_loaded_or_run() {
    let (plan, mut report) = fixture();
    report.outcome = Outcome::Failed;
    for check in &mut report.checks {
        (check.subject, check.found) = (EVIL.into(), EVIL.into());
    }
    let mut pages =
        vec![drill_report(EVIL, &plan, &report, Err(EVIL)), status(EVIL, &[troubled("orders", EVIL)], &[EVIL.to_owned()], now())];
    pages.extend(ENDINGS.map(|ending| promotion(ending, EVIL)));
    for page in pages {
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert!(page.contains("default-src 'none'"));
        assert!(!page.contains("http://") && !page.contains("https://"), "self-contained");
    }
}

#[test]
fn the_status_leads_with_what_needs_a_person() {
    let well = status("highwater", &[cluster("billing"), cluster("orders")], &[], now());
    assert!(well.contains("Nothing needs you") && well.contains("20 min 34 s") && well.contains("59 min 48 s ago"));
    let page = status("highwater", &[cluster("billing"), troubled("orders", "nobody there")], &[], now());
    assert!(page.contains("1 of 2 clusters need you") && !page.contains("Nothing needs you"));
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
    for section in Need::SECTIONS {
        assert!(at(&format!("RUNBOOK: {section}")) < at("Newest restore point"), "{section}");
    }
    assert!(at("RUNBOOK: promotion-stuck") < at("RUNBOOK: backups-overdue"), "the most urgent first");
    assert!(page.contains("Waiting for a decision") && page.contains("20261122T044000Z-beef"));
    let page = status("highwater", &[new_cluster("new")], &[], now());
    assert!(page.contains("No backup is committed") && page.contains("not measured") && page.contains("no drill has passed yet"));
    assert!(status("highwater", &[], &[], now()).contains("No cluster is configured"));
    let page = status("highwater", &[cluster("orders")], &["billing: the parameter is no configuration".into()], now());
    assert!(page.contains("1 of 2 clusters need you") && page.contains("billing: the parameter is no configuration"));
}

#[test]
fn a_chain_is_one_line_and_proof_is_visible() {
    let page = status("highwater", &[cluster("orders")], &[], now());
    assert_eq!(page.matches("<rect class=\"proven\"").count(), 2, "both fulls were drilled");
    assert_eq!(page.matches("<circle class=\"unproven\"").count(), 8);
    assert!(
        page.contains("v1/orders/drills/20261122T023000Z-9f86d081/report.html")
            && page.contains("v1/orders/promotions/20261114T091500Z-0a1b/report.html")
    );
    // Of a chain whose full is older than what was read, nothing is drawn: it would look like a chain of its own.
    let mut cut = cluster("orders");
    cut.backups.remove(0);
    let page = status("highwater", &[cut], &[], now());
    assert_eq!((page.matches("<rect class=\"proven\"").count(), page.matches("<circle class=\"unproven\"").count()), (1, 2));
}
