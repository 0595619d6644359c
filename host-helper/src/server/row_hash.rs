//! The row hash: one text for the contents of a table, equal on two servers if and only if the rows are (see `docs/FORMAT.md`).
//!
//! CHECKSUM TABLE is not comparable across servers once a table has VIRTUAL columns (measured), and a XOR of row hashes
//! loses every pair of equal rows. So: SHA-256 of each row's text, its first 64 bits summed, the count in front.

use super::Server;
use crate::error::{Error, Result};
use highwater_core::Failure;

/// A column as information_schema describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its `DATA_TYPE`, lower case: `bigint`, `varchar`, …
    pub data_type: String,
}

/// The SELECT whose one value is the row hash, `<rows>:<sum>`. `columns` are the stored ones, in any fixed order.
/// The session must be one of [`Server`]'s: UTC, empty sql_mode, utf8mb4.
pub fn row_hash_sql(schema: &str, table: &str, columns: &[Column]) -> String {
    let texts: Vec<String> = columns.iter().map(|c| format!("IFNULL({},'N')", column_text(c))).collect();
    let row = if texts.is_empty() { "''".to_owned() } else { format!("CONCAT_WS('|',{})", texts.join(",")) };
    format!(
        "SELECT CONCAT(COUNT(*),':',IFNULL(SUM(CAST(CONV(LEFT(SHA2({row},256),16),16,10) AS UNSIGNED)),0)) FROM {}",
        quoted_name(schema, table)
    )
}

/// A column's value as text without `|`, never `N`: the same on every server, exact for every type.
fn column_text(column: &Column) -> String {
    let name = quoted(&column.name);
    match column.data_type.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" | "date" | "time" | "datetime" | "timestamp"
        | "uuid" | "inet4" | "inet6" => format!("CAST({name} AS CHAR)"),
        // A float prints six digits; promoted to double it prints all that it has.
        "float" | "double" => format!("CAST({name}+0e0 AS CHAR)"),
        "bit" => format!("CAST({name}+0 AS CHAR)"),
        "enum" | "set" | "json" => format!("SHA2(CAST({name} AS CHAR),256)"),
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon" | "geometrycollection"
        | "geomcollection" => {
            format!("CONCAT(ST_SRID({name}),'/',SHA2(ST_AsWKB({name}),256))")
        }
        // Text and binary: the digest of the stored bytes, so that no length limit and no character set comes between.
        _ => format!("SHA2({name},256)"),
    }
}

/// A name in backticks.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `schema`.`table`, quoted.
pub fn quoted_name(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// A text literal. Sessions of ours have no NO_BACKSLASH_ESCAPES.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

impl Server {
    /// The row hash of a table. VIRTUAL columns are left out: they follow from the others.
    ///
    /// # Errors
    /// `Precondition` when there is no such table, or we may not see it; `Server`.
    pub async fn row_hash(&mut self, schema: &str, table: &str) -> Result<String> {
        let sql = format!(
            "SELECT COLUMN_NAME, LOWER(DATA_TYPE), EXTRA FROM information_schema.COLUMNS WHERE TABLE_SCHEMA={} AND TABLE_NAME={} ORDER BY ORDINAL_POSITION",
            literal(schema),
            literal(table)
        );
        let mut columns = Vec::new();
        let mut any = false;
        for row in self.texts(&sql).await? {
            let mut fields = row.into_iter().map(Option::unwrap_or_default);
            let (name, data_type, extra) =
                (fields.next().unwrap_or_default(), fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            any = true;
            if !extra.to_ascii_uppercase().contains("VIRTUAL") {
                columns.push(Column { name, data_type });
            }
        }
        if !any {
            return Err(Error::new(
                Failure::Precondition,
                format!("hash the rows of {schema}.{table}: there is no such table, or we may not see it"),
            ));
        }
        self.text(&row_hash_sql(schema, table, &columns))
            .await?
            .ok_or_else(|| Error::new(Failure::Server, format!("hash the rows of {schema}.{table}: the server gave no value")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_names_every_column_by_its_type() {
        let column = |name: &str, data_type: &str| Column { name: name.into(), data_type: data_type.into() };
        let sql = row_hash_sql("s", "t`t", &[column("id", "bigint"), column("v", "varchar"), column("f", "float"), column("e", "enum")]);
        let expected = "SELECT CONCAT(COUNT(*),':',IFNULL(SUM(CAST(CONV(LEFT(SHA2(CONCAT_WS('|',\
            IFNULL(CAST(`id` AS CHAR),'N'),IFNULL(SHA2(`v`,256),'N'),IFNULL(CAST(`f`+0e0 AS CHAR),'N'),IFNULL(SHA2(CAST(`e` AS CHAR),256),'N')\
            ),256),16),16,10) AS UNSIGNED)),0)) FROM `s`.`t``t`";
        assert_eq!(sql, expected);
        assert_eq!(literal(r"a'b\"), r"'a''b\\'");
    }
}
