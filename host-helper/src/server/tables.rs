//! What tables there are, how many rows they hold, and whether anything wrote to them between two looks.
//!
//! `unwritten` rests on information_schema's UPDATE_TIME of InnoDB tables, which both servers keep in memory and set at
//! every commit. It is NULL after a restart and after the table left the server's cache, and counts whole seconds; so a
//! table counts as unwritten only if the same time, not NULL, at least [`SETTLED_S`] seconds old at the first look, is
//! seen at both looks, with the same CREATE_TIME and no restart between. Partitioned tables keep the newest of several
//! times, and the counters of performance_schema and userstat miss cascades of foreign keys: neither proves anything.

use super::{Server, quoted_name, ran_out_of_time};
use crate::error::{Error, Result};
use crate::signal::Cancel;
use highwater_core::Failure;
use highwater_core::identity::Vendor;
use highwater_core::inventory::{Measured, TableFacts};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How old, at the first look, a table's last write must be: a later one is then in a later second.
const SETTLED_S: i64 = 2;
/// For one table's row hash.
const HASH_LIMIT: Duration = Duration::from_secs(3600);
/// For the list of tables; a server with very many needs minutes for its first.
const LIST_LIMIT: Duration = Duration::from_secs(600);
/// Schemas that a restore makes anew, or whose rows the server writes by itself.
const INTERNAL: &str = "'information_schema','performance_schema','sys'";

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotOptions<'a> {
    pub(crate) vendor: Vendor,
    /// For all row counts together.
    pub(crate) count_budget: Duration,
    /// `schema.table`.
    pub(crate) hash_tables: &'a [String],
}

/// One look at the server's tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// The server's clock when the look began, Unix seconds.
    at: i64,
    /// When the server started, by the same clock.
    server_started: i64,
    schemas: Vec<String>,
    tables: BTreeMap<(String, String), TableState>,
}

#[derive(Debug, Clone, Default)]
struct TableState {
    engine: String,
    partitioned: bool,
    estimated_rows: u64,
    created: Option<i64>,
    updated: Option<i64>,
    columns: Option<String>,
    rows: Option<u64>,
    hash: Option<String>,
}

impl Server {
    /// Looks at every schema and base table, then counts rows, the smallest table first, until the budget is spent, and
    /// hashes the chosen tables.
    ///
    /// # Errors
    /// `Server`; `Config` when a chosen table does not exist; `Interrupted`.
    pub(crate) async fn snapshot(&mut self, options: SnapshotOptions<'_>, cancel: &Cancel) -> Result<Snapshot> {
        self.limit_statements(options.vendor, LIST_LIMIT).await?;
        let mut snapshot = self.list_tables(options.vendor).await?;
        match self.column_digests().await {
            Ok(digests) => {
                for (name, columns) in digests {
                    snapshot.tables.entry(name).and_modify(|state| state.columns = Some(columns));
                }
            }
            Err(error) if ran_out_of_time(&error) => tracing::warn!("no digests of the columns: the server did not list them in time"),
            Err(error) => return Err(error),
        }
        for chosen in options.hash_tables {
            let (schema, table) = chosen.split_once('.').unwrap_or((chosen, ""));
            let Some(state) = snapshot.tables.get_mut(&(schema.to_owned(), table.to_owned())) else {
                return Err(Error::new(Failure::Config, format!("backup.row_hash_tables names {chosen}, which the server does not have")));
            };
            cancel.check()?;
            self.limit_statements(options.vendor, HASH_LIMIT).await?;
            match self.row_hash(schema, table).await {
                Ok(hash) => state.hash = Some(hash),
                Err(error) if ran_out_of_time(&error) => tracing::warn!(table = chosen, "no row hash: it took longer than an hour"),
                Err(error) => return Err(error),
            }
        }
        self.count_rows(&mut snapshot, options, cancel).await?;
        Ok(snapshot)
    }

    async fn list_tables(&mut self, vendor: Vendor) -> Result<Snapshot> {
        if vendor == Vendor::Mysql {
            // Else UPDATE_TIME may be a day old.
            self.run("SET SESSION information_schema_stats_expiry = 0").await?;
        }
        let at = self.text("SELECT UNIX_TIMESTAMP()").await?.and_then(|n| n.parse().ok());
        let uptime: Option<i64> = self.status("Uptime").await?.and_then(|n| n.parse().ok());
        let (Some(at), Some(uptime)) = (at, uptime) else {
            return Err(Error::new(Failure::Server, "the server does not tell the time"));
        };
        let schemas =
            format!("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN ({INTERNAL}) ORDER BY SCHEMA_NAME");
        let schemas = self.texts(&schemas).await?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let tables = format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE, TABLE_ROWS, FLOOR(UNIX_TIMESTAMP(CREATE_TIME)), FLOOR(UNIX_TIMESTAMP(UPDATE_TIME)), CREATE_OPTIONS \
             FROM information_schema.TABLES WHERE TABLE_TYPE IN ('BASE TABLE','SYSTEM VERSIONED','SEQUENCE') AND TABLE_SCHEMA NOT IN ({INTERNAL})"
        );
        let mut snapshot = Snapshot { at, server_started: at - uptime, schemas, tables: BTreeMap::new() };
        for row in self.texts(&tables).await? {
            let mut fields = row.into_iter();
            let mut next = || fields.next().flatten();
            let (Some(schema), Some(table)) = (next(), next()) else { continue };
            let state = TableState {
                engine: next().unwrap_or_default(),
                estimated_rows: next().and_then(|n| n.parse().ok()).unwrap_or_default(),
                created: next().and_then(|n| n.parse().ok()),
                updated: next().and_then(|n| n.parse().ok()),
                partitioned: next().is_some_and(|o| o.contains("partitioned")),
                ..TableState::default()
            };
            snapshot.tables.insert((schema, table), state);
        }
        Ok(snapshot)
    }

    /// Of each table, views too, a digest of its columns' definitions: the server sums, so that a million columns stay there.
    ///
    /// # Errors
    /// `Server`.
    pub(crate) async fn column_digests(&mut self) -> Result<BTreeMap<(String, String), String>> {
        let rows = self.texts(&column_digests_sql()).await?;
        let digests = rows.into_iter().filter_map(|row| {
            let mut fields = row.into_iter();
            let mut next = || fields.next().flatten();
            Some(((next()?, next()?), next()?))
        });
        Ok(digests.collect())
    }

    async fn count_rows(&mut self, snapshot: &mut Snapshot, options: SnapshotOptions<'_>, cancel: &Cancel) -> Result<()> {
        let deadline = Instant::now() + options.count_budget;
        // The server writes to its own statistics by itself: their counts say nothing.
        let mut order: Vec<_> = snapshot.tables.iter_mut().filter(|((schema, _), _)| schema != "mysql").collect();
        order.sort_by_key(|(_, state)| state.estimated_rows);
        for ((schema, table), state) in order {
            cancel.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.limit_statements(options.vendor, left).await?;
            match self.text(&format!("SELECT COUNT(*) FROM {}", quoted_name(schema, table))).await {
                Ok(count) => state.rows = count.and_then(|n| n.parse().ok()),
                Err(error) if ran_out_of_time(&error) => break,
                // Dropped since it was listed.
                Err(error) if error.chain().contains("doesn't exist") => {}
                // Broken, or locked: the drill will find what is there.
                Err(error) => tracing::warn!(schema, table, error = error.chain(), "no row count"),
            }
        }
        Ok(())
    }
}

/// `<columns>:<sum>` of each table: the sum adds, for each column, the first 64 bits of the SHA-256 of its definition.
fn column_digests_sql() -> String {
    let texts = ["COLUMN_DEFAULT", "CHARACTER_SET_NAME", "COLLATION_NAME", "GENERATION_EXPRESSION"];
    let texts = texts.map(|column| format!("IFNULL(SHA2({column},256),'N')")).join(",");
    let definition = format!("CONCAT_WS('|',ORDINAL_POSITION,SHA2(COLUMN_NAME,256),SHA2(COLUMN_TYPE,256),IS_NULLABLE,EXTRA,{texts})");
    format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, CONCAT(COUNT(*),':',SUM(CAST(CONV(LEFT(SHA2({definition},256),16),16,10) AS UNSIGNED))) \
         FROM information_schema.COLUMNS WHERE TABLE_SCHEMA NOT IN ({INTERNAL}) GROUP BY TABLE_SCHEMA, TABLE_NAME"
    )
}

impl Snapshot {
    /// Bytes of the inventory are few for each table; how many there are.
    pub(crate) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// The inventory's facts from the look before the tool ran and the look after.
    pub(crate) fn facts_until(&self, after: &Self) -> (Vec<String>, Vec<TableFacts>) {
        let mut schemas: Vec<String> = self.schemas.iter().chain(&after.schemas).cloned().collect();
        schemas.sort();
        schemas.dedup();
        let mut tables: Vec<TableFacts> = Vec::with_capacity(after.tables.len());
        for (name, state) in &after.tables {
            let before = self.tables.get(name).filter(|b| b.created == state.created);
            tables.push(self.facts_of(name, before, after, state));
        }
        // A table dropped meanwhile is in the restore or not.
        let gone = self.tables.iter().filter(|(name, _)| !after.tables.contains_key(*name));
        tables.extend(gone.map(|(name, state)| self.facts_of(name, None, after, state)));
        tables.sort_by(|a, b| (&a.schema, &a.table).cmp(&(&b.schema, &b.table)));
        (schemas, tables)
    }

    fn facts_of(&self, (schema, table): &(String, String), before: Option<&TableState>, after: &Self, state: &TableState) -> TableFacts {
        let facts = TableFacts {
            schema: schema.clone(),
            table: table.clone(),
            engine: state.engine.clone(),
            columns: before.and_then(|before| before.columns.clone()).filter(|columns| state.columns.as_ref() == Some(columns)),
            throughout: before.is_some(),
            rows: None,
            hash: None,
        };
        let Some(before) = before else { return facts };
        let unwritten = self.proves_unwritten(before, after, state);
        let rows = before.rows.zip(state.rows);
        let hash = before.hash.clone().zip(state.hash.clone());
        TableFacts {
            rows: rows.map(|(before, after)| Measured { before, after, unwritten: unwritten && before == after }),
            hash: hash.map(|(before, after)| Measured { unwritten: unwritten && before == after, before, after }),
            ..facts
        }
    }

    fn proves_unwritten(&self, before: &TableState, after: &Self, state: &TableState) -> bool {
        let same_server_life = (self.server_started - after.server_started).abs() <= 1;
        let innodb = before.engine == "InnoDB" && state.engine == "InnoDB" && !before.partitioned && !state.partitioned;
        let same_time = before.updated.is_some_and(|updated| Some(updated) == state.updated && updated + SETTLED_S <= self.at);
        same_server_life && innodb && same_time && before.created.is_some() && before.created == state.created
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rows: u64, updated: Option<i64>) -> TableState {
        TableState { engine: "InnoDB".into(), created: Some(100), updated, rows: Some(rows), ..TableState::default() }
    }

    fn look(at: i64, started: i64, tables: &[(&str, TableState)]) -> Snapshot {
        let tables = tables.iter().map(|(name, state)| (("s".to_owned(), (*name).to_owned()), state.clone())).collect();
        Snapshot { at, server_started: started, schemas: vec!["s".into()], tables }
    }

    #[test]
    fn a_table_is_unwritten_only_when_the_server_proves_it() {
        let check = |before: (i64, i64, TableState), after: (i64, i64, TableState), unwritten: bool| {
            let before = look(before.0, before.1, &[("t", before.2)]);
            let after = look(after.0, after.1, &[("t", after.2)]);
            let (_, tables) = before.facts_until(&after);
            let rows = tables[0].rows.as_ref().unwrap();
            assert_eq!(rows.unwritten, unwritten, "{before:?} {after:?}");
        };
        let quiet = || state(5, Some(900));
        check((1000, 10, quiet()), (1060, 10, quiet()), true);
        check((1000, 10, quiet()), (1060, 11, quiet()), true);
        // Written, restarted, never seen written, written in the second of the look, partitioned, another engine.
        check((1000, 10, quiet()), (1060, 10, state(5, Some(1010))), false);
        check((1000, 10, quiet()), (1060, 1020, quiet()), false);
        check((1000, 10, state(5, None)), (1060, 10, state(5, None)), false);
        check((1000, 10, quiet()), (1060, 10, state(5, None)), false);
        check((1000, 10, state(5, Some(999))), (1060, 10, state(5, Some(999))), false);
        check((1000, 10, quiet()), (1060, 10, state(6, Some(900))), false);
        let partitioned = || TableState { partitioned: true, ..quiet() };
        check((1000, 10, partitioned()), (1060, 10, partitioned()), false);
        let aria = || TableState { engine: "Aria".into(), ..quiet() };
        check((1000, 10, aria()), (1060, 10, aria()), false);
    }

    #[test]
    fn a_table_that_came_went_or_was_rebuilt_is_not_there_throughout() {
        let rebuilt = TableState { created: Some(1010), ..state(5, None) };
        let before = look(1000, 10, &[("gone", state(1, None)), ("kept", state(2, None)), ("rebuilt", state(5, None))]);
        let after = look(1060, 10, &[("came", state(1, None)), ("kept", state(3, None)), ("rebuilt", rebuilt)]);
        let (schemas, tables) = before.facts_until(&after);
        assert_eq!(schemas, ["s"]);
        let seen: Vec<_> = tables.iter().map(|t| (t.table.as_str(), t.throughout, t.rows.is_some())).collect();
        assert_eq!(seen, [("came", false, false), ("gone", false, false), ("kept", true, true), ("rebuilt", false, false)]);
    }
}
