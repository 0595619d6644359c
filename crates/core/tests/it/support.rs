//! Manifests to judge. `Sample` is a valid full; a test changes what it is about.

use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::identity::{BinlogPosition, ServerSettings, SourceIdentity, ToolName, Vendor};
use highwater_core::ids::backup_prefix;
use highwater_core::manifest::{DataObject, InventoryRef, ManifestV1, ObjectRef, ParentLink, Strategy, ToolInfo};
use highwater_core::{BackupId, BackupKind, ClusterId, Document, Incarnation, Lsn, Sha256};
use jiff::{SignedDuration, Timestamp};

/// Minute `n` of the test's day.
pub(crate) fn minute(n: i64) -> Timestamp {
    "2026-11-22T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(n)
}

pub(crate) fn cluster() -> ClusterId {
    "orders".parse().unwrap()
}

pub(crate) fn source() -> SourceIdentity {
    SourceIdentity {
        host_id: "db-1".parse().unwrap(),
        vendor: Vendor::Mariadb,
        version: "10.11.19".parse().unwrap(),
        server_uid: "Zm9vYmFy".into(),
        datadir_id: "1442-1700000000".into(),
    }
}

pub(crate) fn tool() -> ToolInfo {
    ToolInfo { name: ToolName::MariadbBackup, version: "10.11.19".parse().unwrap() }
}

pub(crate) fn binlog(position: u64) -> BinlogPosition {
    BinlogPosition { file: "binlog.000001".into(), position, gtid: format!("0-1-{position}") }
}

/// A full of minute `at` to `at + 5`, whose checkpoint is `to` and whose redo ends 10 later.
pub(crate) fn full(at: i64, to: u64) -> ManifestV1 {
    let (cluster, incarnation) = (cluster(), Incarnation::new(minute(0), 0xaaaa));
    let backup_id = BackupId::new(minute(at), BackupKind::Full, 1);
    ManifestV1 {
        format: ManifestV1::FORMAT.into(),
        parent: None,
        kind: BackupKind::Full,
        request_sha256: Sha256::of(backup_id.to_string().as_bytes()),
        from_lsn: Lsn::ZERO,
        to_lsn: Lsn::new(to),
        last_lsn: Lsn::new(to + 10),
        started_at: minute(at),
        finished_at: minute(at + 5),
        tool: tool(),
        source: source(),
        settings: ServerSettings { innodb_page_size: 16384, lower_case_table_names: 0, encrypted: false },
        binlog: Some(binlog(to)),
        redo_bytes: 10,
        raw_bytes: 1000,
        stored_bytes: 0,
        objects: Vec::new(),
        inventory: InventoryRef {
            object: ObjectRef { key: String::new(), version_id: None, size: 7, sha256: Sha256::of(b"inventory") },
            files: 3,
            tables: 1,
        },
        helper_version: "0.1.0".into(),
        cluster,
        incarnation,
        backup_id,
    }
}

/// A child of `parent`, of minute `at` to `at + 5`.
pub(crate) fn child(parent: &StoredManifest, strategy: Strategy, at: i64, to: u64) -> ManifestV1 {
    let p = &parent.manifest;
    ManifestV1 {
        backup_id: BackupId::new(minute(at), BackupKind::Incremental, 1),
        incarnation: p.incarnation.clone(),
        kind: BackupKind::Incremental,
        parent: Some(ParentLink { backup_id: p.backup_id.clone(), to_lsn: p.to_lsn, manifest_sha256: parent.sha256, strategy }),
        from_lsn: p.to_lsn,
        source: p.source.clone(),
        tool: p.tool.clone(),
        settings: p.settings.clone(),
        ..full(at, to)
    }
}

/// Stores a manifest where it belongs: gives it objects below its own prefix and its digest.
pub(crate) fn store(mut manifest: ManifestV1) -> StoredManifest {
    let prefix = backup_prefix(&manifest.cluster, &manifest.incarnation, &manifest.backup_id);
    if manifest.objects.is_empty() {
        manifest.inventory.object.key = format!("{prefix}inventory.json.zst");
        manifest.stored_bytes = 500;
        manifest.objects = vec![DataObject {
            key: format!("{prefix}data-000"),
            version_id: Some("v1".into()),
            size: 500,
            raw_bytes: 1000,
            crc64nvme: "AAAAAAAAAAA=".into(),
            frames: 1,
            table_offset: 450,
            table_sha256: Sha256::of(b"table"),
        }];
    }
    let bytes = manifest.to_bytes();
    StoredManifest { key: manifest.key(), version_id: None, size: bytes.len() as u64, sha256: Sha256::of(&bytes), manifest }
}

pub(crate) fn catalog_of(stored: &[&StoredManifest]) -> Catalog {
    let mut catalog = Catalog::new(cluster());
    for one in stored {
        catalog.commit((*one).clone()).unwrap();
    }
    catalog
}

pub(crate) fn found(stored: &[&StoredManifest]) -> Vec<Found> {
    stored.iter().map(|s| Found::Manifest(Box::new((*s).clone()))).collect()
}
