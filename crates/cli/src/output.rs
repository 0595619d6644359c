//! Where results go: one JSON value or text on standard output, documents into files that are never overwritten.

use crate::error::{Error, Result};
use highwater_core::{Document, Failure, Sha256};
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// Prints the result: the value for a machine, or the text for a person; no text where the error that follows says it all.
pub(crate) fn show(json: bool, value: &Value, text: &str) {
    match (json, text.trim_end()) {
        (true, _) => println!("{value}"),
        (false, "") => {}
        (false, text) => println!("{text}"),
    }
}

/// Writes a document to a new file, whole or not at all, and returns its digest. A file that holds the very same
/// bytes is success (I4); any other existing file is left alone.
pub(crate) fn write_document<D: Document>(path: &Path, document: &D) -> Result<Sha256> {
    let bytes = document.to_bytes();
    // What we write, somebody will read: a document that breaks its own rules never reaches a file.
    D::parse(&bytes).map_err(|e| Error::document(format!("make {}", path.display()), &e))?;
    write_new(path, &bytes)
}

/// The same for any bytes.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<Sha256> {
    let failed = |e: &std::io::Error| Error::io(format!("write {}", path.display()), e);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(|e| failed(&e))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| failed(&e))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(Sha256::of(bytes)),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => {
            let there = std::fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), &e))?;
            match there == bytes {
                true => Ok(Sha256::of(bytes)),
                false => Err(Error::new(Failure::Document, format!("{} exists and holds something else", path.display()))
                    .hint("choose another place; nothing was overwritten")),
            }
        }
        Err(e) => Err(failed(&e.error)),
    }
}

/// Reads a document and the digest of its bytes.
pub(crate) fn read_document<D: Document>(path: &Path) -> Result<(D, Sha256)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), &e))?;
    let parsed = D::parse(&bytes).map_err(|e| Error::document(format!("read {}", path.display()), &e))?;
    Ok((parsed, Sha256::of(&bytes)))
}

/// `1.4 GiB`: for a person.
pub(crate) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Rows as aligned columns, the head first.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = [head.iter().map(|h| (*h).to_owned()).collect()].into_iter().chain(rows.iter().cloned()).collect();
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or_default();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| format!("{cell:<w$}", w = width(i))).collect::<Vec<_>>();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Names and values in two columns.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// A text of an answer, or a dash.
pub(crate) fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}
