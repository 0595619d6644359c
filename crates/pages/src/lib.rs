//! Pages for people: self-contained HTML, without scripts, readable without styles, on a phone and on paper.
//!
//! Everything from outside is escaped by the template; the policy in the head lets a browser load and run nothing. A page's links lead
//! to its neighbours by their keys: they work in every place that holds the pages under the same keys.
#![warn(missing_docs)]

mod drill;
mod promotion;
mod status;

pub use drill::{CertificateView, drill_report};
pub use promotion::{Ending, PromotionView, promotion_report};
pub use status::{BackupView, ClusterView, PromotionLine, STATUS_NAME, status};

use highwater_core::drill::{Check, CheckKind, Outcome};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, Render, html};

/// The type of every page, for its object.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

const STYLE: &str = include_str!("style.css");

fn page(title: &str, body: Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (maud::PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
    .into_string()
}

/// A fact with its name.
fn fact(name: &str, value: impl Render) -> Markup {
    html! { dt { (name) } dd { (value) } }
}

/// A column: its name, and whether it holds numbers.
type Column = (&'static str, bool);

/// A column of words.
const fn words(name: &'static str) -> Column {
    (name, false)
}

/// A column of numbers.
const fn numbers(name: &'static str) -> Column {
    (name, true)
}

/// A table. Where it is narrow each row is a block, and each cell says its column's name itself.
fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<Markup>>) -> Markup {
    let class = |numeric: bool| numeric.then_some("number");
    html! {
        table {
            thead { tr { @for (name, numeric) in columns { th class=[class(*numeric)] { (name) } } } }
            tbody {
                @for row in rows {
                    tr { @for ((name, numeric), cell) in columns.iter().zip(row) { td class=[class(*numeric)] data-label=(name) { span { (cell) } } } }
                }
            }
        }
    }
}

/// A bar for each step, in order; the numbers stand beside it, so that nothing is said by the picture alone. Each is a name, seconds, and what
/// else is known.
fn bars(steps: &[(String, f64, Option<String>)]) -> Markup {
    let longest = steps.iter().map(|(_, seconds, _)| *seconds).fold(0.001, f64::max);
    html! {
        table {
            thead { tr { th { "Step" } th {} th.number { "Took" } } }
            tbody {
                @for (name, seconds, more) in steps {
                    tr {
                        td { (name) }
                        td.bar { i style={ "width:" (format!("{:.1}", seconds / longest * 100.0)) "%" } {} }
                        td.number { (lasting(*seconds)) @if let Some(more) = more { ", " (more) } }
                    }
                }
            }
        }
    }
}

/// Every check, the failed ones first.
fn checks(checks: &[Check]) -> Markup {
    let of = |outcome| checks.iter().filter(move |c| c.outcome == outcome);
    let columns = [words("Outcome"), words("Check"), words("Of"), words("Expected"), words("Found"), numbers("Took")];
    let row = |check: &Check| {
        vec![
            passed_or_failed(check.outcome),
            html! { (kind(check.kind)) },
            html! { (check.subject) },
            html! { (check.expected) },
            html! { (check.found) },
            html! { (lasting(check.seconds)) },
        ]
    };
    table(&columns, of(Outcome::Failed).chain(of(Outcome::Passed)).map(row))
}

fn passed_or_failed(outcome: Outcome) -> Markup {
    match outcome {
        Outcome::Passed => html! { span.good { "passed" } },
        Outcome::Failed => html! { strong.bad { "FAILED" } },
    }
}

fn kind(kind: CheckKind) -> &'static str {
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

/// To the second, UTC.
fn when(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Bytes for a person: two or three digits, powers of 1,000 as S3's prices count them.
fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB"] {
        if value < 999.5 {
            return if unit == "B" || value >= 99.5 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.0} EB")
}

/// A duration for a person, from seconds: its two greatest units.
fn lasting(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let total = seconds.round() as u64;
    match (total / 86_400, total / 3_600 % 24, total / 60 % 60, total % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s:02} s"),
        (0, h, m, _) => format!("{h} h {m:02} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        let written: Vec<_> = [0, 999, 1_000, 99_499, 99_500, 2_779_000_000, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(written, ["0 B", "999 B", "1.0 kB", "99.5 kB", "100 kB", "2.8 GB", "18 EB"]);
        let written: Vec<_> = [0.04, 9.9, 59.6, 3_599.0, 3_600.0, 90_000.0].into_iter().map(lasting).collect();
        assert_eq!(written, ["0.0 s", "9.9 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "1 d 1 h"]);
    }
}
