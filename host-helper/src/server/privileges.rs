//! What the backup's user must be allowed, looked up before anything is streamed: without BINLOG MONITOR mariadb-backup
//! fails only after it has streamed everything (measured).

use super::Server;
use crate::error::Result;
use highwater_core::identity::Vendor;

/// A privilege that is not granted, and the statement that grants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPrivilege {
    /// Its name, as the server prints it.
    pub name: &'static str,
    /// What needs it.
    pub why: &'static str,
    /// The GRANT.
    pub fix: String,
}

/// What a backup needs, with what needs it; all on `*.*`.
pub(crate) fn required_privileges(vendor: Vendor) -> &'static [(&'static str, &'static str)] {
    const SELECT: (&str, &str) = ("SELECT", "the inventory and the row counts that drills compare with");
    match vendor {
        Vendor::Mariadb => &[
            ("RELOAD", "the tool's BACKUP STAGE locks"),
            ("PROCESS", "the tool's list of running statements and tablespaces"),
            ("BINLOG MONITOR", "the binlog position of the restore point"),
            SELECT,
        ],
        Vendor::Mysql => &[
            ("BACKUP_ADMIN", "the tool's backup locks and performance_schema.log_status"),
            ("RELOAD", "the tool's flushes"),
            ("PROCESS", "the tool's list of running statements and tablespaces"),
            ("LOCK TABLES", "the tool's locks on tables that are not transactional"),
            ("REPLICATION CLIENT", "the binlog position of the restore point"),
            SELECT,
        ],
    }
}

/// Which required privileges the output of SHOW GRANTS lacks. `user` is what the GRANT is for, quoted.
pub fn missing_privileges(vendor: Vendor, grants: &[String], user: &str) -> Vec<MissingPrivilege> {
    let granted: Vec<String> = grants.iter().flat_map(|line| global_privileges(line)).collect();
    let holds = |name: &str| granted.iter().any(|g| g == name || g == "ALL PRIVILEGES" || g == "ALL" || synonym(name) == Some(g));
    required_privileges(vendor)
        .iter()
        .filter(|(name, _)| !holds(name))
        .map(|(name, why)| MissingPrivilege { name, why, fix: format!("GRANT {name} ON *.* TO {user};") })
        .collect()
}

fn synonym(name: &str) -> Option<&'static str> {
    match name {
        "BINLOG MONITOR" => Some("REPLICATION CLIENT"),
        _ => None,
    }
}

/// The privileges that one line of SHOW GRANTS gives on `*.*`.
fn global_privileges(line: &str) -> Vec<String> {
    let upper = line.to_ascii_uppercase();
    let list = upper.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON *.* TO ")).map(|(list, _)| list);
    list.into_iter().flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()).collect()
}

impl Server {
    /// The privileges that our user lacks for a backup. SHOW GRANTS prints the password's hash: it goes no further.
    ///
    /// # Errors
    /// `Server`.
    pub async fn missing_privileges(&mut self, vendor: Vendor) -> Result<Vec<MissingPrivilege>> {
        let grants: Vec<String> = self.texts("SHOW GRANTS").await?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let user = self.text("SELECT CURRENT_USER()").await?.unwrap_or_default();
        let quoted_user = match user.rsplit_once('@') {
            Some((name, host)) => format!("{}@{}", super::literal(name), super::literal(host)),
            None => super::literal(&user),
        };
        Ok(missing_privileges(vendor, &grants, &quoted_user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_privilege_is_named_with_its_grant() {
        let check = |vendor, grants: &[&str], expected: &[&str]| {
            let grants: Vec<String> = grants.iter().map(|g| (*g).to_owned()).collect();
            let missing = missing_privileges(vendor, &grants, "'bk'@'localhost'");
            assert_eq!(missing.iter().map(|m| m.name).collect::<Vec<_>>(), expected);
            assert!(missing.iter().all(|m| m.fix == format!("GRANT {} ON *.* TO 'bk'@'localhost';", m.name)));
        };
        let hash = "IDENTIFIED BY PASSWORD '*CD39F2BC03EB4FA6BB54B7DF769B530D7F9EC8F5'";
        check(Vendor::Mariadb, &["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"], &[]);
        check(Vendor::Mariadb, &[&format!("GRANT RELOAD, PROCESS, BINLOG MONITOR ON *.* TO `bk`@`localhost` {hash}")], &["SELECT"]);
        check(Vendor::Mariadb, &["GRANT SELECT, RELOAD, PROCESS ON *.* TO `bk`@`localhost`"], &["BINLOG MONITOR"]);
        check(
            Vendor::Mariadb,
            &["GRANT USAGE ON *.* TO `bk`@`localhost`", "GRANT ALL PRIVILEGES ON `a`.* TO `bk`@`localhost`"],
            &["RELOAD", "PROCESS", "BINLOG MONITOR", "SELECT"],
        );
        check(
            Vendor::Mysql,
            &[
                "GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, REPLICATION CLIENT ON *.* TO `bk`@`localhost`",
                "GRANT BACKUP_ADMIN,AUDIT_ADMIN ON *.* TO `bk`@`localhost`",
            ],
            &[],
        );
        check(
            Vendor::Mysql,
            &["GRANT SELECT, RELOAD ON *.* TO `bk`@`localhost`"],
            &["BACKUP_ADMIN", "PROCESS", "LOCK TABLES", "REPLICATION CLIENT"],
        );
    }
}
