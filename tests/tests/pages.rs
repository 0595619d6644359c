//! Our pages in a real browser, at a desk and on a phone, by day and by night, with scripts disabled. The pictures are kept below
//! `target/…/pages`, for a person to look at.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../../crates/pages/tests/it/fixture.rs"]
mod fixture;

use fixture::{ENDINGS, EVIL, certificate, cluster, fixture, new_cluster, now, promotion, said, troubled};
use highwater_core::drill::Outcome;
use highwater_pages::{drill_report, status};
use highwater_tests::{Browser, Look, Screen};

/// Every kind of page: its name, itself, and what must be read on it.
fn pages() -> Vec<(String, String, &'static str)> {
    let (plan, report) = fixture();
    let mut failed = report.clone();
    failed.checks[3].outcome = Outcome::Failed;
    failed.outcome = Outcome::Failed;
    let why = "1 of 5 checks failed, first RowCount of orders.lines: expected exactly 1000000, found 999871";
    let named = |name: &str, page, wanted| (name.to_owned(), page, wanted);
    let mut all = vec![
        named(
            "drill-passed",
            drill_report("20261122T090500Z-9f86d081", &plan, &report, Ok(&certificate())),
            "This restore point restores.",
        ),
        named("drill-failed", drill_report("20261122T090500Z-9f86d081", &plan, &failed, Err(why)), "This restore point is not proven."),
        named("status-well", status("highwater", &[cluster("billing"), cluster("orders")], &[], now()), "Nothing needs you."),
        named(
            "status-troubled",
            status(
                "highwater",
                &[troubled("orders", "No such file or directory (os error 2)"), cluster("billing"), new_cluster("new")],
                &[],
                now(),
            ),
            "2 of 3 clusters need you.",
        ),
        named("status-empty", status("highwater", &[], &[], now()), "No cluster is configured."),
        named("status-60", status("highwater", &fleet(), &[], now()), "4 of 60 clusters need you."),
        named(
            "hostile",
            status(EVIL, &[troubled(&"x".repeat(40), &format!("{EVIL} {}", "unbroken".repeat(60)))], &[EVIL.to_owned()], now()),
            "<script>document.title='run'</script>",
        ),
    ];
    all.extend(
        ENDINGS.map(|ending| named(&format!("promotion-{ending:?}").to_lowercase(), promotion(ending, said(ending)), ending.words())),
    );
    all
}

/// As many clusters as a deployment holds, with the longest names.
fn fleet() -> Vec<highwater_pages::ClusterView> {
    let name = |n: usize| format!("c{n}-{}", "a-cluster-with-the-longest-name-there-is").chars().take(40).collect::<String>();
    let one = |n: usize| match n % 20 {
        7 => troubled(&name(n), "connection refused"),
        13 if n < 20 => new_cluster(&name(n)),
        _ => cluster(&name(n)),
    };
    (0..60).map(one).collect()
}

#[test]
fn every_page_is_readable_in_a_browser_without_scripts_on_every_screen_by_day_and_by_night() {
    let mut browser = Browser::start();
    for (name, page, wanted) in pages() {
        for screen in [Screen::DESKTOP, Screen::NIGHT, Screen::PHONE] {
            let what = format!("{name} on {}", screen.name);
            let Look { text, dom, overflowing, faint, complaints, requests, picture } = browser.look(&name, &page, screen);
            assert!(text.contains(wanted), "{what}: {wanted} is not shown: {text}");
            assert_eq!(overflowing, [] as [String; 0], "{what}: {}", picture.display());
            assert_eq!(faint, [] as [String; 0], "{what}: {}", picture.display());
            assert_eq!((complaints, requests), (vec![], vec![]), "{what}");
            assert!(!dom.contains("<script") && !dom.contains("<img"), "{what}: something from outside became markup");
        }
    }
}

#[test]
fn what_the_browser_test_looks_for_would_be_found() {
    let mut browser = Browser::start();
    let bad = "<!DOCTYPE html><meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\
        <body style='background:#fff'><p style='color:#bbb'>too faint</p><p style='width:2000px'>too wide</p>\
        <img src='http://127.0.0.1:1/x.png'><script>document.body.append('a script ran')</script>";
    let look = browser.look("bad", bad, Screen::PHONE);
    assert!(look.overflowing.iter().any(|e| e.contains("too wide")), "{:?}", look.overflowing);
    assert!(look.faint.iter().any(|e| e.contains("too faint")), "{:?}", look.faint);
    assert!(look.complaints.iter().any(|e| e.contains("Content Security Policy")), "{:?}", look.complaints);
    assert!(look.dom.contains("<script") && !look.text.contains("a script ran"), "{}", look.text);
}
