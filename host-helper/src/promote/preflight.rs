//! Everything that can be refused, refused before anything is changed.

use super::PromoteArgs;
use super::dirs::{self, Holder};
use super::journal::{Journal, Store};
use super::primary::{Variables, refuse_entangled};
use super::service::{Service, Status};
use crate::cli::load_document;
use crate::config::{Config, PromoteConfig, ServiceConfig};
use crate::error::{Context, Error, Result};
use crate::server::Server;
use highwater_core::approval::{ApprovalFacts, ApprovalV1};
use highwater_core::drill::DrillReportV1;
use highwater_core::plan::RestorePlanV1;
use highwater_core::promotion::{PromotionId, PromotionJournalV1, Slot, State};
use highwater_core::{Document, Failure, Sha256};
use jiff::Timestamp;
use std::fs;
use std::path::{Path, PathBuf};

/// What a promotion is done by order of: the plan, the drill that proved it, the approval that binds both to this host.
pub(super) struct Mandate {
    pub(super) plan: RestorePlanV1,
    pub(super) plan_sha256: Sha256,
    report: DrillReportV1,
    report_sha256: Sha256,
    approval: ApprovalV1,
    approval_sha256: Sha256,
}

impl Mandate {
    /// Reads the three documents and holds them against each other, this host and its clock.
    pub(super) async fn load(args: &PromoteArgs, config: &Config) -> Result<Self> {
        let given = |location: &Option<String>, what: &str| {
            location.clone().ok_or_else(|| Error::new(Failure::Approval, format!("no {what} is given")).hint(format!("--{what} FILE")))
        };
        let (plan, plan_sha256) = load_document::<RestorePlanV1>(&given(&args.plan, "plan")?, args.sha256).await?;
        let (approval, approval_sha256) =
            load_document::<ApprovalV1>(&given(&args.approval, "approval")?, args.approval_sha256).await.map_err(|mut error| {
                // An impossible approval (its requester among the approvers, say) is no approval.
                if error.failure == Failure::Document {
                    error.failure = Failure::Approval;
                }
                error
            })?;
        let (report, report_sha256) = load_document::<DrillReportV1>(&given(&args.report, "report")?, args.report_sha256).await?;
        let mandate = Self { plan, plan_sha256, report, report_sha256, approval, approval_sha256 };
        mandate.holds(config)?;
        Ok(mandate)
    }

    /// Whether it holds here and now.
    pub(super) fn holds(&self, config: &Config) -> Result<()> {
        if self.plan.cluster != config.cluster {
            let message = format!("the plan is for cluster {}, this host belongs to {}", self.plan.cluster, config.cluster);
            return Err(Error::new(Failure::Document, message));
        }
        let facts = ApprovalFacts {
            cluster: &self.plan.cluster,
            plan_sha256: self.plan_sha256,
            report: (&self.report, self.report_sha256),
            host: &config.host_id,
            now: Timestamp::now(),
        };
        let refused = |reason| {
            Error::new(Failure::Approval, format!("the approval does not allow this promotion: {reason}"))
                .hint("drill the plan, and have somebody other than the requester approve that plan and report for this host")
        };
        self.approval.allows(facts).map_err(refused)
    }

    /// The journal of an earlier promotion under this approval, if one changed anything. An approval is used once.
    pub(super) fn used(&self, store: &Store) -> Result<Option<Journal>> {
        let mine = |j: &Journal| j.doc.approval_sha256 == self.approval_sha256;
        let served = |j: &Journal| matches!(j.doc.state, State::Done { .. } | State::Reverted { .. });
        Ok(store.all()?.into_iter().find(|j| mine(j) && served(j)))
    }
}

/// Everything a promotion starts with.
pub(super) struct Ready {
    pub(super) journal: PromotionJournalV1,
    /// Where the restore works: the parent of the staged data directory.
    pub(super) work: PathBuf,
}

/// Looks at the primary and its directories, and refuses what cannot be exchanged or undone. Changes nothing.
pub(super) async fn check(mandate: &Mandate, config: &Config, promote: &PromoteConfig, service: &Service<'_>) -> Result<Ready> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(Failure::Precondition, "promote must run as root").hint("it keeps owners and looks into /proc"));
    }
    for dir in std::iter::once(&promote.datadir).chain(&promote.binlog_dir) {
        refuse_directory(dir)?;
    }
    refuse_space(mandate, config, &promote.datadir)?;
    let now = Timestamp::now();
    let nonce = u16::try_from(now.subsec_nanosecond().rem_euclid(0x1_0000)).unwrap_or_default();
    let id = PromotionId::new(now, nonce);
    let short: String = mandate.plan_sha256.to_string().chars().take(12).collect();
    let work = dirs::sibling(&promote.datadir, &format!(".staged-{short}"));
    let mut slots = vec![slot(&promote.datadir, work.join("data"), &id)?];
    if let Some(dir) = &promote.binlog_dir {
        slots.push(slot(dir, dirs::sibling(dir, &format!(".staged-{id}")), &id)?);
    }
    if fs::symlink_metadata(&work).is_ok_and(|d| !d.is_dir()) {
        return Err(Error::new(Failure::UnsafeDirectory, format!("{} is not a directory", work.display())));
    }
    if service.status().await? != Status::Running {
        return Err(Error::new(Failure::Precondition, "service control does not say that the primary runs")
            .hint("promote replaces a running primary, so that it can go back to it. Start it; if it cannot start, use `highwater-host restore` and exchange the directories by hand"));
    }
    let error_log = check_primary(mandate, config, promote).await?;
    crate::restore::tool_of(&mandate.plan, &config.server).await?;
    let journal = PromotionJournalV1 {
        format: PromotionJournalV1::FORMAT.into(),
        id,
        cluster: config.cluster.clone(),
        host_id: config.host_id.clone(),
        backup_id: mandate.plan.point.backup_id.clone(),
        plan_sha256: mandate.plan_sha256,
        report_sha256: mandate.report_sha256,
        approval_sha256: mandate.approval_sha256,
        requester: mandate.approval.requester.clone(),
        approvers: mandate.approval.approvers.clone(),
        began_at: now,
        restored_to: mandate.plan.point.binlog.clone(),
        error_log,
        slots,
        state: State::Staging {},
        history: Vec::new(),
    };
    journal.check().map_err(|reason| Error::new(Failure::Config, format!("the directories cannot be exchanged: {reason}")))?;
    Ok(Ready { journal, work })
}

/// What must hold of the running primary: before anything begins, and again just before it is fenced. Returns its error log.
pub(super) async fn check_primary(mandate: &Mandate, config: &Config, promote: &PromoteConfig) -> Result<Option<PathBuf>> {
    let mut server = Server::connect(&config.server).await?;
    let variables = Variables::of(&mut server).await?;
    config.server.check_engine(variables.vendor(), variables.version()?)?;
    variables.fit(&mandate.plan.server, &promote.datadir, promote.binlog_dir.as_deref())?;
    refuse_entangled(&mut server, &variables, &promote.datadir).await?;
    server.close().await;
    let pid = variables.path("pid_file").and_then(|p| fs::read_to_string(p).ok()).and_then(|p| p.trim().parse::<i32>().ok());
    let others: Vec<Holder> = dirs::holders(&promote.datadir)?.into_iter().filter(|h| Some(h.pid) != pid).collect();
    let a_server = |h: &Holder| pid.is_none() && super::executor::is_server(h);
    if let Some(other) = others.iter().find(|h| !a_server(h)) {
        let message = format!("process {} ({}) works in {}", other.pid, other.command, promote.datadir.display());
        return Err(Error::new(Failure::Precondition, message).hint("end it first: only the server may have its data directory open"));
    }
    let error_log = variables.path("log_error").filter(|_| variables.get("log_error") != "stderr");
    if error_log.is_none() && matches!(promote.service, ServiceConfig::Commands(_)) {
        return Err(Error::new(
            Failure::Precondition,
            "the server has no log_error, so nobody can tell whether it starts without complaints",
        )
        .hint("set log_error in the server's configuration"));
    }
    Ok(error_log)
}

fn slot(live: &Path, staged: PathBuf, id: &PromotionId) -> Result<Slot> {
    let gone = || Error::new(Failure::Precondition, format!("{} does not exist", live.display()));
    let slot = Slot {
        live: live.to_owned(),
        aside: dirs::sibling(live, &format!(".old-{id}")),
        staged,
        undone: dirs::sibling(live, &format!(".undone-{id}")),
        old: dirs::mark(live)?.ok_or_else(gone)?,
    };
    for taken in [&slot.aside, &slot.undone] {
        if dirs::mark(taken)?.is_some() {
            return Err(Error::new(Failure::UnsafeDirectory, format!("{} exists already", taken.display())));
        }
    }
    Ok(slot)
}

/// A directory that is exchanged must be a plain one: no link, no mount point at it or below it, nothing in it that leads out.
fn refuse_directory(dir: &Path) -> Result<()> {
    let refuse = |message: String, hint: &str| Err(Error::new(Failure::Precondition, message).hint(hint));
    let shown = dir.display();
    let found = fs::symlink_metadata(dir).context(Failure::Precondition, || format!("look at {shown}"))?;
    if !found.is_dir() {
        return refuse(format!("{shown} is a link or a file, not a directory"), "name the directory itself in the configuration");
    }
    let real = dir.canonicalize().context(Failure::Precondition, || format!("look at {shown}"))?;
    if real != dir.components().collect::<PathBuf>() {
        return refuse(format!("{shown} is really {}", real.display()), "name the real path in the configuration");
    }
    if let Some(at) = dirs::mounts_within(&real)?.first() {
        return refuse(
            format!("{} is a mount point", at.display()),
            "a mount point cannot be renamed: keep the data directory one level below it, like /srv/mysql/data",
        );
    }
    if let Some(path) = dirs::leads_out(dir)? {
        return refuse(
            format!("{} leads out of {shown}", path.display()),
            "data elsewhere (DATA DIRECTORY, linked schemas) cannot be exchanged by a rename: move it inside first",
        );
    }
    Ok(())
}

/// The restored data, one incremental beside it, and the redo must fit beside the primary's data.
fn refuse_space(mandate: &Mandate, config: &Config, datadir: &Path) -> Result<()> {
    let parent = datadir.parent().unwrap_or(datadir);
    let device = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).map(|m| m.dev()).context(Failure::Precondition, || format!("look at {}", path.display()))
    };
    if device(parent)? != device(datadir)? {
        return Err(Error::new(Failure::Precondition, format!("{} is another filesystem than {}", parent.display(), datadir.display()))
            .hint("the restored data is made beside the old and renamed: both must lie on one filesystem"));
    }
    let sum = |of: fn(&highwater_core::plan::PlanStep) -> u64| mandate.plan.steps.iter().map(of).fold(0u64, u64::saturating_add);
    let keep = config.restore.keep_free_mib.saturating_mul(1 << 20);
    let needed = sum(|s| s.raw_bytes).saturating_add(sum(|s| s.redo_bytes)).saturating_add(keep);
    let free = dirs::free_bytes(parent)?;
    if free < needed {
        let mib = |bytes: u64| bytes >> 20;
        let message = format!("{} has {} MiB free, the promotion needs {} MiB", parent.display(), mib(free), mib(needed));
        return Err(Error::new(Failure::Resources, message).hint("free space there, or remove old directories of earlier promotions"));
    }
    Ok(())
}
