//! Which server this is, and whether it still is the one that the parent was taken from (I2). The tools notice neither a
//! fork nor a wrong LSN: they exit 0 and the damage shows after the restore (measured).

use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::server::{Server, ServerFacts};
use highwater_core::Failure;
use highwater_core::chain::{in_words, life_differences, series_difference};
use highwater_core::identity::{SourceIdentity, Vendor};
use highwater_core::request::ParentState;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The identity of the running server and its data directory.
///
/// # Errors
/// `Server`; `Precondition` when the data directory cannot be looked at.
pub(crate) async fn of(server: &mut Server, facts: &ServerFacts, config: &Config) -> Result<SourceIdentity> {
    let system_tablespace = system_tablespace(server, &facts.datadir).await?;
    Ok(SourceIdentity {
        host_id: config.host_id.clone(),
        vendor: facts.vendor,
        version: facts.version,
        server_uid: facts.server_uid.clone(),
        datadir_id: datadir_id(&system_tablespace)?,
    })
}

/// Where the first file of the system tablespace lies, usually `<datadir>/ibdata1`.
async fn system_tablespace(server: &mut Server, datadir: &Path) -> Result<PathBuf> {
    let home = server.variable("innodb_data_home_dir").await?.unwrap_or_default();
    let files = server.variable("innodb_data_file_path").await?.unwrap_or_default();
    let first = files.split([':', ';']).next().filter(|name| !name.is_empty()).unwrap_or("ibdata1");
    Ok(datadir.join(home).join(first))
}

/// Inode and birth time. They change when the directory is swapped, re-initialised or copied, not when a volume is
/// attached under another device name.
fn datadir_id(system_tablespace: &Path) -> Result<String> {
    let meta =
        std::fs::metadata(system_tablespace).context(Failure::Precondition, || format!("look at {}", system_tablespace.display()))?;
    let born = meta.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(match born {
        Some(born) => format!("{}-{}", meta.ino(), born.as_nanos()),
        // A filesystem without birth times: weaker, and said so.
        None => format!("{}-unborn", meta.ino()),
    })
}

/// Whether an incremental may continue `parent` on this server.
///
/// # Errors
/// `ChainBroken`, with the difference; `Server`.
pub(crate) async fn check_continues(server: &mut Server, facts: &ServerFacts, now: &SourceIdentity, parent: &ParentState) -> Result<()> {
    let broken = |reason: String| {
        let message = format!("this server does not continue {}: {reason}", parent.link.backup_id);
        Err(Error::new(Failure::ChainBroken, message).hint("take a full backup"))
    };
    if let Some(reason) = difference(&parent.source, now) {
        return broken(reason);
    }
    if facts.lsn < parent.last_lsn {
        return broken(format!("its redo ends at LSN {}, the parent's at {}", facts.lsn, parent.last_lsn));
    }
    match (facts.vendor, &parent.binlog) {
        (Vendor::Mariadb, None) => broken("the parent recorded no binlog position, and nothing else tells a fork from its origin".into()),
        (Vendor::Mariadb, Some(_)) if facts.binlog.is_none() => {
            broken("the server writes no binlog, and nothing else tells a fork from its origin; set log_bin".into())
        }
        (Vendor::Mariadb, Some(at)) => match server.gtid_at(at).await? {
            Some(gtid) if same_gtids(&gtid, &at.gtid) => Ok(()),
            Some(gtid) => {
                broken(format!("at {}:{} its binlog is at GTID {gtid:?}, the parent's was at {:?}", at.file, at.position, at.gtid))
            }
            None => broken(format!("its binlog has no event at {}:{}, or the file was purged", at.file, at.position)),
        },
        (Vendor::Mysql, Some(at)) if !at.gtid.is_empty() && !server.has_executed(&at.gtid).await? => {
            broken("it has not executed every transaction of the parent".into())
        }
        (Vendor::Mysql, _) => Ok(()),
    }
}

/// What differs between two identities, in words: the rules that the catalog will hold the backup to.
pub(crate) fn difference(then: &SourceIdentity, now: &SourceIdentity) -> Option<String> {
    let differences: Vec<_> = life_differences(then, now).into_iter().chain(series_difference(then, now)).collect();
    (!differences.is_empty()).then(|| in_words(&differences))
}

/// MariaDB's GTID positions list one GTID a domain, in no fixed order.
fn same_gtids(a: &str, b: &str) -> bool {
    let sorted = |text: &str| {
        let mut gtids: Vec<String> = text.split(',').map(|g| g.trim().to_owned()).filter(|g| !g.is_empty()).collect();
        gtids.sort();
        gtids
    };
    sorted(a) == sorted(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_identity_counts_and_the_difference_is_named() {
        let identity = || SourceIdentity {
            host_id: "db-1".parse().unwrap(),
            vendor: Vendor::Mariadb,
            version: "10.11.19".parse().unwrap(),
            server_uid: "uid".into(),
            datadir_id: "12-34".into(),
        };
        let check = |now: SourceIdentity, expected: Option<&str>| {
            let found = difference(&identity(), &now);
            assert_eq!(found.as_deref().map(|f| expected.is_some_and(|e| f.contains(e))), expected.map(|_| true), "{found:?}");
        };
        check(identity(), None);
        check(SourceIdentity { version: "10.11.20".parse().unwrap(), ..identity() }, None);
        check(SourceIdentity { version: "11.4.2".parse().unwrap(), ..identity() }, Some("server series was 10.11, is 11.4"));
        check(SourceIdentity { host_id: "db-2".parse().unwrap(), ..identity() }, Some("host was db-1"));
        check(SourceIdentity { server_uid: "other".into(), ..identity() }, Some("server uid was uid, is other"));
        check(SourceIdentity { datadir_id: "12-35".into(), ..identity() }, Some("data directory was 12-34, is 12-35"));
        check(SourceIdentity { vendor: Vendor::Mysql, ..identity() }, Some("vendor"));
    }

    #[test]
    fn gtid_positions_are_compared_as_sets() {
        assert!(same_gtids("0-1-5,1-2-3", "1-2-3, 0-1-5"));
        assert!(same_gtids("", ""));
        assert!(!same_gtids("0-1-5", "0-1-6"));
        assert!(!same_gtids("0-1-5", ""));
    }

    #[test]
    fn a_copied_system_tablespace_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "x").unwrap();
        let id = datadir_id(&a).unwrap();
        std::fs::write(&a, "longer").unwrap();
        assert_eq!(datadir_id(&a).unwrap(), id);
        std::fs::copy(&a, &b).unwrap();
        assert_ne!(datadir_id(&b).unwrap(), id);
    }
}
