//! A host's configuration file, changed key by key.

use crate::MariaDb;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `host.toml`, written anew with every change.
#[derive(Debug)]
pub(crate) struct HostToml {
    path: PathBuf,
    tables: BTreeMap<String, BTreeMap<String, String>>,
    arrays: Vec<String>,
}

impl HostToml {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, tables: BTreeMap::new(), arrays: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets a key of a table (`""` for the top); `value` is TOML, strings quoted.
    pub(crate) fn set(&mut self, table: &str, key: &str, value: impl Into<String>) -> &mut Self {
        self.tables.entry(table.to_owned()).or_default().insert(key.to_owned(), value.into());
        self.write()
    }

    /// Adds an element to an array of tables.
    pub(crate) fn add(&mut self, array: &str, body: &str) -> &mut Self {
        self.arrays.push(format!("[[{array}]]\n{body}\n"));
        self.write()
    }

    /// Lets `db`'s data directory be promoted, with `db`'s scripts as its service.
    pub(crate) fn promotable(&mut self, db: &MariaDb) -> &mut Self {
        let [start, stop, status] = db.service().map(|script| format!("[{script:?}]"));
        self.set("promote", "datadir", format!("{:?}", db.datadir()));
        self.set("promote", "service", format!("{{ stop = {stop}, start = {start}, status = {status} }}"))
    }

    fn write(&mut self) -> &mut Self {
        let mut text = String::new();
        for (table, keys) in &self.tables {
            if !table.is_empty() {
                text.push_str(&format!("[{table}]\n"));
            }
            keys.iter().for_each(|(key, value)| text.push_str(&format!("{key} = {value}\n")));
        }
        text.push_str(&self.arrays.concat());
        std::fs::write(&self.path, text).expect("write host.toml");
        self
    }
}
