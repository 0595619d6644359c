//! `status`: every cluster in a line, then what needs a person.

use crate::NEEDS_PERSON;
use crate::deployment::{Context, Deployment};
use crate::error::{Error, Result};
use crate::output::{show, table};
use highwater_aws::status::gather;
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::status::{ClusterStatus, lasting};
use highwater_core::{ClusterId, Failure};
use jiff::Timestamp;
use serde_json::json;
use std::process::ExitCode;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater status\n  highwater status --cluster orders --json\n\n\
    Exit code 0: nobody is needed. 3: somebody is; each need is named like its alarm and its section of RUNBOOK.")]
pub(crate) struct StatusArgs {
    /// Only this cluster.
    #[arg(long)]
    cluster: Option<ClusterId>,
}

pub(crate) async fn run(args: &StatusArgs, cx: &Context) -> Result<ExitCode> {
    let (deployment, now) = (cx.deployment().await?, Timestamp::now());
    let (clusters, unreadable) = all(&deployment, args.cluster.as_ref(), now).await?;
    let needs_person = !unreadable.is_empty() || clusters.iter().any(|c| !c.needs.is_empty());
    let value = json!({
        "deployment": deployment.of.deployment, "at": now, "needs_person": needs_person, "clusters": clusters, "unreadable": unreadable,
    });
    show(cx.json, &value, &text(&clusters, &unreadable, now));
    Ok(if needs_person { ExitCode::from(NEEDS_PERSON) } else { ExitCode::SUCCESS })
}

/// The status of the clusters, and what could not be read.
async fn all(deployment: &Deployment, only: Option<&ClusterId>, now: Timestamp) -> Result<(Vec<ClusterStatus>, Vec<String>)> {
    let configs = match only {
        Some(cluster) => vec![Ok(deployment.config(cluster).await?)],
        None => deployment.configs().await?,
    };
    let (catalog, mut clusters, mut unreadable) = (deployment.catalog(), Vec::new(), Vec::new());
    for config in configs {
        let status = match config {
            Ok(config) => gather(&catalog, &config, now).await.map_err(|e| named(&config, e.into())),
            Err(error) => Err(error.into()),
        };
        match status {
            Ok(status) => clusters.push(status),
            // Nothing can be read at all: that is the command's own failure.
            Err(error) if error.failure == Failure::AccessDenied => return Err(error),
            Err(error) => unreadable.push(error.message),
        }
    }
    Ok((clusters, unreadable))
}

fn named(config: &ClusterConfigV1, error: Error) -> Error {
    Error { message: format!("{}: {}", config.cluster, error.message), ..error }
}

fn text(clusters: &[ClusterStatus], unreadable: &[String], now: Timestamp) -> String {
    let head = ["cluster", "state", "newest restore point", "chain", "proven", "restore took", "expected", "target", "running"];
    let mut text = match clusters.is_empty() {
        true => String::new(),
        false => table(&head, &clusters.iter().map(|c| row(c, now)).collect::<Vec<_>>()),
    };
    text.extend(unreadable.iter().map(|message| format!("\ncannot be read: {message}\n")));
    for c in clusters {
        let needs = c.needs.iter().map(|need| format!("  {}: {need}\n", need.section()));
        let next = c.next_is_full.iter().map(|why| format!("  the next backup is a full: {why}\n"));
        let failure = c.last_failure.iter().map(|f| format!("  the last backup, {}, failed ({}): {}\n", f.backup_id, f.failure, f.message));
        let requests = c.requests.iter().map(|request| match request.expires_at {
            Some(at) => format!("  request {} waits for votes until {at}: highwater approvals --cluster {}\n", request.id, c.cluster),
            None => format!("  request {} is being drilled\n", request.id),
        });
        let lines: String = needs.chain(next).chain(failure).chain(requests).collect();
        if !lines.is_empty() {
            text.push_str(&format!(
                "\n{}{}\n{lines}",
                c.cluster,
                if c.needs.is_empty() { "" } else { " needs you (RUNBOOK has a section of each name)" }
            ));
        }
    }
    text
}

fn row(c: &ClusterStatus, now: Timestamp) -> Vec<String> {
    let none = || "-".to_owned();
    let ago = |at: Timestamp| lasting(now.duration_since(at).as_secs());
    let state = match (c.needs.first(), c.needs.len()) {
        (None, _) => "well".to_owned(),
        (Some(need), 1) => need.section().to_owned(),
        (Some(need), n) => format!("{} +{}", need.section(), n - 1),
    };
    let running = c.running.iter().map(|r| format!("{} {}", r.what, ago(r.since))).collect::<Vec<_>>().join(", ");
    vec![
        c.cluster.to_string(),
        state,
        c.newest.as_ref().map_or_else(none, |p| format!("{} old", lasting(p.age_seconds))),
        c.chain.as_ref().map_or_else(none, |chain| chain.backups.len().to_string()),
        c.proven.as_ref().map_or_else(none, |p| format!("{} ago", ago(p.passed_at))),
        c.rto.measured_seconds.map_or_else(none, |s| lasting(s.ceil() as i64)),
        c.rto.expected_seconds.map_or_else(none, lasting),
        c.rto.target_seconds.map_or_else(none, lasting),
        if running.is_empty() { none() } else { running },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_core::status::{Chain, LastBackup, Need, OpenRequest, Proven, RestorePoint, Rto, Running};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn well(cluster: &str) -> ClusterStatus {
        let backup_id: highwater_core::BackupId = "20261122T020000Z-full-4f7c".parse().unwrap();
        ClusterStatus {
            cluster: cluster.parse().unwrap(),
            host: highwater_core::cluster::Primary::Id("i-0123456789abcdef0".parse().unwrap()),
            last_backup: Some(LastBackup {
                backup_id: backup_id.clone(),
                kind: highwater_core::BackupKind::Full,
                started_at: at("2026-11-22T02:00:00Z"),
                finished_at: at("2026-11-22T02:05:00Z"),
                stored_bytes: 1000,
            }),
            newest: Some(RestorePoint {
                backup_id: backup_id.clone(),
                incarnation: "20261122T020000Z-4f7c".parse().unwrap(),
                time: at("2026-11-22T02:05:00Z"),
                last_lsn: highwater_core::Lsn::new(4711),
                age_seconds: 3300,
            }),
            chain: Some(Chain {
                full: backup_id.clone(),
                full_taken_at: at("2026-11-22T02:05:00Z"),
                full_raw_bytes: 5000,
                backups: vec![backup_id.clone()],
                raw_bytes: 5000,
                stored_bytes: 1000,
            }),
            proven: Some(Proven {
                backup_id,
                time: Some(at("2026-11-22T02:05:00Z")),
                drill_id: "20261122T023000Z-4f7c90ab".parse().unwrap(),
                passed_at: at("2026-11-22T02:40:00Z"),
            }),
            rto: Rto { measured_seconds: Some(61.2), expected_seconds: Some(75), target_seconds: Some(900) },
            overdue_hours: 26,
            overdue_days: 35,
            last_failure: None,
            next_is_full: None,
            drills: vec![],
            running: vec![],
            requests: vec![],
            needs: vec![],
        }
    }

    #[test]
    fn a_line_for_each_cluster_then_whatever_somebody_must_know() {
        let now = at("2026-11-22T03:00:00Z");
        let mut ill = well("billing-eu");
        (ill.newest, ill.chain, ill.proven, ill.last_backup) = (None, None, None, None);
        ill.rto = Rto { measured_seconds: None, expected_seconds: None, target_seconds: None };
        ill.needs = vec![
            Need::BackupsOverdue { age_seconds: None, overdue_hours: 26 },
            Need::DrillsOverdue { age_seconds: None, overdue_days: 35 },
        ];
        let mut busy = well("carts");
        busy.running =
            vec![Running { what: "backup", id: "20261122T025500Z-incremental-0001".into(), since: at("2026-11-22T02:55:00Z"), step: None }];
        busy.next_is_full = Some("a restore is expected to take 20 min, 15 min are allowed".into());
        busy.requests = vec![OpenRequest {
            id: "20261122T025000Z-4f7c".parse().unwrap(),
            is_waiting: true,
            expires_at: Some(at("2026-11-23T02:50:00Z")),
        }];
        let unreadable = ["the parameter /highwater/clusters/old: is no configuration".to_owned()];
        insta::assert_snapshot!("status", text(&[well("orders"), ill, busy], &unreadable, now));
        insta::assert_snapshot!("status_well", text(&[well("orders")], &[], now));
    }
}
