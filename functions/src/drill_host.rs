//! What a drill's instance is given: its configuration, its script and its disk. Pure: the same drill gets the same bytes.

use crate::error::{FunctionError, Name};
use highwater_core::ids::drill_prefix;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{ClusterId, DrillId, Sha256};

/// The files of a drill, below its prefix.
pub const PLAN_NAME: &str = "plan.json";
/// The helper's configuration.
pub const HOST_NAME: &str = "host.toml";
/// The token with which the instance answers its execution.
pub const TOKEN_NAME: &str = "task-token";
/// The helper's report.
pub const REPORT_NAME: &str = "report.json";

/// The script, with its places to fill in.
const USER_DATA: &str = include_str!("../../infra/drill/user-data.sh");

/// So long an instance waits for its configuration and token: all tries of `launch-drill` and their pauses.
const BOOT_MINUTES: u32 = 15;

/// Well below the state machine's HeartbeatSeconds: a few may be lost.
const HEARTBEAT_SECONDS: u32 = 60;

const GIB: u64 = 1 << 30;

/// `host.toml` of a drill: everything but `host_id`, which the instance puts before it.
///
/// # Errors
/// `Permanent` when the cluster's `drill.checks` are not TOML, or set anything outside `[drill]`: the file decides what the
/// helper does on an instance with this cluster's data.
pub fn host_toml(cluster: &ClusterId, checks: &str) -> Result<String, FunctionError> {
    let text = format!(
        "# The drill section is `drill.checks` of cluster {cluster}, as configured.\ncluster = \"{cluster}\"\n\n[drill]\n{checks}\n"
    );
    let refused = |problem: String| {
        let fix = "expected the keys of the helper's [drill] section (docs/host.toml), without its header: correct it and deploy the stack";
        FunctionError::new(Name::Permanent, format!("Config: clusters.{cluster}.drill.checks {problem}; {fix}"))
    };
    let parsed: toml::Table = text.parse().map_err(|e: toml::de::Error| refused(format!("is not TOML: {}", e.message())))?;
    match parsed.keys().find(|key| !matches!(key.as_str(), "cluster" | "drill")) {
        Some(key) => Err(refused(format!("sets {key}, which is outside [drill]"))),
        None => Ok(text),
    }
}

/// What the script is told. No secret is among it: user data can be read by whoever may describe the instance.
#[derive(Debug, Clone)]
pub struct Boot<'a> {
    /// Where the services are.
    pub region: &'a str,
    /// Where the plan is.
    pub bucket: &'a str,
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The drill.
    pub drill_id: &'a DrillId,
    /// The plan's digest.
    pub plan_sha256: Sha256,
    /// The instance ends itself after so long.
    pub max_hours: u32,
}

/// The script that the instance runs.
pub fn user_data(boot: &Boot<'_>) -> String {
    let place = format!("s3://{}/{}", boot.bucket, drill_prefix(boot.cluster, boot.drill_id));
    let values = [
        ("REGION", boot.region.to_owned()),
        ("DRILL_URI", place.trim_end_matches('/').to_owned()),
        ("PLAN_SHA256", boot.plan_sha256.to_string()),
        ("BOOT_MINUTES", BOOT_MINUTES.to_string()),
        ("MAX_MINUTES", (u64::from(boot.max_hours) * 60).to_string()),
        ("HEARTBEAT_SECONDS", HEARTBEAT_SECONDS.to_string()),
        ("DRILL_ID", boot.drill_id.to_string()),
    ];
    values.iter().fold(USER_DATA.to_owned(), |script, (name, value)| script.replace(&format!("@{name}@"), value))
}

/// Size of the instance's one volume.
///
/// | | |
/// | --- | --- |
/// | the restore at its fullest | as the helper counts it before it fetches a byte; data is decompressed as it comes, nothing else is staged |
/// | a tenth of it | the server: undo and redo it writes while it rolls back and checks, temporary tables of the checks |
/// | 1 GiB | `restore.keep_free_mib`: the helper refuses to start without it |
/// | 16 GiB | the image: system, server, tools, logs |
/// | all of it by 20/19 | ext4 keeps 5 % for root and for itself |
/// | at least 100 GiB | what the launch template says: an image's snapshot may need it |
pub fn volume_gib(plan: &RestorePlanV1) -> u64 {
    let restore = u128::from(plan.peak_bytes());
    let used = restore + restore / 10 + u128::from(17 * GIB);
    let gib = (used * 20 / 19).div_ceil(u128::from(GIB));
    u64::try_from(gib).unwrap_or(u64::MAX).max(100)
}

/// One choice of where and on what to launch: types in their order, and for each the subnets in theirs. After the last the
/// first comes again: capacity returns.
pub fn choice<'a>(types: &'a [String], subnets: &'a [String], launch: u32) -> Option<(&'a str, &'a str)> {
    let n = usize::try_from(launch).ok()?;
    let instance_type = types.get((n / subnets.len().max(1)) % types.len().max(1))?;
    Some((instance_type, subnets.get(n % subnets.len().max(1))?))
}

/// What one launch is known by: EC2 makes one instance for one token. A launch of another type is another request.
pub fn client_token(drill_id: &DrillId, launch: u32) -> String {
    format!("{drill_id}-{launch}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_core::Document;

    fn plan() -> RestorePlanV1 {
        RestorePlanV1::parse(include_bytes!("../../tests/fixtures/v1/plan.json")).unwrap()
    }

    #[test]
    fn checks_say_something_about_the_drill_and_nothing_else() {
        let cluster = "orders".parse().unwrap();
        for good in ["", "check_tables = false", "[[drill.assert]]\nname = \"a\"\nsql = \"SELECT 1\"\nexpect = \"1\""] {
            let text = host_toml(&cluster, good).unwrap();
            let parsed: toml::Table = text.parse().unwrap();
            assert_eq!(parsed["cluster"].as_str(), Some("orders"), "{good}");
            assert!(format!("host_id = \"i-1\"\n{text}").parse::<toml::Table>().is_ok(), "{good}");
        }
        for (bad, why) in [
            ("[server]\nbin_dir = \"/tmp\"", "sets server, which is outside [drill]"),
            ("[promote]\ndatadir = \"/\"", "sets promote"),
            ("user = 'x'\n[[drill.assert]]\n[backup]", "sets backup"),
            ("[drill]\nuser = \"x\"", "is not TOML"),
            ("user = ", "is not TOML"),
        ] {
            let error = host_toml(&cluster, bad).unwrap_err();
            assert_eq!(error.name, Name::Permanent);
            assert!(error.message.contains(why) && error.message.contains("clusters.orders.drill.checks"), "{}", error.message);
        }
    }

    #[test]
    fn the_script_is_filled_in_and_the_same_every_time() {
        let (cluster, drill_id) = ("orders".parse().unwrap(), "20261122T090000Z-4f7c90ab".parse().unwrap());
        let boot = Boot {
            region: "eu-west-1",
            bucket: "backups",
            cluster: &cluster,
            drill_id: &drill_id,
            plan_sha256: Sha256::of(b"plan"),
            max_hours: 8,
        };
        let script = user_data(&boot);
        assert!(script.contains("drill='s3://backups/v1/orders/drills/20261122T090000Z-4f7c90ab'"), "{script}");
        assert!(script.contains("max_minutes='480'"), "{script}");
        let places = script.match_indices('@').filter(|(at, _)| script[at + 1..].starts_with(|c: char| c.is_ascii_uppercase()));
        assert_eq!(places.map(|(at, _)| &script[at..at + 14]).collect::<Vec<_>>(), ["@PLACEHOLDERS@"], "only the comment's");
        assert_eq!(user_data(&boot), script);
        assert!(script.len() < 16_384, "EC2's limit");
    }

    #[test]
    fn the_volume_holds_the_restore_at_its_fullest_and_never_less_than_the_template() {
        let mut plan = plan();
        assert_eq!(volume_gib(&plan), 100);
        plan.steps[0].raw_bytes = 1000 * GIB;
        let gib = volume_gib(&plan);
        assert!((1170..1190).contains(&gib), "{gib}");
        let free = gib * 19 / 20 - 16;
        assert!(free * GIB > plan.peak_bytes() + GIB, "the helper's own check passes");
        plan.steps[0].raw_bytes = u64::MAX;
        assert!(volume_gib(&plan) > 1 << 30, "no overflow");
    }

    #[test]
    fn types_are_tried_in_order_in_every_subnet_each_by_a_token_of_its_own() {
        let (types, subnets) = (["a", "b"].map(String::from), ["x", "y"].map(String::from));
        let tried: Vec<_> = (0..5).filter_map(|n| choice(&types, &subnets, n)).collect();
        assert_eq!(tried, [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("a", "x")]);
        assert_eq!(choice(&types, &[], 0), None);
        let id = "20261122T090000Z-4f7c90ab".parse().unwrap();
        assert_eq!(
            (client_token(&id, 0), client_token(&id, 1)),
            ("20261122T090000Z-4f7c90ab-0".into(), "20261122T090000Z-4f7c90ab-1".into())
        );
    }
}
