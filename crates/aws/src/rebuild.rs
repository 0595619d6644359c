//! The catalog against the manifests it follows from (I1): every difference by name, and the rebuilding of what is missing.
//!
//! A rebuild adds and corrects what manifests prove: records, points, the head; and what certificates prove that the given key
//! signed: drills that passed. It removes no record and overrules none: that a backup failed, or is being pruned, only the
//! catalog can know. Each write finds the head's
//! version that was compared and makes it one more: no decision made before it, and no mark made since, meets what it added.
//! It corrects the head last, so that after a crash the next run finds what is still missing.

use crate::catalog::backups::{BackupRecord, Committed, point_keys, put_points};
use crate::catalog::drills::DrillRecord;
use crate::catalog::head::{Head, HeadPoint, PassedDrill};
use crate::catalog::lease;
use crate::catalog::prune::{Brief, MARKS};
use crate::catalog::{CatalogError, CatalogTable};
use crate::manifests::{each, read_manifest_texts};
use crate::prune::PruneError;
use crate::s3::{Bucket, StoreError, StoreErrorKind};
use crate::table::{Key, Range, TableError, Write};
use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::certificate::{CERTIFICATE_NAME, CertificateV1, PublicKey, SIGNATURE_NAME, verify};
use highwater_core::ids::{cluster_prefix, drill_prefix};
use highwater_core::lease::Lease;
use highwater_core::{BackupId, ClusterId, Document, DrillId, Pinned, Sha256};
use jiff::Timestamp;
use rows::{Row, Rows, text};
use std::collections::{BTreeMap, BTreeSet};

mod rows;

/// A DER signature of P-256 has at most 72 bytes.
const SIGNATURE_BYTES: u64 = 128;

/// Where the catalog and the manifests differ. Each sentence says whether a rebuild mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// A good manifest without a record.
    #[error("{0} has a manifest and no record: a rebuild adds it")]
    NoRecord(BackupId),
    /// A record of a restore point without its manifest.
    #[error("{0} is committed, but its manifest is not in the bucket, or hidden, or breaks a rule: nothing can be restored from it")]
    NoManifest(BackupId),
    /// Another manifest than the one committed.
    #[error("{0} is committed with another manifest than the one in the bucket: somebody exchanged it")]
    OtherManifest(BackupId),
    /// A restore point cannot be found by LSN or time.
    #[error("{0} is missing, by which a restore point is found: a rebuild adds it")]
    NoPoint(String),
    /// A point without its restore point.
    #[error("{0} leads to no restore point: a rebuild removes it")]
    StrayPoint(String),
    /// The head does not follow from the manifests.
    #[error("the head's {what} is {is}, the manifests say {should}: a rebuild corrects it")]
    Head {
        /// Which.
        what: &'static str,
        /// In the catalog.
        is: String,
        /// By the manifests.
        should: String,
    },
    /// A drill that passed, by a certificate that the key signed, without a record.
    #[error("drill {0} passed by its certificate and has no record: a rebuild adds it")]
    NoDrill(DrillId),
    /// A drill is recorded as passed without a certificate that says the same.
    #[error("drill {0} is recorded as passed; its certificate is not in the bucket, or says otherwise: drill again")]
    Certificate(String),
    /// An item that is no record of its kind.
    #[error("the item {sk} cannot be read: {reason}; restore the table to a time when it could, or delete the item and rebuild")]
    Unreadable {
        /// Its sort key.
        sk: String,
        /// Why not.
        reason: String,
    },
    /// A record at another one's key.
    #[error("the item {sk} is the record of {of}: somebody exchanged it; delete it and rebuild")]
    Misplaced {
        /// Its sort key.
        sk: String,
        /// Whose it is.
        of: String,
    },
    /// A record that is not what its manifest implies.
    #[error("the record of {backup} differs from its manifest in {what}: delete it and rebuild")]
    Record {
        /// The backup.
        backup: BackupId,
        /// The first attribute.
        what: &'static str,
    },
    /// A record that says less than what followed from it.
    #[error("{what} is {state}, but what came after it is there: it was put back to an earlier state")]
    PutBack {
        /// The record.
        what: String,
        /// Its state.
        state: &'static str,
    },
    /// Something that a record names is not recorded.
    #[error("{what} is not recorded, and {by} names it: its item was lost; restore the table to a time when it was there")]
    Lost {
        /// What.
        what: String,
        /// What names it.
        by: String,
    },
    /// A request or a promotion that is not what it follows from.
    #[error("{what} differs in its {attribute} from {from}: somebody changed it; restore the table to a time before that")]
    Changed {
        /// The request or the promotion.
        what: String,
        /// Its first such attribute.
        attribute: &'static str,
        /// What it follows from.
        from: &'static str,
    },
    /// A token would be given out a second time.
    #[error("the lease's token is {token}, operations were begun under tokens up to {newest}: a rebuild raises it")]
    Lease {
        /// In the lease.
        token: u64,
        /// The greatest of any record.
        newest: u64,
    },
    /// What lies where a certificate belongs proves nothing.
    #[error("{key} proves no drill: {name}: {reason}; nothing is restored from it, find out who wrote it")]
    BadCertificate {
        /// Where it lies.
        key: String,
        /// The reason's name.
        name: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Difference {
    /// Its name: stable, for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoRecord(_) => "NoRecord",
            Self::NoManifest(_) => "NoManifest",
            Self::OtherManifest(_) => "OtherManifest",
            Self::NoPoint(_) => "NoPoint",
            Self::StrayPoint(_) => "StrayPoint",
            Self::Head { .. } => "Head",
            Self::NoDrill(_) => "NoDrill",
            Self::BadCertificate { .. } => "BadCertificate",
            Self::Certificate(_) => "Certificate",
            Self::Unreadable { .. } => "Unreadable",
            Self::Misplaced { .. } => "Misplaced",
            Self::Record { .. } => "Record",
            Self::PutBack { .. } => "PutBack",
            Self::Lost { .. } => "Lost",
            Self::Changed { .. } => "Changed",
            Self::Lease { .. } => "Lease",
        }
    }

    /// Whether a rebuild mends it.
    pub fn is_mended(&self) -> bool {
        matches!(
            self,
            Self::NoRecord(_) | Self::NoPoint(_) | Self::StrayPoint(_) | Self::Head { .. } | Self::NoDrill(_) | Self::Lease { .. }
        )
    }
}

/// The catalog beside the manifests.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What the manifests imply, without those of backups that the catalog knows to have failed or to be on their way out.
    pub implied: Catalog,
    /// Every difference.
    pub differences: Vec<Difference>,
    /// Operations under way: nothing is rebuilt before they have ended.
    pub open: Vec<String>,
    /// Certificates that nobody looked at, because no key was given: the proofs that they are were not compared.
    pub unverified: usize,
    new: Vec<(BackupRecord, StoredManifest)>,
    drills: Vec<DrillRecord>,
    points: Vec<Write>,
    head: Head,
    /// The lease as it was read, and as it should be.
    lease: (Lease, Lease),
}

/// Compares. Reads only. `key` is the deployment's public key: with it, what certificates prove is compared too.
///
/// # Errors
/// Those of the catalog and the bucket.
pub async fn compare(
    catalog: &CatalogTable,
    bucket: &Bucket,
    cluster: &ClusterId,
    key: Option<&PublicKey>,
    now: Timestamp,
) -> Result<Comparison, PruneError> {
    let (read, lease) = (catalog.head(cluster).await?, catalog.lease(cluster).await?);
    let items: Vec<Row> = catalog.table().query(Range { from: " ".to_owned(), ..Range::prefixed(cluster, "") }).await?;
    let mut open: Vec<_> = items.iter().filter(|row| row.contains_key("open")).map(|row| text(row, "sk").to_owned()).collect();
    if let Some(holder) = lease.holder.as_ref().filter(|holder| holder.expires_at > now) {
        open.push(format!("the lease of {} {}", holder.purpose, holder.operation));
    }
    let briefs = rows::briefs(&items);
    let (implied, texts) = implied(bucket, cluster, &briefs).await?;
    let rows = Rows::of(&items, cluster);

    let mut differences = rows.wrong.clone();
    let mut new = Vec::new();
    for stored in implied.backups() {
        match briefs.get(stored.id()) {
            None => {
                differences.push(Difference::NoRecord(stored.id().clone()));
                let text = texts.get(&stored.key).cloned().unwrap_or_default();
                let committed = Committed::of(&implied, stored, text, stored.manifest.finished_at)?;
                new.push((BackupRecord::rebuilt(stored, committed), stored.clone()));
            }
            Some(brief) if brief.manifest_sha256 != Some(stored.sha256) => {
                differences.push(Difference::OtherManifest(stored.id().clone()));
            }
            Some(_) => {}
        }
    }
    let committed = briefs.values().filter(|brief| brief.state == "committed");
    differences.extend(committed.filter(|b| implied.get(&b.backup_id).is_none()).map(|b| Difference::NoManifest(b.backup_id.clone())));
    rows.backups_against(&implied, &texts, &mut differences);
    let points = points(cluster, &implied, &items, &mut differences)?;
    let (drills, unverified) = drills(bucket, cluster, key, &items, &mut differences).await?;
    if key.is_some() {
        rows.drills_against(&drills, &mut differences);
    }
    rows.approvals_against(bucket.name(), &lease, &mut differences);
    let head = head(&read, &implied, &drills, &rows, &mut differences);
    let token = rows.lease_against(&lease, &mut differences).max(lease.token);
    let lease = (lease.clone(), Lease { token, ..lease });
    let recorded: BTreeSet<&str> = items.iter().map(|row| text(row, "sk")).collect();
    // What is recorded stays as it is.
    let drills = drills.into_iter().filter(|drill| !recorded.contains(DrillRecord::key(cluster, &drill.drill_id).sk.as_str())).collect();
    Ok(Comparison { implied, differences, open, unverified, new, drills, points, head, lease })
}

/// Writes what a comparison found missing. Again is the same (I4).
///
/// # Errors
/// `Contended` when the catalog changed since it was compared: compare again. Those of the table.
pub async fn rebuild(catalog: &CatalogTable, cluster: &ClusterId, comparison: &Comparison) -> Result<(), CatalogError> {
    let mut head = comparison.head.clone();
    let (lease, raised) = &comparison.lease;
    if lease != raised {
        write(catalog, cluster, vec![head.next(cluster)?, lease::change(cluster, lease, raised)?]).await?;
    }
    for some in comparison.new.chunks(MARKS) {
        let mut writes = vec![head.next(cluster)?];
        for (record, stored) in some {
            writes.push(Write::create(BackupRecord::key(cluster, &record.backup_id), record)?);
            writes.extend(put_points(stored)?);
        }
        write(catalog, cluster, writes).await?;
    }
    for some in comparison.points.chunks(MARKS) {
        let mut writes = vec![head.next(cluster)?];
        writes.extend(some.iter().cloned());
        write(catalog, cluster, writes).await?;
    }
    for some in comparison.drills.chunks(MARKS) {
        let mut writes = vec![head.next(cluster)?];
        for drill in some {
            writes.push(Write::create(DrillRecord::key(cluster, &drill.drill_id), drill)?);
        }
        write(catalog, cluster, writes).await?;
    }
    let corrects = |d: &Difference| matches!(d, Difference::Head { .. });
    if comparison.head.version == 0 || !comparison.new.is_empty() || comparison.differences.iter().any(corrects) {
        write(catalog, cluster, vec![head.put(cluster)?]).await?;
    }
    Ok(())
}

async fn write(catalog: &CatalogTable, cluster: &ClusterId, writes: Vec<Write>) -> Result<(), CatalogError> {
    match catalog.table().write(writes).await {
        Err(TableError::Condition { .. }) => Err(CatalogError::Contended { cluster: cluster.clone(), doing: "it was rebuilt" }),
        done => Ok(done?),
    }
}

/// The catalog that the manifests imply, and their texts by key.
async fn implied(
    bucket: &Bucket,
    cluster: &ClusterId,
    briefs: &BTreeMap<BackupId, Brief>,
) -> Result<(Catalog, BTreeMap<String, String>), StoreError> {
    let known_otherwise = |id: &BackupId| briefs.get(id).is_some_and(|brief| brief.state != "committed");
    let (mut found, mut texts) = (Vec::new(), BTreeMap::new());
    for (one, text) in read_manifest_texts(bucket, cluster).await? {
        if let Found::Manifest(stored) = &one {
            if known_otherwise(stored.id()) {
                continue;
            }
            texts.insert(stored.key.clone(), text);
        }
        found.push(one);
    }
    Ok((Catalog::rebuild(cluster.clone(), found), texts))
}

/// Compares the points: what has to be written for them to be those of `implied`. A missing point of a missing record is
/// the record's difference.
fn points(cluster: &ClusterId, implied: &Catalog, rows: &[Row], differences: &mut Vec<Difference>) -> Result<Vec<Write>, TableError> {
    let is_point = |sk: &&str| sk.starts_with("lsn#") || sk.starts_with("time#");
    let there: BTreeSet<&str> = rows.iter().map(|row| text(row, "sk")).filter(is_point).collect();
    let recorded: BTreeSet<&str> = rows.iter().filter_map(|row| text(row, "sk").strip_prefix("backup#")).collect();
    let (mut writes, mut wanted) = (Vec::new(), BTreeSet::new());
    for stored in implied.backups() {
        let keys = point_keys(stored);
        for (key, put) in keys.iter().zip(put_points(stored)?) {
            if !there.contains(key.sk.as_str()) && recorded.contains(stored.id().to_string().as_str()) {
                differences.push(Difference::NoPoint(key.sk.clone()));
                writes.push(put);
            }
        }
        wanted.extend(keys.map(|key| key.sk));
    }
    for stray in there.into_iter().filter(|sk| !wanted.contains(*sk)) {
        differences.push(Difference::StrayPoint(stray.to_owned()));
        writes.push(Write::delete(Key::of(cluster, stray)));
    }
    Ok(writes)
}

/// The head as it should be, with the version that was read. `drills` are those that certificates prove.
fn head(read: &Head, implied: &Catalog, drills: &[DrillRecord], rows: &Rows, differences: &mut Vec<Difference>) -> Head {
    let mut head = read.clone().of_backups(implied);
    let text = |id: Option<&BackupId>| id.map_or("none".to_owned(), ToString::to_string);
    let newest = |newest: Option<&HeadPoint>| match newest {
        Some(HeadPoint { backup_id, incarnation, finished_at, last_lsn }) => {
            format!("{backup_id} of {incarnation}, {finished_at}, LSN {last_lsn}")
        }
        None => "none".to_owned(),
    };
    let mut compare = |what, is: String, should: String| {
        if is != should {
            differences.push(Difference::Head { what, is, should });
        }
    };
    compare("newest backup", newest(read.newest.as_ref()), newest(head.newest.as_ref()));
    compare("newest full", text(read.newest_full.as_ref()), text(head.newest_full.as_ref()));
    compare("window", text(read.window_from.as_ref()), text(head.window_from.as_ref()));
    let stand = drills.iter().chain(&rows.drills).filter(|drill| implied.get(&drill.backup_id).is_some());
    let last = stand.filter_map(PassedDrill::of).max_by_key(|passed| passed.at);
    // What the head says of a drill, the drill's own record says too: both were written by one transaction.
    let known = read.last_passed_drill.as_ref();
    let recorded = known.and_then(|known| rows.drills.iter().filter_map(PassedDrill::of).find(|passed| passed.drill_id == known.drill_id));
    let is_right = known.is_none() || recorded.as_ref() == known;
    let is_later = |last: &PassedDrill| known.is_none_or(|known| known.at < last.at);
    match last {
        Some(last) if !is_right || is_later(&last) => {
            let drill = |passed: Option<&PassedDrill>| {
                passed.map_or("none".to_owned(), |passed| format!("{} of {}, {}", passed.drill_id, passed.backup_id, passed.at))
            };
            compare("last passed drill", drill(known), drill(Some(&last)));
            head.last_passed_drill = Some(last);
        }
        // No record and no certificate: what it rests on was put back, or lost.
        None if !is_right => {
            let id = known.map(|known| known.drill_id.clone()).unwrap_or_default();
            differences.push(Difference::PutBack { what: format!("drill {id}"), state: "passed by the head, and not by its record" });
        }
        _ => {}
    }
    head
}

/// A record, or the name and the words of why there is none.
type Proven = Result<DrillRecord, (&'static str, String)>;

/// The drills that certificates prove, and how many were not looked at. What proves nothing, and a drill without a record, are
/// differences.
async fn drills(
    bucket: &Bucket,
    cluster: &ClusterId,
    key: Option<&PublicKey>,
    rows: &[Row],
    differences: &mut Vec<Difference>,
) -> Result<(Vec<DrillRecord>, usize), StoreError> {
    let prefix = format!("{}drills/", cluster_prefix(cluster));
    let keys = bucket.list(&prefix).await?.into_iter().filter(|key| key.rsplit('/').next() == Some(CERTIFICATE_NAME));
    let Some(key) = key else { return Ok((Vec::new(), keys.count())) };
    let read = each(keys, |at| {
        let (bucket, cluster, key) = (bucket.clone(), cluster.clone(), key.clone());
        async move { prove(&bucket, &cluster, &key, &at).await.map(|proven| (at, proven)) }
    });
    let mut read = read.await?;
    read.sort_by(|(a, _), (b, _)| a.cmp(b));
    let recorded: BTreeMap<&str, Option<&str>> =
        rows.iter().map(|row| (text(row, "sk"), row.get("state").and_then(|state| state.as_str()))).collect();
    let mut drills = Vec::new();
    for (key, proven) in read {
        match proven {
            Ok(drill) => match recorded.get(DrillRecord::key(cluster, &drill.drill_id).sk.as_str()) {
                None => {
                    differences.push(Difference::NoDrill(drill.drill_id.clone()));
                    drills.push(drill);
                }
                Some(Some("passed")) => drills.push(drill),
                // It had its certificate when it was recorded as failed: the record is not overruled.
                Some(_) => {}
            },
            Err((name, reason)) => differences.push(Difference::BadCertificate { key, name, reason }),
        }
    }
    Ok((drills, 0))
}

/// What the certificate at `at` proves. The signature is checked before anything is parsed; an object that is gone, cut or far
/// too large proves nothing, one that could not be fetched is an error.
async fn prove(bucket: &Bucket, cluster: &ClusterId, key: &PublicKey, at: &str) -> Result<Proven, StoreError> {
    let beside = format!("{}{SIGNATURE_NAME}", at.strip_suffix(CERTIFICATE_NAME).unwrap_or(at));
    let bytes = match readable(bucket.get(at, None, CertificateV1::MAX_BYTES as u64).await)? {
        Ok(bytes) => bytes,
        Err(reason) => return Ok(Err(("Unreadable", reason))),
    };
    let signature = match readable(bucket.get(&beside, None, SIGNATURE_BYTES).await)? {
        Ok(signature) => signature,
        Err(reason) => return Ok(Err(("Unsigned", reason))),
    };
    let certificate = match verify(&bytes, &signature, key) {
        Ok(certificate) => certificate,
        Err(error) => return Ok(Err((error.name(), error.to_string()))),
    };
    let belongs = format!("{}{CERTIFICATE_NAME}", drill_prefix(&certificate.cluster, &certificate.drill_id));
    if belongs != at || certificate.cluster != *cluster {
        return Ok(Err(("Misplaced", format!("it is genuine, and belongs at {belongs}"))));
    }
    Ok(Ok(DrillRecord::rebuilt(certificate, Pinned::object(bucket.name(), at, Sha256::of(&bytes)))))
}

/// The bytes of an object, or why it has none that can be read.
fn readable<T>(fetched: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match fetched {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Mismatch | StoreErrorKind::Refused) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}
