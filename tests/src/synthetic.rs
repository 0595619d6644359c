//! Synthetic backups: objects of a few bytes, published in the right order, so that what reads them sees what S3 really answers;
//! and catalogs of many backups that exist as records only.

use crate::{Cloud, block_on};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::backups::{Asked, BackupRecord, Committed, put_points};
use highwater_aws::catalog::head::Head;
use highwater_aws::s3::{Bucket, Stored};
use highwater_aws::table::{Table, Write};
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::lease::{Holder, Purpose};
use highwater_core::manifest::{ManifestV1, ObjectRef, ParentLink, Strategy};
use highwater_core::schedule::Force;
use highwater_core::{BackupId, BackupKind, Document, Lsn, Sha256};
use jiff::SignedDuration;
use serde_json::json;

/// A full, or the child of `parent`, of so many hours after the sample manifest's.
fn manifest(hour: i64, parent: Option<&(ManifestV1, Sha256)>) -> ManifestV1 {
    let mut m = ManifestV1::parse(include_bytes!("../fixtures/v1/manifest.json")).expect("the sample manifest");
    let later = SignedDuration::from_hours(hour);
    (m.started_at, m.finished_at) = (m.started_at + later, m.finished_at + later);
    m.kind = if parent.is_some() { BackupKind::Incremental } else { BackupKind::Full };
    m.backup_id = BackupId::new(m.started_at, m.kind, 1);
    // Later is further, also from chain to chain.
    let further = |lsn: Lsn| Lsn::new(lsn.get().saturating_add_signed(hour * 1000));
    (m.to_lsn, m.last_lsn) = (further(m.to_lsn), further(m.last_lsn));
    if let Some((parent, sha256)) = parent {
        let link = ParentLink {
            backup_id: parent.backup_id.clone(),
            to_lsn: parent.to_lsn,
            manifest_sha256: *sha256,
            strategy: Strategy::Incremental,
        };
        (m.parent, m.from_lsn) = (Some(link), parent.to_lsn);
    }
    let prefix = m.key().replace("manifest.json", "");
    m.objects[0].key = format!("{prefix}data-000");
    m.inventory.object.key = format!("{prefix}inventory.json.zst");
    m
}

/// A backup of `orders`: a full, or the child of `parent`, of so many hours after 22 November 2026, 02:00 UTC; published, with
/// what S3 says of its objects.
pub fn publish(bucket: &Bucket, hour: i64, parent: Option<&(ManifestV1, Sha256)>) -> (ManifestV1, Sha256) {
    let mut m = manifest(hour, parent);
    block_on(async {
        let data: Vec<u8> = m.backup_id.to_string().into_bytes();
        let object = &mut m.objects[0];
        object.size = data.len() as u64;
        object.table_offset = 8;
        let Stored { version_id } = bucket.put_new(&object.key, data.into(), "application/zstd").await.expect("put data");
        let head = bucket.head(&object.key, version_id.as_deref()).await.expect("head data");
        (object.version_id, object.crc64nvme) = (version_id, head.crc64nvme.unwrap_or_else(|| "not kept here".into()));
        m.stored_bytes = object.size;
        let key = m.inventory.object.key.clone();
        let version_id = bucket.put_new(&key, "inventory".into(), "application/zstd").await.expect("put the inventory").version_id;
        m.inventory.object = ObjectRef { key, version_id, size: 9, sha256: Sha256::of(b"inventory") };
        let bytes = m.to_bytes();
        let sha256 = Sha256::of(&bytes);
        bucket.put_new(&m.key(), bytes.into(), "application/json").await.expect("put the manifest");
        (m, sha256)
    })
}

/// Adds chains of a full and 24 incrementals, a backup an hour, to the catalog of `orders`, from chain `from` to chain `to`: their
/// records and points, and the head. Nothing is in any bucket.
pub fn add_chains(table: &Table, from: i64, to: i64) {
    const LENGTH: i64 = 25;
    let cluster = "orders".parse().expect("a cluster");
    for chain in from..to {
        let (mut catalog, mut parent) = (Catalog::new("orders".parse().expect("a cluster")), None);
        let mut writes = Vec::new();
        for hour in chain * LENGTH..(chain + 1) * LENGTH {
            let m = manifest(hour, parent.as_ref());
            let bytes = m.to_bytes();
            let stored = StoredManifest::parse(m.key(), Some("v".into()), &bytes).expect("a manifest");
            catalog.commit(stored.clone()).expect("a sound chain");
            let text = String::from_utf8(bytes).expect("JSON");
            let committed = Committed::of(&catalog, &stored, text, m.finished_at).expect("a path");
            writes
                .push(Write::put(BackupRecord::key(&cluster, &m.backup_id), &BackupRecord::rebuilt(&stored, committed)).expect("a record"));
            writes.extend(put_points(&stored).expect("points"));
            parent = Some((m, stored.sha256));
        }
        if chain + 1 == to {
            let head = block_on(table.get::<Head>(&Head::key(&cluster))).expect("read the head").unwrap_or_default();
            writes.push(head.of_backups(&catalog).put(&cluster).expect("a head"));
        }
        block_on(table.write(writes)).expect("write a chain");
    }
}

/// Begins the next backup of a catalog that [`add_chains`] made, `hour` hours after its first: an incremental of the newest, as
/// start-backup records it. Gives its manifest, with the text, as the helper would publish it.
pub fn begin_next(catalog: &CatalogTable, hour: i64) -> (StoredManifest, String) {
    let cluster = "orders".parse().expect("a cluster");
    block_on(async {
        let window = catalog.window(&cluster).await.expect("the window");
        let newest = window.catalog.newest().expect("a newest backup");
        let m = manifest(hour, Some(&(newest.manifest.clone(), newest.sha256)));
        let lease = catalog.lease(&cluster).await.expect("the lease");
        let expires_at = m.finished_at + SignedDuration::from_hours(1);
        let holder = Holder { operation: m.backup_id.to_string(), purpose: Purpose::Backup, expires_at };
        let taken = lease.take(holder, m.started_at).expect("a free lease");
        let asked = Asked {
            token: taken.token,
            host: m.source.host_id.clone(),
            at: m.started_at,
            lease_expires_at: expires_at,
            force: Force::Nothing,
            reason: "the next one".into(),
            request_key: format!("v1/orders/requests/{}.json", m.backup_id),
            request_sha256: m.request_sha256,
            request: "{}".into(),
        };
        let parent = m.parent.as_ref().map(|link| link.backup_id.clone());
        let record = BackupRecord::requested(m.cluster.clone(), m.backup_id.clone(), m.incarnation.clone(), parent, asked);
        catalog.begin_backup(&window, (&lease, &taken), &record, None).await.expect("begin a backup");
        let bytes = m.to_bytes();
        let stored = StoredManifest::parse(m.key(), Some("v".into()), &bytes).expect("a manifest");
        (stored, String::from_utf8(bytes).expect("JSON"))
    })
}

/// Manifests of so many backups, in chains of 25, as they lie in a bucket.
pub fn chains_of(backups: i64) -> Vec<StoredManifest> {
    let mut parent = None;
    let one = |hour: i64| {
        let m = manifest(hour, parent.as_ref().filter(|_| hour % 25 != 0));
        let stored = StoredManifest::parse(m.key(), Some("v".into()), &m.to_bytes()).expect("a manifest");
        parent = Some((m, stored.sha256));
        stored
    };
    (0..backups).map(one).collect()
}

/// A table `catalog` with the keys of the stack's, on a cloud where nothing is deployed.
pub fn catalog_table(cloud: &Cloud) -> Table {
    let key = |name: &str, kind: &str| json!({"AttributeName": name, "KeyType": kind});
    let text = |name: &str| json!({"AttributeName": name, "AttributeType": "S"});
    let request = json!({
        "TableName": "catalog", "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [key("pk", "HASH"), key("sk", "RANGE")], "AttributeDefinitions": [text("pk"), text("sk")],
    });
    cloud.aws("dynamodb", "DynamoDB_20120810.CreateTable", &request).unwrap_or_else(|e| panic!("{e:?}"));
    Table::new(&cloud.sdk(), "catalog")
}
