//! Pages for people: self-contained HTML, without scripts, readable without styles, printable.
//!
//! Everything from outside is escaped by the template; the policy in the head lets a browser load and run nothing.
#![warn(missing_docs)]

mod drill;
mod status;

pub use drill::{CertificateView, drill_report};
pub use status::{BackupView, ClusterView, DrillView, Proof, status};

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

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
fn fact(name: &str, value: impl maud::Render) -> Markup {
    html! { dt { (name) } dd { (value) } }
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
