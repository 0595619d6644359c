//! `record-drill`: the end of every drill. Passed only by a report of this very plan whose verdict says so (I5).
//!
//! In this order: the certificate, its signature, the record and the head together; or the message, then the record. Run
//! twice it finds its own work and answers the same. What a crash leaves: a certificate that no record names, or a message
//! that is sent again. A message that SNS does not take keeps no result from being recorded.

use crate::drill_host::REPORT_NAME;
use crate::error::{FunctionError, Name};
use crate::metrics::emit;
use crate::pages::Pages;
use crate::plan_restore::{Drill, TaskFailure};
use crate::serve::{Common, variable};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::drills::{DrillRecord, Passed, State};
use highwater_aws::kms::SigningKey;
use highwater_aws::s3::{Bucket, StoreErrorKind};
use highwater_aws::sns::Topic;
use highwater_core::certificate::{CERTIFICATE_NAME, CertificateV1, Drilled, SIGNATURE_NAME, certify};
use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::ids::drill_prefix;
use highwater_core::plan::RestorePlanV1;
use highwater_core::rto::{Measured, is_of_restore};
use highwater_core::{BackupId, ClusterId, Document, DrillId, Pinned, Sha256};
use highwater_pages::{CertificateView, drill_report};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The report for people, beside the one for programs.
const PAGE_NAME: &str = "report.html";

/// A DER signature of P-256 has at most 72 bytes.
const SIGNATURE_BYTES: u64 = 128;

/// The most characters of a reason: Step Functions takes 32 KiB of a cause, a person far less.
const REASON_CHARS: usize = 2000;

/// The event, made by the state machine.
#[derive(Debug, Clone, Deserialize)]
struct Event {
    drill: Drill,
    failure: Option<TaskFailure>,
}

/// The answer: the output of the drill's execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The cluster.
    pub cluster: ClusterId,
    /// The drill.
    pub drill_id: DrillId,
    /// The restore point.
    pub backup_id: BackupId,
    /// The plan.
    pub plan: Pinned,
    /// Whether it is proven.
    pub outcome: Outcome,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The report, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Pinned>,
    /// The certificate of a drill that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Pinned>,
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct RecordDrill {
    catalog: CatalogTable,
    bucket: Bucket,
    key: SigningKey,
    topic: Topic,
    pages: Pages,
    deployment: String,
}

impl RecordDrill {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub async fn new(common: Common) -> Result<Self, FunctionError> {
        Ok(Self {
            pages: Pages::new(&common).await?,
            key: SigningKey::new(&common.sdk, variable("HIGHWATER_SIGNING_KEY")?),
            topic: Topic::new(&common.sdk, variable("HIGHWATER_TOPIC")?),
            catalog: CatalogTable::new(common.table),
            bucket: common.bucket,
            deployment: common.deployment,
        })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `Transient`, `Permanent`: the result is not recorded. A drill that failed is an answer.
    pub async fn handle(&self, event: Value) -> Result<Answer, FunctionError> {
        let Event { drill, failure } =
            serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, "the drill machine makes this event"))?;
        let Drill { cluster, drill_id, .. } = &drill;
        let unknown = || FunctionError::new(Name::Permanent, format!("the catalog has no drill {drill_id} of {cluster}"));
        let record = self.catalog.drill(cluster, drill_id).await?.ok_or_else(unknown)?;
        if record.state.has_ended() {
            return Ok(answer(&record));
        }
        let (report, problem) = match self.report(&record).await? {
            Ok((report, at)) => (Some((report, at)), None),
            Err(problem) => (None, Some(problem)),
        };
        let said = report.as_ref().and_then(|(report, _)| why_failed(report));
        let reason = match failure {
            Some(task) => Some(and(format!("{}: {}", task.error, task.cause.unwrap_or_default()), said)),
            None => problem.or(said),
        };
        let earned = match (reason, &report) {
            (Some(reason), _) => Err(reason),
            (None, Some((report, at))) => self.certificate(&record, report, at).await?,
            (None, None) => Err("it ended without a report".to_owned()),
        };
        if let Some((report, _)) = &report {
            self.page(&record, report, earned.as_ref().map(|(_, at)| at).map_err(String::as_str)).await;
        }
        let record = match (earned, report) {
            (Ok((certificate, at)), Some((report, report_at))) => self.pass(record, &certificate, at, &report, report_at).await?,
            (Ok(_), None) => return Err(FunctionError::new(Name::Permanent, "a certificate without a report")),
            (Err(reason), report) => fail(&self.catalog, &self.topic, &record, &reason, report.map(|(_, at)| at)).await?,
        };
        self.pages.changed().await;
        Ok(answer(&record))
    }

    /// The report, or why it says nothing.
    async fn report(&self, record: &DrillRecord) -> Result<Result<(DrillReportV1, Pinned), String>, FunctionError> {
        let key = format!("{}{REPORT_NAME}", drill_prefix(&record.cluster, &record.drill_id));
        let bytes = match self.bucket.get(&key, None, DrillReportV1::MAX_BYTES as u64).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(Err("it ended without a report".to_owned())),
            Err(error) if error.kind == StoreErrorKind::Refused => return Ok(Err(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let at = Pinned::object(self.bucket.name(), &key, Sha256::of(&bytes));
        Ok(match DrillReportV1::parse(&bytes) {
            Ok(report) => Ok((report, at)),
            Err(error) => Err(format!("its report {} says nothing: {error}", at.uri)),
        })
    }

    /// The certificate that a report has earned, with where it will lie; or why it has earned none.
    async fn certificate(
        &self,
        record: &DrillRecord,
        report: &DrillReportV1,
        report_at: &Pinned,
    ) -> Result<Result<(CertificateV1, Pinned), String>, FunctionError> {
        let Some(instance) = record.state.instance() else {
            return Ok(Err("no instance was launched for it, yet there is a report".to_owned()));
        };
        let plan = self.plan(record).await?;
        let earned = certify(&Drilled {
            drill_id: &record.drill_id,
            execution: &record.execution,
            instance,
            plan: (&plan, &record.plan),
            report: (report, report_at),
            signing_key: self.key.arn(),
        });
        let key = format!("{}{CERTIFICATE_NAME}", drill_prefix(&record.cluster, &record.drill_id));
        Ok(earned.map(|certificate| {
            let at = Pinned::object(self.bucket.name(), &key, Sha256::of(&certificate.to_bytes()));
            (certificate, at)
        }))
    }

    /// Writes the report for people. It proves nothing, so that a drill does not fail with it.
    async fn page(&self, record: &DrillRecord, report: &DrillReportV1, ended: Result<&Pinned, &str>) {
        if let Err(error) = self.write_page(record, report, ended).await {
            tracing::warn!(cluster = %record.cluster, drill_id = %record.drill_id, "its page was not written: {error}");
        }
    }

    async fn write_page(&self, record: &DrillRecord, report: &DrillReportV1, ended: Result<&Pinned, &str>) -> Result<(), FunctionError> {
        let plan = self.plan(record).await?;
        let certificate = ended.map(|at| CertificateView { uri: at.uri.clone(), sha256: at.sha256, key: self.key.arn().to_owned() });
        let page = drill_report(&record.drill_id.to_string(), &plan, report, certificate.as_ref().map_err(|reason| *reason));
        let key = format!("{}{PAGE_NAME}", drill_prefix(&record.cluster, &record.drill_id));
        self.pages.report(&key, page).await;
        Ok(())
    }

    /// The plan of a drill, as its record pins it.
    async fn plan(&self, record: &DrillRecord) -> Result<RestorePlanV1, FunctionError> {
        let foreign = || FunctionError::new(Name::Permanent, format!("the plan {} is not in {}", record.plan.uri, self.bucket.name()));
        let key = record.plan.key_in(self.bucket.name()).ok_or_else(foreign)?;
        let plan = self.bucket.get(key, None, RestorePlanV1::MAX_BYTES as u64).await?;
        Ok(RestorePlanV1::parse_pinned(&plan, record.plan.sha256)?)
    }

    /// Stores the certificate and its signature, and records that the drill passed.
    async fn pass(
        &self,
        record: DrillRecord,
        certificate: &CertificateV1,
        at: Pinned,
        report: &DrillReportV1,
        report_at: Pinned,
    ) -> Result<DrillRecord, FunctionError> {
        let prefix = drill_prefix(&record.cluster, &record.drill_id);
        self.bucket.put_new(&format!("{prefix}{CERTIFICATE_NAME}"), certificate.to_bytes().into(), "application/json").await?;
        self.sign(&format!("{prefix}{SIGNATURE_NAME}"), at.sha256).await?;
        let passed = Passed {
            instance: certificate.instance.clone(),
            report: report_at,
            certificate: at,
            finished_at: report.finished_at,
            measured: Measured::of(&self.plan(&record).await?, report),
            passed_at: Timestamp::now(),
        };
        let record = self.catalog.pass_drill(&record, passed).await?;
        emit(&self.deployment, Some(&record.cluster), &[("RestoreSeconds", "Seconds", restore_seconds(report))]);
        tracing::info!(cluster = %record.cluster, drill_id = %record.drill_id, backup_id = %record.backup_id, "passed");
        Ok(record)
    }

    /// Stores the signature. KMS signs differently each time: one that is there is kept, if it is the key's.
    async fn sign(&self, key: &str, digest: Sha256) -> Result<(), FunctionError> {
        let signature = self.key.sign(digest).await?;
        let error = match self.bucket.put_new(key, signature.into(), "application/octet-stream").await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => error,
            Err(error) => return Err(error.into()),
        };
        let stored = self.bucket.get(key, None, SIGNATURE_BYTES).await?;
        if self.key.verify(digest, &stored).await? { Ok(()) } else { Err(error.into()) }
    }
}

/// Tells people, then records that a drill did not pass, whether or not they could be told: the machine's alarm and the status
/// page say it too.
///
/// # Errors
/// Those of the catalog.
pub async fn fail(
    catalog: &CatalogTable,
    topic: &Topic,
    record: &DrillRecord,
    reason: &str,
    report: Option<Pinned>,
) -> Result<DrillRecord, FunctionError> {
    let DrillRecord { cluster, drill_id, backup_id, execution, .. } = record;
    let reason: String = reason.chars().take(REASON_CHARS).collect();
    let place = report.as_ref().map_or_else(|| "There is no report.".to_owned(), |at| format!("The report is {}.", at.uri));
    let message = format!(
        "Drill {drill_id} of {cluster} did not pass: restore point {backup_id} is not proven.\n\n{reason}\n\n{place}\nExecution {execution}\n\n\
         Look at the report, then start another drill: {{\"cluster\":\"{cluster}\"}}. RUNBOOK has the rest.\n"
    );
    if let Err(error) = topic.publish(&format!("Highwater: drill of {cluster} failed"), &message).await {
        tracing::error!(%cluster, %drill_id, %error, "nobody was told that a drill failed");
    }
    tracing::warn!(%cluster, %drill_id, %backup_id, reason, "failed");
    let failed = State::Failed { instance: record.state.instance().cloned(), reason, report, failed_at: Timestamp::now() };
    Ok(catalog.move_drill(record, failed).await?)
}

/// Why a report says that the drill failed; nothing when it passed.
fn why_failed(report: &DrillReportV1) -> Option<String> {
    if report.outcome == Outcome::Passed {
        return None;
    }
    let failed: Vec<_> = report.checks.iter().filter(|c| c.outcome == Outcome::Failed).collect();
    Some(match (&report.failure, failed.first()) {
        (Some(failure), _) => failure.clone(),
        (None, Some(first)) => format!(
            "{} of {} checks failed, first {:?} of {}: expected {}, found {}",
            failed.len(),
            report.checks.len(),
            first.kind,
            first.subject,
            first.expected,
            first.found
        ),
        (None, None) => "no check looked at the data".to_owned(),
    })
}

fn and(first: String, second: Option<String>) -> String {
    match second {
        Some(second) if !first.contains(&second) => format!("{first}; the report says: {second}"),
        _ => first,
    }
}

/// From the first byte fetched to a server that answers: what an emergency would take.
fn restore_seconds(report: &DrillReportV1) -> f64 {
    report.phases.iter().filter(|p| is_of_restore(p)).map(|p| p.seconds).sum()
}

fn answer(record: &DrillRecord) -> Answer {
    let DrillRecord { cluster, drill_id, backup_id, plan, .. } = record.clone();
    let (outcome, reason, report, certificate) = match &record.state {
        State::Passed(passed) => (Outcome::Passed, None, Some(passed.report.clone()), Some(passed.certificate.clone())),
        State::Failed { reason, report, .. } => (Outcome::Failed, Some(reason.clone()), report.clone(), None),
        open => (Outcome::Failed, Some(format!("it is {}", open.name())), None, None),
    };
    Answer { cluster, drill_id, backup_id, plan, outcome, reason, report, certificate }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> DrillReportV1 {
        DrillReportV1::parse(include_bytes!("../../tests/fixtures/v1/drill-report.json")).unwrap()
    }

    #[test]
    fn a_failed_report_says_why_and_a_passed_one_nothing() {
        let mut report = report();
        assert_eq!(why_failed(&report), None);
        report.outcome = Outcome::Failed;
        assert_eq!(why_failed(&report).unwrap(), "no check looked at the data");
        report.checks[2].outcome = Outcome::Failed;
        assert_eq!(why_failed(&report).unwrap(), "1 of 5 checks failed, first CheckTable of orders.lines: expected OK, found OK");
        report.failure = Some("no disk".into());
        assert_eq!(why_failed(&report).unwrap(), "no disk");
    }

    #[test]
    fn the_time_of_a_restore_is_without_its_checks() {
        let mut report = report();
        assert_eq!(restore_seconds(&report), 29.25);
        report.phases[0].name = "check".into();
        assert_eq!(restore_seconds(&report), 7.75);
    }
}
