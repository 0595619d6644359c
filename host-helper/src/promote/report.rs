//! What a promotion says at its end: the journal as JSON, or a table for a person, and what comes next.

use crate::error::{Context, Result};
use highwater_core::Failure;
use highwater_core::drill::Outcome;
use highwater_core::identity::BinlogPosition;
use highwater_core::promotion::{PromotionJournalV1, State};

/// Prints the outcome.
pub(super) fn show(journal: &PromotionJournalV1, json: bool, note: &str) -> Result<()> {
    let next = next(journal);
    if json {
        let body = serde_json::json!({ "promotion": journal, "note": note, "next": next });
        println!("{}", serde_json::to_string(&body).context(Failure::Document, || "write the result".into())?);
        return Ok(());
    }
    println!("{}", table(journal));
    if !note.is_empty() {
        println!("{note}");
    }
    if !next.is_empty() {
        println!("What comes next:");
        next.iter().for_each(|line| println!("  - {line}"));
    }
    Ok(())
}

/// Nothing was ever begun.
pub(super) fn nothing(json: bool) -> Result<()> {
    println!("{}", if json { r#"{"promotion":null,"note":"nothing is open","next":[]}"# } else { "No promotion is open on this host." });
    Ok(())
}

fn table(journal: &PromotionJournalV1) -> String {
    let mut rows: Vec<(String, String)> = vec![
        ("promotion".into(), format!("{} of cluster {}: {}", journal.id, journal.cluster, journal.state.name())),
        ("restore point".into(), journal.backup_id.to_string()),
        ("approval".into(), format!("asked by {}, approved by {}", journal.requester, journal.approvers.join(", "))),
    ];
    let old_place = |slot: &highwater_core::promotion::Slot| match journal.state {
        State::Done { .. } => ("old", slot.aside.display().to_string()),
        _ => ("promoted", slot.undone.display().to_string()),
    };
    for slot in &journal.slots {
        rows.push(("in place".into(), slot.live.display().to_string()));
        let (what, path) = old_place(slot);
        rows.push((format!("{what}, kept"), path));
    }
    match &journal.state {
        State::Done { fence, checks, finished_at, .. } => {
            let passed = checks.iter().filter(|c| c.outcome == Outcome::Passed).count();
            rows.push(("checks".into(), format!("{passed} of {} passed", checks.len())));
            rows.push(("restored to".into(), position(journal.restored_to.as_ref())));
            rows.push(("old binlog ends".into(), position(fence.last.as_ref())));
            rows.push(("out of service".into(), format!("{:.1} s", seconds(journal, "fencing", *finished_at))));
        }
        State::Reverted { promoted, finished_at } => {
            rows.push(("promoted binlog ends".into(), position(promoted.as_ref().and_then(|f| f.last.as_ref()))));
            rows.push(("out of service".into(), format!("{:.1} s", seconds(journal, "reverting", *finished_at))));
        }
        _ => {}
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect::<Vec<_>>().join("\n")
}

fn seconds(journal: &PromotionJournalV1, since: &str, until: jiff::Timestamp) -> f64 {
    let began = journal.history.iter().rev().take_while(|e| e.at <= until).filter(|e| e.state == since).last();
    began.map_or(0.0, |e| until.duration_since(e.at).as_secs_f64())
}

fn position(at: Option<&BinlogPosition>) -> String {
    match at {
        Some(at) if at.gtid.is_empty() => format!("{}:{}", at.file, at.position),
        Some(at) => format!("{}:{}, GTID {}", at.file, at.position, at.gtid),
        None => "no binlog".into(),
    }
}

/// What a person, or the control plane, does now.
fn next(journal: &PromotionJournalV1) -> Vec<String> {
    let kept = |of: fn(&highwater_core::promotion::Slot) -> &std::path::PathBuf| {
        journal.slots.iter().map(|s| of(s).display().to_string()).collect::<Vec<_>>().join(" and ")
    };
    match &journal.state {
        State::Done { fence, .. } => {
            let mut lines = vec![
                "the data directory is another one now: the next backup begins a new incarnation with a full, by itself; take it soon"
                    .to_owned(),
                "rebuild every replica from a backup of the new data: this server's binlog and GTIDs begin anew, and what replicas \
                 have from the old data is not part of it"
                    .to_owned(),
            ];
            if let (Some(from), Some(last)) = (&journal.restored_to, &fence.last) {
                lines.push(format!(
                    "to replay what came after the restore point, read the old binlogs from {} to {}",
                    position(Some(from)),
                    position(Some(last))
                ));
            }
            lines.push("to undo it: highwater-host rollback (what is written meanwhile stays with the promoted data)".to_owned());
            lines.push(format!("when it is certain, remove {}", kept(|s| &s.aside)));
            lines
        }
        State::Reverted { .. } => vec![
            "the old data directory is back, and with it its incarnation: the next backup decides by itself whether to go on with it"
                .to_owned(),
            format!("what was written to the promoted data is in {}; when it is certain, remove it", kept(|s| &s.undone)),
        ],
        _ => Vec::new(),
    }
}
