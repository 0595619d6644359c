//! The catalog's items one by one: is each the record that its key says, as the manifests imply it, and not put back to an
//! earlier state? What only the catalog knows (who asked, who voted, why something failed) has nothing to be compared with.

use super::Difference;
use crate::catalog::approvals::{ApprovalRecord, approval_of};
use crate::catalog::backups::{BackupRecord, Committed, Point, State};
use crate::catalog::drills::{DrillRecord, Passed, State as DrillState};
use crate::catalog::head::Head;
use crate::catalog::lease;
use crate::catalog::promotions::PromotionRecord;
use crate::catalog::prune::Brief;
use crate::table::Record;
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::consent::RequestState;
use highwater_core::lease::Lease;
use highwater_core::promotion::PromotionId;
use highwater_core::{BackupId, ClusterId, DrillId, Sha256};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// An item as it is stored, with its keys.
pub(super) type Row = Map<String, Value>;

/// What an attribute of text is; empty without it.
pub(super) fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Every item of a cluster, by kind, and what is wrong with those that cannot be read or lie at another's key.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) backups: Vec<BackupRecord>,
    pub(super) drills: Vec<DrillRecord>,
    pub(super) approvals: Vec<ApprovalRecord>,
    pub(super) promotions: Vec<PromotionRecord>,
    /// Of each point its sort key, and the backup that it leads to.
    pub(super) points: BTreeMap<String, BackupId>,
    /// What the cluster's newest request is said to be.
    pub(super) newest_request: Option<PromotionId>,
    pub(super) wrong: Vec<Difference>,
}

impl Rows {
    pub(super) fn of(rows: &[Row], cluster: &ClusterId) -> Self {
        let mut read = Self::default();
        for row in rows {
            let sk = text(row, "sk");
            if let Some(format) = format_of(sk).filter(|format| *format != text(row, "format")) {
                let reason = format!("its format is {:?}, expected {format:?}", text(row, "format"));
                read.wrong.push(Difference::Unreadable { sk: sk.to_owned(), reason });
                continue;
            }
            match sk.split_once('#') {
                Some(("backup", id)) => {
                    read.record(row, id, |r: &BackupRecord| own(cluster, &r.cluster, &r.backup_id), |rows, r| rows.backups.push(r))
                }
                Some(("drill", id)) => {
                    read.record(row, id, |r: &DrillRecord| own(cluster, &r.cluster, &r.drill_id), |rows, r| rows.drills.push(r))
                }
                Some(("approval", id)) => {
                    read.record(
                        row,
                        id,
                        |r: &ApprovalRecord| own(cluster, &r.request.cluster, &r.request.id),
                        |rows, r| rows.approvals.push(r),
                    );
                }
                Some(("promotion", id)) => {
                    read.record(row, id, |r: &PromotionRecord| own(cluster, &r.cluster, &r.id), |rows, r| rows.promotions.push(r));
                }
                Some(("lsn" | "time", key)) => {
                    let id = key.rsplit('#').next().unwrap_or_default();
                    let at = sk.to_owned();
                    read.record(row, id, |p: &Point| p.backup_id.to_string(), |rows, p| drop(rows.points.insert(at, p.backup_id)));
                }
                None if sk == "approval" => read.newest_request = text(row, "newest").parse().ok(),
                _ => {}
            }
        }
        read
    }

    /// Keeps a record that can be read and says itself that it is `id`'s.
    fn record<T: DeserializeOwned>(&mut self, row: &Row, id: &str, says: impl Fn(&T) -> String, keep: impl FnOnce(&mut Self, T)) {
        let sk = text(row, "sk").to_owned();
        match serde_json::from_value::<T>(Value::Object(row.clone())) {
            Err(error) => self.wrong.push(Difference::Unreadable { sk, reason: error.to_string() }),
            Ok(record) if says(&record) != id => self.wrong.push(Difference::Misplaced { sk, of: says(&record) }),
            Ok(record) => keep(self, record),
        }
    }
}

/// The format of the records at a key.
fn format_of(sk: &str) -> Option<&'static str> {
    Some(match sk.split_once('#').map_or(sk, |(kind, _)| kind) {
        "head" => Head::FORMAT,
        "lease" => lease::FORMAT,
        "backup" => BackupRecord::FORMAT,
        "lsn" | "time" => Point::FORMAT,
        "drill" => DrillRecord::FORMAT,
        "approval" if sk.contains('#') => ApprovalRecord::FORMAT,
        "promotion" => PromotionRecord::FORMAT,
        _ => return None,
    })
}

/// What a record says it is the record of: another cluster's is named with it.
fn own(cluster: &ClusterId, says: &ClusterId, id: &impl ToString) -> String {
    if cluster == says { id.to_string() } else { format!("{says}/{}", id.to_string()) }
}

impl Rows {
    /// A backup's record against its manifest, and against the points and children that only a committed one has.
    pub(super) fn backups_against(&self, implied: &Catalog, texts: &BTreeMap<String, String>, found: &mut Vec<Difference>) {
        let led_to: BTreeSet<&BackupId> = self.points.values().collect();
        for record in &self.backups {
            let id = &record.backup_id;
            let differs = |what: &'static str| Difference::Record { backup: id.clone(), what };
            if let Some(asked) = &record.asked
                && Sha256::of(asked.request.as_bytes()) != asked.request_sha256
            {
                found.push(differs("request"));
            }
            match &record.state {
                State::Committed(committed) => {
                    // Another manifest altogether, or none, is a difference of its own.
                    if let Some(stored) = implied.get(id).filter(|stored| stored.sha256 == committed.manifest_sha256) {
                        found.extend(different(record, committed, implied, stored, texts).map(differs));
                    }
                }
                state if state.is_unfinished() && (record.open.is_none() || led_to.contains(id)) => {
                    found.push(Difference::PutBack { what: format!("backup {id}"), state: state.name() });
                }
                _ => {}
            }
        }
    }

    /// The lease against what was begun under it; gives the greatest token of any record.
    pub(super) fn lease_against(&self, lease: &Lease, found: &mut Vec<Difference>) -> u64 {
        let backups = self.backups.iter().map(|r| (r.backup_id.to_string(), r.token(), !r.state.is_unfinished()));
        let promotions = self.promotions.iter().map(|r| (r.id.to_string(), r.token, !r.state.is_unfinished()));
        let operations: Vec<_> = backups.chain(promotions).collect();
        let newest = operations.iter().map(|(_, token, _)| *token).max().unwrap_or_default();
        // It was taken in one transaction with its operation's record.
        if let Some(holder) = &lease.holder
            && !operations.iter().any(|(id, _, _)| *id == holder.operation)
            && self.is_readable(&holder.purpose.to_string(), &holder.operation)
        {
            found.push(Difference::Lost { what: format!("{} {}", holder.purpose, holder.operation), by: "the lease".to_owned() });
        }
        if lease.token < newest {
            found.push(Difference::Lease { token: lease.token, newest });
        }
        if let Some(holder) = &lease.holder
            && operations.iter().any(|(id, _, has_ended)| *id == holder.operation && *has_ended)
        {
            found.push(Difference::PutBack { what: "the lease".to_owned(), state: "held by an operation that has ended" });
        }
        newest
    }

    /// A passed drill's record against what its certificate proves.
    pub(super) fn drills_against(&self, proven: &[DrillRecord], found: &mut Vec<Difference>) {
        let proof = |record: &DrillRecord| match &record.state {
            DrillState::Passed(passed) => {
                let ran = (record.execution.clone(), record.backup_id.clone(), record.plan.clone());
                Some((ran, passed.instance.clone(), passed.report.clone(), passed.certificate.clone(), passed.finished_at))
            }
            _ => None,
        };
        for record in self.drills.iter().filter(|record| proof(record).is_some()) {
            let proven = proven.iter().find(|proven| proven.drill_id == record.drill_id);
            if proven.and_then(proof) != proof(record) {
                found.push(Difference::Certificate(record.drill_id.to_string()));
            }
        }
    }

    /// Requests, drills and promotions against what followed from each and what each follows from. Nothing unfinished is not open.
    pub(super) fn approvals_against(&self, bucket: &str, lease: &Lease, found: &mut Vec<Difference>) {
        let requests: BTreeMap<&PromotionId, &ApprovalRecord> = self.approvals.iter().map(|r| (&r.request.id, r)).collect();
        let followed: BTreeSet<&PromotionId> = self.promotions.iter().map(|p| &p.id).collect();
        if let Some(id) = self.newest_request.as_ref().filter(|id| !requests.contains_key(id) && self.is_readable("approval", id)) {
            found.push(Difference::Lost { what: format!("request {id}"), by: "the cluster's newest request".to_owned() });
        }
        if let Some(newest) = requests.keys().next_back().filter(|id| self.newest_request.as_ref() < Some(**id)) {
            let what = format!("the cluster's newest request, which {newest} should be,");
            found.push(Difference::PutBack { what, state: "an older one or none" });
        }
        for record in &self.approvals {
            let (request, what) = (&record.request, || format!("request {}", record.request.id));
            if let Some(state) = put_back(record, followed.contains(&request.id)) {
                found.push(Difference::PutBack { what: what(), state });
            }
            let passed = request.question.as_ref().and_then(|asked| Some((asked, self.proof_of(&asked.drill_id)?)));
            let differs = passed.and_then(|(asked, (drill, passed))| {
                let same = [
                    ("restore point", asked.backup_id == drill.backup_id),
                    ("plan", asked.plan == drill.plan),
                    ("report", asked.report == passed.report),
                    ("certificate", asked.certificate == passed.certificate),
                ];
                same.into_iter().find(|(_, same)| !same)
            });
            if let Some((attribute, _)) = differs {
                found.push(Difference::Changed { what: what(), attribute, from: "its drill" });
            }
        }
        for record in self.drills.iter().filter(|record| !record.state.has_ended() && record.open.is_none()) {
            found.push(Difference::PutBack { what: format!("drill {}", record.drill_id), state: record.state.name() });
        }
        for record in &self.promotions {
            let what = || format!("promotion {}", record.id);
            // Its lease was released by nothing but its end, and nobody has taken it since.
            let has_ended = lease.token == record.token && lease.holder.is_none();
            if record.state.is_unfinished() && (record.open.is_none() || has_ended) {
                found.push(Difference::PutBack { what: what(), state: record.state.name() });
            }
            match requests.get(&record.id) {
                Some(asked) => {
                    let differs = differs_from(record, asked, bucket);
                    found.extend(differs.map(|attribute| Difference::Changed { what: what(), attribute, from: "its request" }));
                }
                None if self.is_readable("approval", &record.id) => {
                    found.push(Difference::Lost { what: format!("request {}", record.id), by: what() });
                }
                None => {}
            }
        }
    }

    /// Whether an item is not already named as one that cannot be read or is another's.
    fn is_readable(&self, kind: &str, id: &impl Display) -> bool {
        let at = format!("{kind}#{id}");
        !self.wrong.iter().any(|wrong| matches!(wrong, Difference::Unreadable { sk, .. } | Difference::Misplaced { sk, .. } if *sk == at))
    }

    fn proof_of(&self, drill: &DrillId) -> Option<(&DrillRecord, &Passed)> {
        self.drills.iter().filter(|record| record.drill_id == *drill).find_map(|record| match &record.state {
            DrillState::Passed(passed) => Some((record, &**passed)),
            _ => None,
        })
    }
}

/// The state of a request that says less than what followed from it.
fn put_back(record: &ApprovalRecord, is_followed: bool) -> Option<&'static str> {
    let request = &record.request;
    let (state, is_undecided) = match request.state {
        RequestState::Drilling {} => ("drilling", true),
        RequestState::Waiting {} => ("waiting", true),
        RequestState::Denied {} => ("denied", false),
        RequestState::Void { .. } => ("void", false),
        RequestState::Approved {} => return None,
    };
    (is_followed || is_undecided && record.open.is_none()).then_some(state)
}

/// The first thing in which a promotion is not what its request approved.
fn differs_from(record: &PromotionRecord, asked: &ApprovalRecord, bucket: &str) -> Option<&'static str> {
    let (approval, question) = (approval_of(&asked.request, bucket), asked.request.question.as_ref());
    // What was not approved is named as that.
    let (Some((approval, _)), Some(question)) = (approval, question) else { return None };
    let same = [
        ("approval", record.approval == approval),
        ("host", record.host == question.host),
        ("restore point", record.backup_id == question.backup_id),
        ("execution", record.execution == asked.execution),
    ];
    same.into_iter().find(|(_, same)| !same).map(|(attribute, _)| attribute)
}

/// The first thing in which a committed record is not what its manifest implies.
fn different(
    record: &BackupRecord,
    committed: &Committed,
    implied: &Catalog,
    stored: &StoredManifest,
    texts: &BTreeMap<String, String>,
) -> Option<&'static str> {
    let m = &stored.manifest;
    let should = Committed::of(implied, stored, texts.get(&stored.key).cloned().unwrap_or_default(), committed.committed_at).ok()?;
    let asked = record.asked.as_ref().map(|asked| asked.request_sha256);
    let comparisons = [
        ("incarnation", record.incarnation == m.incarnation),
        ("parent", record.parent.as_ref() == m.parent.as_ref().map(|link| &link.backup_id)),
        ("request_sha256", asked.is_none_or(|sha256| sha256 == m.request_sha256)),
        ("full", committed.full == should.full),
        ("finished_at", committed.finished_at == should.finished_at),
        ("last_lsn", committed.last_lsn == should.last_lsn),
        ("stored_bytes", committed.stored_bytes == should.stored_bytes),
        ("manifest_key", committed.manifest_key == should.manifest_key),
        ("manifest_version_id", committed.manifest_version_id == should.manifest_version_id),
        ("manifest", committed.manifest == should.manifest),
    ];
    comparisons.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
}

/// A record's state and digest, as far as they can be read: what decides which manifests count.
pub(super) fn briefs(rows: &[Row]) -> BTreeMap<BackupId, Brief> {
    let of_backup = rows.iter().filter(|row| text(row, "sk").starts_with("backup#"));
    let read = of_backup.filter_map(|row| serde_json::from_value::<Brief>(Value::Object(row.clone())).ok());
    read.map(|brief| (brief.backup_id.clone(), brief)).collect()
}
