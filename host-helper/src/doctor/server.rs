//! What the server and the tool are and allow.

use super::Findings;
use crate::backup::identity;
use crate::config::Config;
use crate::error::Result;
use crate::server::{Access, Server, ServerFacts};
use crate::signal::Cancel;
use crate::tool::Tool;
use highwater_core::identity::Vendor;
use std::time::{Duration, Instant};

const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// Between the two looks at the LSN.
const SAMPLE: Duration = Duration::from_secs(2);
/// A redo log that lasts longer than this at the measured rate outlives a stall of the upload.
const LASTS_S: u64 = 120;

/// Adds the server's lines.
///
/// # Errors
/// `Interrupted` only: what else goes wrong is a finding.
pub(super) async fn check(config: &Config, findings: &mut Findings, cancel: &Cancel) -> Result<()> {
    let access = match Access::resolve(&config.server) {
        Ok(access) => access,
        Err(error) => {
            findings.error("defaults_file", &error);
            return Ok(());
        }
    };
    match &access.defaults_file {
        Some(path) => findings.ok("defaults_file", format!("{} is a private regular file", path.display())),
        None => findings.ok("defaults_file", format!("none: socket authentication as {}", config.server.user)),
    }
    let mut server = match Server::connect_with(&access).await {
        Ok(server) => server,
        Err(error) => {
            findings.error("server", &error);
            return Ok(());
        }
    };
    if let Err(error) = look(&mut server, config, findings, cancel).await {
        cancel.check()?;
        findings.error("server", &error);
    }
    server.close().await;
    Ok(())
}

async fn look(server: &mut Server, config: &Config, findings: &mut Findings, cancel: &Cancel) -> Result<()> {
    let (vendor, version) = server.vendor_and_version().await?;
    findings.ok("server", format!("{vendor:?} {version} answers"));
    match (config.server.check_engine(vendor, version), config.server.engine) {
        (Err(error), _) => findings.error("engine", &error),
        (Ok(()), Some(engine)) => findings.ok("engine", format!("{engine}, as expected")),
        (Ok(()), None) => {}
    }
    server.limit_statements(vendor, LOOK_LIMIT).await?;
    match Tool::find(&config.server, vendor).await {
        Err(error) => findings.error("tool", &error),
        Ok(tool) => {
            findings.ok("tool", format!("{} {} at {}", tool.name, tool.version, tool.path.display()));
            match tool.check_versions(version) {
                Ok(()) => findings.ok("versions", format!("{} {} backs up {version}", tool.name, tool.version)),
                Err(error) => findings.error("versions", &error),
            }
        }
    }
    privileges(server, vendor, findings).await?;
    let facts = server.facts().await?;
    binlog(&facts, findings);
    redo(server, &facts, findings, cancel).await?;
    match identity::of(server, &facts, config).await {
        Ok(source) => findings.ok("datadir", format!("{} is readable, identity {}", facts.datadir.display(), source.datadir_id)),
        Err(error) => findings.error("datadir", &error),
    }
    match facts.settings.encrypted {
        false => findings.ok("encryption", "no tablespace or log is encrypted"),
        true => findings.warn(
            "encryption",
            "tablespaces or logs are encrypted; the keys are not in the backup",
            "make the keys available to the hosts that restore and drill, and set drill.server_options",
        ),
    }
    Ok(())
}

async fn privileges(server: &mut Server, vendor: Vendor, findings: &mut Findings) -> Result<()> {
    let missing = server.missing_privileges(vendor).await?;
    for (name, why) in crate::server::required_privileges(vendor) {
        let line = format!("privilege {name}");
        match missing.iter().find(|m| m.name == *name) {
            Some(missing) => findings.fail(line, format!("not granted; {why} need it"), missing.fix.clone()),
            None => findings.ok(line, "granted"),
        }
    }
    Ok(())
}

fn binlog(facts: &ServerFacts, findings: &mut Findings) {
    match (&facts.binlog, facts.vendor) {
        (Some(at), _) => findings.ok("binlog", format!("on, at {}:{}", at.file, at.position)),
        (None, Vendor::Mariadb) => findings.warn(
            "binlog",
            "off: only full backups are possible, because nothing else tells a forked server from its origin",
            "set log_bin in the server's configuration and restart it",
        ),
        (None, Vendor::Mysql) => {
            findings.warn("binlog", "off: no recovery to a point in time", "remove skip-log-bin and restart the server")
        }
    }
}

async fn redo(server: &mut Server, facts: &ServerFacts, findings: &mut Findings, cancel: &Cancel) -> Result<()> {
    let begun = Instant::now();
    let first = server.lsn().await?;
    tokio::select! {
        () = tokio::time::sleep(SAMPLE) => {}
        _ = cancel.cancelled() => cancel.check()?,
    }
    let written = server.lsn().await?.get().saturating_sub(first.get());
    let per_second = (written as f64 / begun.elapsed().as_secs_f64()) as u64;
    let capacity = facts.redo_capacity_bytes;
    let lasts_s = capacity.checked_div(per_second);
    let finding = match lasts_s {
        None => format!("{} MiB; the server wrote none for two seconds", capacity >> 20),
        Some(lasts_s) => format!("{} MiB last {lasts_s} s at the {} KiB/s written now", capacity >> 20, per_second >> 10),
    };
    if lasts_s.is_none_or(|s| s >= LASTS_S) {
        findings.ok("redo", finding);
        return Ok(());
    }
    let wanted_mib = (per_second.saturating_mul(LASTS_S) >> 20).max(1).next_power_of_two();
    let setting = match facts.vendor {
        Vendor::Mariadb => "innodb_log_file_size",
        Vendor::Mysql => "innodb_redo_log_capacity",
    };
    findings.warn("redo", format!("{finding}: a stalled upload would end the backup"), format!("set {setting} = {wanted_mib}M"));
    Ok(())
}
