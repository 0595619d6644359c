//! The inventory object: stored beside the data, pinned by the manifest.

use crate::error::{Context, Error, Result};
use bytes::Bytes;
use highwater_aws::s3::Bucket;
use highwater_core::inventory::InventoryV1;
use highwater_core::manifest::{InventoryRef, ObjectRef};
use highwater_core::{Document, Failure, Sha256};
use std::io::Read;

/// Its level: small text, read rarely.
const LEVEL: i32 = 6;
/// The most bytes stored.
const STORED_LIMIT: u64 = 64 << 20;

/// Stores the inventory at `<prefix>inventory-<attempt>.json.zst`. Storing the same one again is success.
///
/// # Errors
/// `Document` when the key holds another one; what the store says.
pub async fn store_inventory(bucket: &Bucket, prefix: &str, attempt: u16, inventory: &InventoryV1) -> Result<InventoryRef> {
    let context = || "compress the inventory".to_owned();
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL).context(Failure::Resources, context)?;
    serde_json::to_writer(&mut encoder, inventory).context(Failure::Resources, context)?;
    let bytes = Bytes::from(encoder.finish().context(Failure::Resources, context)?);
    let key = format!("{prefix}inventory-{attempt:04x}.json.zst");
    let (size, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
    let stored = bucket.put_new(&key, bytes, "application/zstd").await?;
    Ok(InventoryRef {
        object: ObjectRef { key, version_id: stored.version_id, size, sha256 },
        files: inventory.files.len() as u64,
        tables: inventory.tables.len() as u64,
    })
}

/// Loads the inventory that a manifest names: compared with its digest before anything is read from it, and expanded within a bound.
///
/// # Errors
/// `Damaged` when it is not the one that was stored; what the store says.
pub async fn load_inventory(bucket: &Bucket, at: &InventoryRef) -> Result<InventoryV1> {
    let ObjectRef { key, version_id, size, sha256 } = &at.object;
    let damaged = |what: String| Error::new(Failure::Damaged, format!("the inventory {key} is damaged: {what}"));
    if *size > STORED_LIMIT {
        return Err(damaged(format!("{size} bytes are more than {STORED_LIMIT}")));
    }
    let bytes = bucket.get(key, version_id.as_deref(), STORED_LIMIT).await?;
    let found = Sha256::of(&bytes);
    if found != *sha256 {
        return Err(damaged(format!("it has SHA-256 {found}, expected {sha256}")));
    }
    let mut json = Vec::new();
    let limit = InventoryV1::MAX_BYTES as u64;
    let decoder = zstd::Decoder::new(&bytes[..]).context(Failure::Damaged, || format!("read the inventory {key}"))?;
    decoder.take(limit + 1).read_to_end(&mut json).context(Failure::Damaged, || format!("read the inventory {key}"))?;
    let inventory = InventoryV1::parse(&json).context(Failure::Damaged, || format!("read the inventory {key}"))?;
    if inventory.files.len() as u64 != at.files || inventory.tables.len() as u64 != at.tables {
        return Err(damaged("it lists other numbers of files or tables than the manifest says".into()));
    }
    Ok(inventory)
}
