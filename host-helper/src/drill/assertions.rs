//! The user's own checks: SQL assertions and columns whose newest value must be young.

use crate::config::{Assertion, Compare, NewestRow};
use crate::drill::checks::{Examiner, Finding};
use crate::error::{Error, Result};
use crate::server::{Server, quoted, quoted_name};
use highwater_core::Failure;
use highwater_core::drill::CheckKind;
use jiff::Timestamp;
use mysql_async::{Row, Value};
use std::cmp::Ordering;
use std::time::Instant;

/// A newest row may be so much younger than the restore point: the clocks that wrote the two are read at different moments.
const AHEAD_S: i64 = 60;

impl Examiner<'_> {
    /// `[[drill.assert]]`, in order.
    ///
    /// # Errors
    /// `Interrupted`.
    pub(crate) async fn assertions(&mut self) -> Result<()> {
        for assertion in &self.config.assert {
            let began = Instant::now();
            let answer = self.with(async |connection| one_value(connection, &assertion.sql).await).await?;
            let finding = answer.and_then(|value| judge(value, assertion));
            let expected = format!("{} {}", sign(assertion.compare), assertion.expect);
            self.note(CheckKind::Assertion, &assertion.name, expected, finding, began);
        }
        Ok(())
    }

    /// `[[drill.newest]]`, in order: the newest value against the restore point's time.
    ///
    /// # Errors
    /// `Interrupted`.
    pub(crate) async fn newest(&mut self, point: Timestamp) -> Result<()> {
        for NewestRow { table, column, max_age_s } in &self.config.newest {
            let began = Instant::now();
            let expected = format!("at most {max_age_s} s before the restore point {point}, at most {AHEAD_S} s after it");
            let subject = format!("{table}.{column}");
            let finding = match table.split_once('.') {
                None => Err("could not run: the table is not given as schema.table".to_owned()),
                Some((schema, name)) => {
                    let (column, at) = (quoted(column), point.strftime("%Y-%m-%d %H:%M:%S"));
                    let of = quoted_name(schema, name);
                    let sql = format!("SELECT CAST(MAX({column}) AS CHAR), TIMESTAMPDIFF(SECOND, MAX({column}), '{at}') FROM {of}");
                    let answer = self.ask_one::<(Option<String>, Option<i64>)>(&sql).await?;
                    answer.and_then(|(newest, age)| judge_age(newest, age, *max_age_s))
                }
            };
            self.note(CheckKind::NewestRow, subject, expected, finding, began);
        }
        Ok(())
    }
}

fn judge_age(newest: Option<String>, age: Option<i64>, max_age_s: u64) -> Finding {
    let (Some(newest), Some(age)) = (newest, age) else { return Err("no row with a time".into()) };
    let text = if age >= 0 { format!("{newest}, {age} s before it") } else { format!("{newest}, {} s after it", age.unsigned_abs()) };
    // A value from the future (9999-12-31) says nothing about how fresh the data is.
    let fresh = age >= -AHEAD_S && u64::try_from(age).unwrap_or(0) <= max_age_s;
    if fresh { Ok(text) } else { Err(text) }
}

/// The one value of one SELECT, in a transaction that cannot write. As a derived table the parser itself refuses whatever
/// is not one SELECT, and INTO with it; PREPARE refuses a second statement; two rows are enough to see that one is too many.
pub(crate) async fn one_value(connection: &mut Server, sql: &str) -> Result<Option<String>> {
    let sql = sql.trim().trim_end_matches(';');
    let hex: String = format!("SELECT * FROM (\n{sql}\n) AS assertion LIMIT 2").bytes().map(|b| format!("{b:02x}")).collect();
    connection.run(&format!("SET @highwater_assertion = CONVERT(X'{hex}' USING utf8mb4)")).await?;
    connection.run("START TRANSACTION READ ONLY").await?;
    connection.run("PREPARE highwater_assertion FROM @highwater_assertion").await?;
    let rows = connection.all::<Row>("EXECUTE highwater_assertion").await?;
    connection.run("DEALLOCATE PREPARE highwater_assertion").await?;
    connection.run("ROLLBACK").await?;
    let wrong = |what: String| Error::new(Failure::ChecksFailed, format!("it gives {what}, not one value"));
    let mut rows = rows.into_iter();
    let (Some(row), None) = (rows.next(), rows.next()) else { return Err(wrong("no row, or several".into())) };
    match row.unwrap().as_slice() {
        [Value::NULL] => Ok(None),
        [Value::Bytes(text)] => Ok(Some(String::from_utf8_lossy(text).into_owned())),
        [other] => Ok(Some(other.as_sql(true))),
        columns => Err(wrong(format!("{} columns", columns.len()))),
    }
}

/// NULL is no value and equal to nothing, not even to another text than `expect`.
pub(crate) fn judge(value: Option<String>, assertion: &Assertion) -> Finding {
    let Some(value) = value else { return Err("NULL".into()) };
    let order = compare(&value, &assertion.expect);
    let holds = match assertion.compare {
        Compare::Equal => order == Ordering::Equal,
        Compare::NotEqual => order != Ordering::Equal,
        Compare::Less => order == Ordering::Less,
        Compare::LessOrEqual => order != Ordering::Greater,
        Compare::Greater => order == Ordering::Greater,
        Compare::GreaterOrEqual => order != Ordering::Less,
    };
    let value = value.chars().take(200).collect();
    if holds { Ok(value) } else { Err(value) }
}

/// Numbers as numbers, exactly as far as they are whole; everything else as text.
fn compare(found: &str, expected: &str) -> Ordering {
    if let (Ok(found), Ok(expected)) = (found.parse::<i128>(), expected.trim().parse::<i128>()) {
        return found.cmp(&expected);
    }
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    match (number(found), number(expected)) {
        (Some(found), Some(expected)) => found.total_cmp(&expected),
        _ => found.cmp(expected),
    }
}

pub(crate) fn sign(compare: Compare) -> &'static str {
    match compare {
        Compare::Equal => "=",
        Compare::NotEqual => "!=",
        Compare::Less => "<",
        Compare::LessOrEqual => "<=",
        Compare::Greater => ">",
        Compare::GreaterOrEqual => ">=",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers_and_null_passes_nothing() {
        let check = |value: Option<&str>, compare, expect: &str, holds: bool| {
            let assertion = Assertion { name: "a".into(), sql: String::new(), compare, expect: expect.into() };
            assert_eq!(judge(value.map(str::to_owned), &assertion).is_ok(), holds, "{value:?} {} {expect}", sign(compare));
        };
        check(Some("10"), Compare::Greater, "9", true);
        check(Some("10.0"), Compare::Equal, "10", true);
        check(Some("18446744073709551615"), Compare::Equal, "18446744073709551614", false);
        check(Some("0.1"), Compare::LessOrEqual, "0.10", true);
        check(Some("b"), Compare::Greater, "a", true);
        check(Some("paid"), Compare::Equal, "paid", true);
        check(Some("paid "), Compare::Equal, "paid", false);
        check(Some("nan"), Compare::NotEqual, "1", true);
        for compare in [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::GreaterOrEqual] {
            check(None, compare, "1", false);
        }
    }

    #[test]
    fn only_a_young_row_of_the_past_is_fresh() {
        let fresh = |age| judge_age(Some("t".into()), Some(age), 300).is_ok();
        assert!(fresh(0) && fresh(300) && fresh(-60));
        assert!(!fresh(301) && !fresh(-61) && !fresh(i64::MIN) && !fresh(i64::MAX));
        assert!(judge_age(None, None, 300).is_err());
    }
}
