//! The invariants, asked after every step. They judge by the truth that only the model knows, not by what was recorded.

use super::state::*;
use highwater_core::BackupKind;
use highwater_core::catalog::{Catalog, StoredManifest};

/// The first invariant that the step from `before` to `after` breaks.
pub(super) fn check(before: &State, after: &State) -> Result<(), String> {
    for (op, item) in after.items.iter().enumerate() {
        let was = before.items.get(op).map_or(Phase::Open, |item| item.phase);
        let rule = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what} (backup {op})")) };
        let committed_now = was != Phase::Committed && item.phase == Phase::Committed;
        if committed_now && !after.upset {
            rule(before.owns(op), "I3: a backup was committed without its lease")?;
        }
        rule(was != Phase::Committed || item.phase != Phase::Failed, "I4: a committed backup became a failed one")?;
        rule(was != Phase::Failed || item.phase != Phase::Committed || after.upset, "I4: a failed backup became a committed one")?;
        let failed_now = was == Phase::Open && item.phase == Phase::Failed;
        rule(!failed_now || item.disturbed || after.upset, "I4: a backup that nothing disturbed was not committed")?;
        let replaced = match (before.bucket.get(op), &after.bucket[op]) {
            (Some(Some(was)), Some(is)) => was.manifest.1 != is.manifest.1,
            _ => false,
        };
        rule(!replaced, "I1: a manifest was replaced")?;
        let new = before.items.len() == op;
        let continues = item.request.kind == BackupKind::Incremental;
        rule(!(new && continues && before.owes), "I2: after a failure or an exchange the chain was continued")?;
        rule(item.phase == Phase::Open || !after.owns(op), "I4: an operation that has ended holds the lease")?;
        let alone =
            after.host.exchange && !before.host.exchange && item.phase == Phase::Open && after.owns(op) && !after.promotion_disturbed;
        rule(!alone, "I3: data is exchanged while a backup has the lease")?;
    }
    if after.promotion == Promotion::Settled && after.lease.holder() == Some(PROMOTION) {
        return Err("I4: a promotion that has ended holds the lease".into());
    }
    if after.host.exchange && after.host.backup.is_some() {
        return Err("I3: a helper streams while the data is exchanged".into());
    }
    one_holder(before, after)?;
    let changed =
        before.head.version != after.head.version || before.bucket.iter().flatten().count() != after.bucket.iter().flatten().count();
    if changed { sound(after) } else { Ok(()) }
}

/// I3: nobody takes the lease from an operation whose time is not over.
fn one_holder(before: &State, after: &State) -> Result<(), String> {
    let taken = before.lease.holder().is_some() && after.lease.holder() != before.lease.holder();
    let ended = before.items.iter().zip(&after.items).any(|(was, is)| {
        was.phase == Phase::Open && is.phase != Phase::Open && { before.lease.holder() == Some(was.id().to_string().as_str()) }
    });
    let settled = before.lease.holder() == Some(PROMOTION) && after.promotion == Promotion::Settled;
    if taken && !before.lease.expired && !ended && !settled {
        return Err(format!("I3: {} lost a lease that had not expired", before.lease.holder().unwrap_or_default()));
    }
    Ok(())
}

/// Every committed restore point restores what the server held, and the bucket alone says the same.
fn sound(s: &State) -> Result<(), String> {
    let whole = s.whole();
    for backup in s.committed() {
        if s.bucket[backup].is_none() {
            return Err(format!("I6: the data of a committed backup is gone (backup {backup})"));
        }
    }
    restores_what_was_held(s, &whole, "I2", "a committed backup")?;
    let again =
        Catalog::rebuild(whole.cluster().clone(), whole.backups().map(|b| highwater_core::catalog::Found::Manifest(Box::new(b.clone()))));
    if let Some(rejected) = again.rejected().first() {
        return Err(format!("I2: together, the committed backups break the chain rules: {}", rejected.refusal));
    }
    restores_what_was_held(s, &s.rebuilt(), "I1", "a backup that a rebuild commits")?;
    let full = |op: &usize| s.items[*op].request.kind == BackupKind::Full;
    let ever = s.items.iter().any(|item| matches!(item.phase, Phase::Pruning | Phase::Gone));
    if ever && !s.committed().any(|op| full(&op)) {
        return Err("I6: the last full was given up".into());
    }
    match s.proven {
        Some(op) if s.items[op].phase != Phase::Committed => {
            Err(format!("I6: the last chain with a passed drill was given up (backup {op})"))
        }
        _ => Ok(()),
    }
}

fn restores_what_was_held(s: &State, catalog: &Catalog, invariant: &str, what: &str) -> Result<(), String> {
    for backup in catalog.backups() {
        let path = catalog.path_to(backup.id()).map_err(|broken| format!("{invariant}: {what} cannot be restored: {broken}"))?;
        let content = |id| s.op(id).and_then(|op| s.bucket[op].as_ref());
        let series = |step: &&StoredManifest| step.manifest.source.version.series();
        if path.windows(2).any(|two| series(&two[0]) != series(&two[1])) {
            return Err(format!("{invariant}: {what} needs two series of servers to be restored ({})", backup.id()));
        }
        let restored = path.iter().filter_map(|step| content(step.id())).fold(0, |all, p| all | p.content);
        let held = content(backup.id()).map_or(0, |p| p.held);
        if restored != held {
            return Err(format!("{invariant}: {what} restores other data than it was taken from ({})", backup.id()));
        }
    }
    Ok(())
}
