//! How much memory a prepare may use.

use crate::error::{Error, Result};
use highwater_core::Failure;
use std::fs;
use std::path::Path;

const MIB: u64 = 1 << 20;
/// The least a prepare is given, and the least we start with.
const LEAST: u64 = 128 * MIB;
/// More than this never helped a prepare that fits its redo in memory.
const MOST: u64 = 16 << 30;

/// `--use-memory` for the step with the most redo: twice its redo and 64 MiB, so that recovery reads every page once,
/// but at least 128 MiB and at most half of what the machine has free (downloads, page cache and a server need the rest).
///
/// # Errors
/// `Resources` when not even the least is there.
pub(crate) fn prepare_memory(configured_mib: u64, redo_bytes: u64, available: u64) -> Result<u64> {
    if configured_mib > 0 {
        return Ok(configured_mib.saturating_mul(MIB));
    }
    if available < 2 * LEAST {
        let message = format!("{} MiB of memory are free, a restore needs {} MiB", available / MIB, 2 * LEAST / MIB);
        return Err(Error::new(Failure::Resources, message).hint("free memory, or set restore.prepare_memory_mib to go on regardless"));
    }
    let wanted = redo_bytes.saturating_mul(2).saturating_add(64 * MIB);
    Ok(wanted.min(available / 2).clamp(LEAST, MOST))
}

/// Memory we could use now: `MemAvailable`, or what our control group, or one around it, leaves of it.
pub(crate) fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let group = left_in_groups(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    // A machine that does not say is not refused for it.
    machine.map_or(u64::MAX, |kib| kib.saturating_mul(1024)).min(group)
}

/// Where a version of control groups says what a group has.
struct Groups {
    /// Among the controllers of a line of `/proc/self/cgroup`; version 2 names none.
    controller: &'static str,
    below: &'static str,
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: what the page cache has goes when it is needed.
    cache: &'static str,
}

/// Version 2, and version 1 as RHEL 8 and Amazon Linux 2 have it. A machine limits memory by one of them.
const GROUPS: [Groups; 2] = [
    Groups { controller: "", below: "", limit: "memory.max", used: "memory.current", cache: "inactive_file " },
    Groups {
        controller: "memory",
        below: "memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cache: "total_inactive_file ",
    },
];

/// The least that our group and those around it have left; `membership` is `/proc/self/cgroup`. A unit's own group lies deep below the
/// root: `0::/system.slice/x.service`, `4:memory:/system.slice/x.service`.
fn left_in_groups(root: &Path, membership: &str) -> u64 {
    GROUPS.iter().map(|groups| groups.left(root, membership)).min().unwrap_or(u64::MAX)
}

impl Groups {
    fn left(&self, root: &Path, membership: &str) -> u64 {
        let path = |line: &str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
            controllers.split(',').any(|c| c == self.controller).then(|| path.to_owned())
        };
        let number = |file: &Path| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        let left = |group: &Path| {
            let max = number(&group.join(self.limit))?;
            let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            let cache = stat.lines().find_map(|line| line.strip_prefix(self.cache)?.trim().parse::<u64>().ok()).unwrap_or(0);
            Some(max.saturating_sub(number(&group.join(self.used)).unwrap_or(0).saturating_sub(cache)))
        };
        let root = root.join(self.below);
        let deepest = root.join(membership.lines().find_map(path).unwrap_or_default());
        deepest.ancestors().take_while(|group| group.starts_with(&root)).filter_map(left).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_control_group_around_us_counts_and_its_page_cache_does_not() {
        let root = tempfile::tempdir().unwrap();
        let unit = root.path().join("system.slice/db.service");
        fs::create_dir_all(&unit).unwrap();
        let write = |group: &Path, file: &str, text: &str| fs::write(group.join(file), text).unwrap();
        let membership = "0::/system.slice/db.service\n";
        assert_eq!(left_in_groups(root.path(), membership), u64::MAX, "no limit anywhere");
        write(&unit, "memory.max", "max\n");
        assert_eq!(left_in_groups(root.path(), membership), u64::MAX);
        write(&unit, "memory.max", "1000\n");
        write(&unit, "memory.current", "600\n");
        write(&unit, "memory.stat", "anon 100\ninactive_file 500\n");
        assert_eq!(left_in_groups(root.path(), membership), 900);
        write(unit.parent().unwrap(), "memory.max", "300\n");
        assert_eq!(left_in_groups(root.path(), membership), 300, "the slice's");
        assert_eq!(left_in_groups(root.path(), "1:name=systemd:/x\n"), u64::MAX, "of the root nothing is said");
    }

    #[test]
    fn a_limit_of_version_1_counts_too() {
        let root = tempfile::tempdir().unwrap();
        let unit = root.path().join("memory/system.slice/db.service");
        fs::create_dir_all(&unit).unwrap();
        let write = |group: &Path, file: &str, text: &str| fs::write(group.join(file), text).unwrap();
        let membership = "9:name=systemd:/elsewhere\n4:hugetlb,memory:/system.slice/db.service\n0::/\n";
        write(&unit, "memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(left_in_groups(root.path(), membership), 9_223_372_036_854_771_712, "no limit");
        write(&unit, "memory.limit_in_bytes", "1000\n");
        write(&unit, "memory.usage_in_bytes", "600\n");
        write(&unit, "memory.stat", "inactive_file 1\ntotal_inactive_file 500\n");
        assert_eq!(left_in_groups(root.path(), membership), 900);
        write(&root.path().join("memory"), "memory.limit_in_bytes", "300\n");
        assert_eq!(left_in_groups(root.path(), membership), 300, "that of all groups");
        assert_eq!(left_in_groups(root.path(), "0::/system.slice/db.service\n"), 300, "seen from the outermost group");
    }

    #[test]
    fn memory_follows_the_redo_within_its_bounds() {
        let check = |configured, redo, available, expected: Option<u64>| {
            assert_eq!(prepare_memory(configured, redo * MIB, available * MIB).ok(), expected.map(|m| m * MIB), "{redo} of {available}");
        };
        check(0, 1, 4096, Some(128));
        check(0, 500, 4096, Some(1064));
        check(0, 5000, 4096, Some(2048));
        check(0, 500_000, 1 << 20, Some(16 << 10));
        check(0, 1, 200, None);
        check(300, 5000, 200, Some(300));
        check(0, u64::MAX / MIB, 1000, Some(500));
    }
}
