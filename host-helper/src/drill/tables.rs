//! Checks against the inventory: what the source had, table by table.

use crate::drill::checks::{Examiner, Finding};
use crate::error::Result;
use crate::server::quoted_name;
use highwater_core::drill::CheckKind;
use highwater_core::inventory::{InventoryV1, Measured, TableFacts};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Engines whose tables keep no rows of their own on disk, or are empty after a start: they exist, and that is all.
const ROWLESS: [&str; 7] = ["MEMORY", "BLACKHOLE", "FEDERATED", "MRG_MyISAM", "SPIDER", "CONNECT", "S3"];

/// A row count may always leave the source's span by this many rows where the table was written: a per cent of nothing is nothing.
const LEAST_SLACK: u64 = 10;

/// A table of the restored server.
#[derive(Debug, Default)]
struct FoundTable {
    /// Absent when the table cannot be opened.
    engine: Option<String>,
    /// Why it cannot, among other things.
    comment: String,
    /// One row in a table of its own that no engine can check.
    sequence: bool,
}

/// By schema and name.
type Found = BTreeMap<(String, String), FoundTable>;

impl Examiner<'_> {
    /// Every schema and table of the inventory, and every table that the server has beyond it.
    ///
    /// # Errors
    /// `Interrupted`.
    pub(crate) async fn tables(&mut self, inventory: &InventoryV1) -> Result<()> {
        let began = Instant::now();
        if inventory.tables.is_empty() {
            // A server always has its own tables: a list without any proves nothing about the data.
            self.note(CheckKind::Schema, "inventory", "at least one table", Err("the inventory lists none".into()), began);
        }
        self.schemas(inventory).await?;
        let began = Instant::now();
        let found = match self.found_tables().await? {
            Ok(found) => found,
            Err(why) => {
                self.note(CheckKind::Schema, "tables of the restored server", "a list", Err(why), began);
                return Ok(());
            }
        };
        let columns = self.with(async |connection| connection.column_digests().await).await?;
        let mut known = BTreeSet::new();
        for facts in &inventory.tables {
            let key = (facts.schema.clone(), facts.table.clone());
            let there = found.get(&key);
            self.existence(facts, there);
            if let (Some(_), Some(expected)) = (there, &facts.columns) {
                self.columns(facts, expected, columns.as_ref().map(|found| found.get(&key)));
            }
            if let Some(there) = there {
                self.contents(&facts.schema, &facts.table, Some(facts), there).await?;
            }
            known.insert(key);
        }
        for ((schema, table), there) in found.iter().filter(|(key, _)| !known.contains(*key)) {
            // Created while the tool ran, after the source's tables were listed.
            self.contents(schema, table, None, there).await?;
        }
        Ok(())
    }

    async fn schemas(&mut self, inventory: &InventoryV1) -> Result<()> {
        let began = Instant::now();
        let there = self.ask::<(String,)>("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA").await?;
        let there = there.map(|rows| rows.into_iter().map(|(name,)| name).collect::<BTreeSet<_>>());
        for schema in &inventory.schemas {
            let finding = match &there {
                Ok(names) if names.contains(schema) => Ok("exists".into()),
                Ok(_) => Err("missing".into()),
                Err(why) => Err(why.clone()),
            };
            self.note(CheckKind::Schema, schema, "exists", finding, began);
        }
        Ok(())
    }

    async fn found_tables(&mut self) -> Result<std::result::Result<Found, String>> {
        let sql = "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE, TABLE_COMMENT, TABLE_TYPE = 'SEQUENCE' FROM information_schema.TABLES \
                   WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE') \
                   AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema', 'sys')";
        let rows = self.ask::<(String, String, Option<String>, Option<String>, bool)>(sql).await?;
        Ok(rows.map(|rows| {
            let tables = rows.into_iter().map(|(schema, table, engine, comment, sequence)| {
                ((schema, table), FoundTable { engine, comment: comment.unwrap_or_default(), sequence })
            });
            tables.collect()
        }))
    }

    /// Notes whether the table is there, with its engine.
    fn existence(&mut self, facts: &TableFacts, found: Option<&FoundTable>) {
        let began = Instant::now();
        let finding: Finding = match found {
            // Dropped, or not yet created, at the restore point: nothing to expect.
            None if !facts.throughout => return,
            None => Err("missing".into()),
            Some(FoundTable { engine: Some(engine), .. }) if engine.eq_ignore_ascii_case(&facts.engine) => Ok(engine.clone()),
            Some(FoundTable { engine: Some(engine), .. }) => Err(engine.clone()),
            Some(FoundTable { engine: None, comment, .. }) => Err(format!("cannot be opened: {comment}")),
        };
        let expected = format!("a table of engine {}", facts.engine);
        self.note(CheckKind::Table, name_of(&facts.schema, &facts.table), expected, finding, began);
    }

    /// Notes whether the table's columns are defined as the source's were.
    fn columns(&mut self, facts: &TableFacts, expected: &str, found: std::result::Result<Option<&String>, &String>) {
        let began = Instant::now();
        let finding = match found {
            Ok(Some(found)) if found == expected => Ok(found.clone()),
            Ok(Some(found)) => Err(format!("{found}: its columns are defined otherwise")),
            Ok(None) => Err("no columns".into()),
            Err(why) => Err(why.clone()),
        };
        self.note(CheckKind::Table, name_of(&facts.schema, &facts.table), format!("columns {expected}"), finding, began);
    }

    async fn contents(&mut self, schema: &str, table: &str, facts: Option<&TableFacts>, there: &FoundTable) -> Result<()> {
        let engine = there.engine.as_deref().unwrap_or_default();
        if ROWLESS.iter().any(|rowless| rowless.eq_ignore_ascii_case(engine)) {
            return Ok(());
        }
        let (name, quoted) = (name_of(schema, table), quoted_name(schema, table));
        if self.config.check_tables && !there.sequence {
            let began = Instant::now();
            let answer = self.ask::<(String, String, String, String)>(&format!("CHECK TABLE {quoted}")).await?;
            let finding = answer.and_then(|rows| judge_check_table(engine, &rows));
            self.note(CheckKind::CheckTable, &name, "OK and nothing else", finding, began);
        }
        let began = Instant::now();
        let bound = RowBound::of(facts.and_then(|f| f.rows.as_ref()), self.config.row_count_slack_percent);
        let answer = self.ask_one::<(u64,)>(&format!("SELECT COUNT(*) FROM {quoted}")).await?;
        self.note(CheckKind::RowCount, &name, bound.to_string(), answer.and_then(|(rows,)| bound.judge(rows)), began);
        if let Some(hash) = facts.and_then(|f| f.hash.as_ref()) {
            self.row_hash(schema, table, hash).await?;
        }
        Ok(())
    }

    /// The hash must be one that the source had. A table that was written meanwhile and matches neither cannot be told from a
    /// wrong one: that is a failed check, not a passed one, and the report says how to avoid it.
    async fn row_hash(&mut self, schema: &str, table: &str, measured: &Measured<String>) -> Result<()> {
        let began = Instant::now();
        let (before, after) = (&measured.before, &measured.after);
        let expected = match (measured.unwritten, before == after) {
            (true, _) | (false, true) => format!("exactly {after}"),
            (false, false) => format!("{before} or {after}: written during the backup"),
        };
        let answer = self.with(async |connection| connection.row_hash(schema, table).await).await?;
        let finding = answer.and_then(|found| match (&found == before || &found == after, measured.unwritten) {
            (true, _) => Ok(found),
            (false, true) => Err(found),
            (false, false) => Err(format!(
                "{found}: not comparable, the source wrote to the table during the backup; hash only tables that rest then (backup.row_hash_tables)"
            )),
        });
        self.note(CheckKind::RowHash, name_of(schema, table), expected, finding, began);
        Ok(())
    }
}

/// `schema.table`, for people.
pub(crate) fn name_of(schema: &str, table: &str) -> String {
    format!("{schema}.{table}")
}

/// CHECK TABLE answers several rows: `Table, Op, Msg_type, Msg_text`. The last must say OK and none anything else.
///
/// But for one: MyISAM and Aria count in the table's file who has it open for writing, so a table that was in use when it was
/// copied says so ever after (measured). The check goes on and judges the rows and keys all the same; the report tells of it.
fn judge_check_table(engine: &str, rows: &[(String, String, String, String)]) -> Finding {
    let counts_users = ["MyISAM", "Aria"].iter().any(|e| e.eq_ignore_ascii_case(engine));
    let ok = |(_, _, kind, text): &(String, String, String, String)| {
        kind == "status" && matches!(text.as_str(), "OK" | "Table is already up to date")
    };
    let was_open = |(_, _, kind, text): &(String, String, String, String)| {
        counts_users && kind == "warning" && text.contains("closed the table properly")
    };
    let text = rows.iter().map(|(_, _, kind, text)| format!("{kind}: {text}")).collect::<Vec<_>>().join("; ");
    match rows.split_last() {
        None => Err("no answer".into()),
        Some((last, [])) if ok(last) => Ok("OK".into()),
        Some((last, others)) if ok(last) && others.iter().all(|row| ok(row) || was_open(row)) => Ok(text),
        Some(_) => Err(text),
    }
}

/// What a row count has to be, and how strictly.
#[derive(Debug, PartialEq, Eq)]
enum RowBound {
    Exactly(u64),
    Between {
        low: u64,
        high: u64,
        before: u64,
        after: u64,
        percent: u32,
    },
    /// Counted, which proves that the rows can be read; there is nothing to compare with.
    Any,
}

impl RowBound {
    fn of(rows: Option<&Measured<u64>>, percent: u32) -> Self {
        match rows {
            None => Self::Any,
            Some(rows) if rows.unwritten => Self::Exactly(rows.after),
            Some(&Measured { before, after, .. }) => {
                let (low, high) = (before.min(after), before.max(after));
                let slack = u64::try_from(u128::from(high) * u128::from(percent) / 100).unwrap_or(u64::MAX).max(LEAST_SLACK);
                Self::Between { low: low.saturating_sub(slack), high: high.saturating_add(slack), before, after, percent }
            }
        }
    }

    fn judge(&self, rows: u64) -> Finding {
        let text = format!("{rows} rows");
        let holds = match self {
            Self::Exactly(expected) => rows == *expected,
            Self::Between { low, high, .. } => (*low..=*high).contains(&rows),
            Self::Any => true,
        };
        if holds { Ok(text) } else { Err(text) }
    }
}

impl std::fmt::Display for RowBound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(rows) => write!(f, "exactly {rows}: unwritten during the backup"),
            Self::Between { low, high, before, after, percent } => {
                write!(
                    f,
                    "between {low} and {high}: written during the backup, counted {before} before and {after} after, {percent} % slack"
                )
            }
            Self::Any => f.write_str("any number: the source gave no count"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_count_is_exact_only_where_nothing_wrote() {
        let check = |before, after, unwritten, percent, passing: &[u64], failing: &[u64]| {
            let bound = RowBound::of(Some(&Measured { before, after, unwritten }), percent);
            passing.iter().for_each(|rows| assert!(bound.judge(*rows).is_ok(), "{bound}: {rows}"));
            failing.iter().for_each(|rows| assert!(bound.judge(*rows).is_err(), "{bound}: {rows}"));
        };
        check(1000, 1000, true, 5, &[1000], &[999, 1001, 0]);
        check(1000, 1000, false, 5, &[950, 1050], &[949, 1051, 0]);
        check(2000, 1000, false, 0, &[990, 1500, 2010], &[989, 2011]);
        check(0, 0, false, 5, &[0, 10], &[11]);
        check(u64::MAX, u64::MAX, false, 100, &[u64::MAX, 0], &[]);
        assert!(RowBound::of(None, 5).judge(7).is_ok());
    }

    #[test]
    fn check_table_passes_on_ok_alone() {
        let row = |kind: &str, text: &str| ("a.t".to_owned(), "check".to_owned(), kind.to_owned(), text.to_owned());
        assert!(judge_check_table("InnoDB", &[row("status", "OK")]).is_ok());
        let in_use = [row("warning", "2 clients are using or haven't closed the table properly"), row("status", "OK")];
        for (engine, passes) in [("MyISAM", true), ("Aria", true), ("InnoDB", false)] {
            assert_eq!(judge_check_table(engine, &in_use).is_ok(), passes, "{engine}");
        }
        for bad in [
            vec![],
            vec![row("error", "Corrupt")],
            vec![row("warning", "1 client is using or hasn't closed the table properly"), row("error", "Corrupt")],
            vec![row("warning", "Size of datafile is: 70  Should be: 72"), row("status", "OK")],
            vec![row("Warning", "InnoDB: Index x is marked as corrupted"), row("error", "Corrupt")],
            vec![row("note", "The storage engine for the table doesn't support check")],
        ] {
            assert!(judge_check_table("MyISAM", &bad).is_err(), "{bad:?}");
        }
    }
}
