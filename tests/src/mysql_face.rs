//! A MySQL face for a MariaDB server: a Unix socket before the server's own, where the few statements that the helper has for MySQL
//! alone are answered from MariaDB's counterparts. Everything else passes as it is.
//!
//! No registry we reach has a MySQL server. What this shows is that the helper asks what it should and goes the MySQL way from end to
//! end; what a real MySQL answers, it does not show.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// COM_QUERY of the protocol.
const QUERY: u8 = 3;

/// Serves `face` before the server at `real`, as MySQL `version`, until the process ends.
pub fn serve(real: &Path, face: &Path, version: &str) {
    let listener = UnixListener::bind(face).unwrap_or_else(|e| panic!("bind {}: {e}", face.display()));
    std::fs::set_permissions(face, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("open the face to the server's users");
    let (real, version) = (real.to_owned(), version.to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (real, version): (PathBuf, String) = (real.clone(), version.clone());
            // A connection that breaks is the client's to notice.
            std::thread::spawn(move || client.and_then(|client| converse(client, &real, &version)));
        }
    });
}

fn converse(mut client: UnixStream, real: &Path, version: &str) -> std::io::Result<()> {
    let mut server = UnixStream::connect(real)?;
    let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut to_client);
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
    loop {
        let mut head = [0u8; 4];
        if client.read_exact(&mut head).is_err() {
            return server.shutdown(std::net::Shutdown::Both);
        }
        let mut body = vec![0; usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16];
        client.read_exact(&mut body)?;
        // A command begins a sequence; what comes later in one is a login.
        if head[3] == 0 && body.first() == Some(&QUERY) {
            let asked = String::from_utf8_lossy(&body[1..]).into_owned();
            if let Some(instead) = instead(&asked, version) {
                body = [&[QUERY], instead.as_bytes()].concat();
                head[..3].copy_from_slice(&(body.len() as u32).to_le_bytes()[..3]);
            }
        }
        server.write_all(&[&head[..], &body].concat())?;
    }
}

/// What MariaDB is asked in the place of a statement that only MySQL knows.
fn instead(asked: &str, version: &str) -> Option<String> {
    let variable = |name: &str| asked == format!("SHOW GLOBAL VARIABLES LIKE '{name}'");
    if asked == "SELECT VERSION()" {
        return Some(format!("SELECT '{version}'"));
    }
    if variable("server_uuid") {
        return Some("SELECT 'server_uuid', @@server_uid".into());
    }
    if variable("innodb_redo_log_capacity") {
        return Some("SELECT 'innodb_redo_log_capacity', @@innodb_log_file_size".into());
    }
    if asked == "SHOW BINARY LOG STATUS" {
        return Some("SHOW MASTER STATUS".into());
    }
    if asked == "SHOW GRANTS" {
        let all = "SELECT, RELOAD, PROCESS, LOCK TABLES, REPLICATION CLIENT, BACKUP_ADMIN";
        return Some(format!("SELECT 'GRANT {all} ON *.* TO `hw_backup`@`localhost`'"));
    }
    if asked == "SET SESSION information_schema_stats_expiry = 0" {
        return Some("DO 0".into());
    }
    if let Some(ms) = asked.strip_prefix("SET SESSION max_execution_time = ") {
        return Some(format!("SET SESSION max_statement_time = {ms} / 1000"));
    }
    if let Some(set) = asked.strip_prefix("SELECT GTID_SUBSET(").and_then(|rest| rest.split_once(", @@GLOBAL.gtid_executed)")) {
        // One domain, one server: the set is its last number.
        let last = |gtid: &str| format!("CAST(SUBSTRING_INDEX({gtid}, '-', -1) AS UNSIGNED)");
        return Some(format!("SELECT {} <= {}", last(set.0), last("@@GLOBAL.gtid_binlog_pos")));
    }
    if asked.ends_with("FROM information_schema.INNODB_TABLESPACES WHERE ENCRYPTION = 'Y'") {
        return Some("SELECT COUNT(*) FROM information_schema.INNODB_TABLESPACES_ENCRYPTION WHERE MIN_KEY_VERSION > 0".into());
    }
    asked.contains("information_schema.INNODB_TABLESPACES").then(|| asked.replace("INNODB_TABLESPACES", "INNODB_SYS_TABLESPACES"))
}
