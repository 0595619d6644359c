//! The window of a catalog: the newest chain and what ran beside it. Decisions on the window are decisions on the whole,
//! so that the time they take does not grow with the number of backups.
//!
//! Why the rest never matters to the next backup: everything outside finished before the newest full began. In its
//! incarnation its LSNs are therefore no greater, and its source is the same; every earlier incarnation has ended; and
//! what could be its child, being younger than its parent, is inside. A manifest for which this is not so by itself (it
//! did not start after the newest ended, or names an older parent) is judged on the whole: [`Catalog::suffices_for`].

use crate::catalog::{Catalog, StoredManifest};
use crate::ids::BackupId;

impl Catalog {
    /// The least id of the window: it holds every backup from this id on. `None` for an empty catalog. The window of a
    /// window is the same.
    pub fn window_from(&self) -> Option<&BackupId> {
        let since = self.newest_full()?.manifest.started_at;
        self.backups().find(|b| b.manifest.finished_at >= since).map(StoredManifest::id)
    }

    /// Whether this catalog, a window that begins at `from`, gives the verdict on `new` that the whole gives.
    pub fn suffices_for(&self, new: &StoredManifest, from: &BackupId) -> bool {
        let (Some(newest), Some(full)) = (self.newest(), self.newest_full()) else {
            return false;
        };
        let m = &new.manifest;
        let parent_is_inside = |id: &BackupId| self.get(id).is_some_and(|p| p.manifest.finished_at >= full.manifest.started_at);
        m.started_at > newest.manifest.finished_at
            && m.incarnation >= newest.manifest.incarnation
            && m.backup_id >= *from
            && m.parent.as_ref().is_none_or(|link| parent_is_inside(&link.backup_id))
    }
}
