//! What is in a server, row by row; and an oracle that says what must be in it at a restore point.

use crate::mariadb::MariaDb;
use crate::{block_on, run};
use highwater_core::identity::BinlogPosition;
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Every user table's definition and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, Table>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    definition: String,
    rows: Vec<String>,
}

impl Snapshot {
    /// Reads all user tables, rows in order. The server should be quiet: each table is read by itself.
    pub fn of(db: &MariaDb) -> Self {
        block_on(async {
            let mut conn = db.connect().await;
            let names: Vec<(String, String)> = conn
                .query(
                    "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'
                     AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1, 2",
                )
                .await
                .expect("list the tables");
            let mut tables = BTreeMap::new();
            for (schema, name) in names {
                let full = format!("`{schema}`.`{name}`");
                let created: Option<(String, String)> =
                    conn.query_first(format!("SHOW CREATE TABLE {full}")).await.expect("a table's definition");
                let rows: Vec<Row> = conn.query(format!("SELECT * FROM {full}")).await.unwrap_or_else(|e| panic!("read {full}: {e}"));
                let mut rows: Vec<String> = rows.into_iter().map(|row| text_of(&row.unwrap())).collect();
                rows.sort_unstable();
                tables.insert(full, Table { definition: without_counter(&created.expect("a definition").1), rows });
            }
            Self(tables)
        })
    }

    /// Rows of all tables together.
    pub fn rows(&self) -> usize {
        self.0.values().map(|t| t.rows.len()).sum()
    }

    /// The tables' names.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Panics, naming the first differing table and row, unless `other` holds the same.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, what: &str) {
        let names = |s: &Self| s.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(other), "{what}: the tables differ");
        for (name, expected) in &self.0 {
            let found = &other.0[name];
            assert_eq!(expected.definition, found.definition, "{what}: the definition of {name} differs");
            if let Some(row) = expected.rows.iter().find(|row| found.rows.binary_search(row).is_err()) {
                panic!("{what}: {name} lacks the row {row}; it has {} rows of {}", found.rows.len(), expected.rows.len());
            }
            if let Some(row) = found.rows.iter().find(|row| expected.rows.binary_search(row).is_err()) {
                panic!("{what}: {name} has the row {row} too much; {} rows, expected {}", found.rows.len(), expected.rows.len());
            }
            assert_eq!(expected.rows, found.rows, "{what}: {name} repeats other rows");
        }
    }
}

/// The counter of a table differs after a crash recovery; it is not data.
fn without_counter(definition: &str) -> String {
    match definition.split_once(" AUTO_INCREMENT=") {
        Some((before, after)) => format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => definition.to_owned(),
    }
}

fn text_of(row: &[Value]) -> String {
    let mut text = String::new();
    for value in row {
        match value {
            Value::NULL => text.push_str("NULL"),
            Value::Bytes(bytes) => {
                let _ = write!(text, "'{}'", bytes.escape_ascii());
            }
            other => {
                let _ = write!(text, "{other:?}");
            }
        }
        text.push('|');
    }
    text
}

/// Says what a backup taken under load must hold: a second server that replays the source's binlogs, from the first, up to
/// the position the backup recorded. So the load never has to stop, and the recorded position is proven with the data.
#[derive(Debug)]
pub struct Oracle {
    server: MariaDb,
    binlogs: PathBuf,
    at: Option<(String, u64)>,
}

impl Oracle {
    /// Beside a source that was started with [`MariaDb::start`] and still has every binlog. Its binlogs are read as they lie on disk.
    pub fn of(source: &MariaDb) -> Self {
        Self { server: MariaDb::start_with(&["skip-log-bin"]), binlogs: source.datadir().to_owned(), at: None }
    }

    /// Replays up to `to`, which must not lie before the last one, and says what is there.
    pub fn at(&mut self, to: &BinlogPosition) -> Snapshot {
        let from = self.at.clone().unwrap_or_else(|| ("binlog.000001".to_owned(), 4));
        assert!((&from.0, from.1) <= (&to.file, to.position), "the oracle is at {from:?}, past {to:?}");
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.binlogs)
            .expect("list the binlogs")
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                path.extension().is_some_and(|e| e.as_encoded_bytes().iter().all(u8::is_ascii_digit)) && name >= from.0 && name <= to.file
            })
            .collect();
        files.sort();
        let mut reader = Command::new("mariadb-binlog")
            .arg(format!("--start-position={}", from.1))
            .arg(format!("--stop-position={}", to.position))
            .args(&files)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start mariadb-binlog");
        let events = reader.stdout.take().expect("the events");
        run(Command::new("mariadb").arg("--no-defaults").arg("--binary-mode").arg("--socket").arg(self.server.socket()).stdin(events));
        assert!(reader.wait().expect("the end of mariadb-binlog").success(), "mariadb-binlog failed on {files:?}");
        let gtid: String = self.server.value("SELECT @@gtid_slave_pos");
        let _ = gtid;
        self.at = Some((to.file.clone(), to.position));
        Snapshot::of(&self.server)
    }
}
