//! `launch-drill`: one instance for one drill, and the task's token for it.
//!
//! In this order: the helper's configuration beside the plan; for every launch first its number in the record, then the
//! launch, which EC2 makes once for its token; the instance in the record; the task's token beside the plan, last of all.
//! Until then any failure may be tried again, and meets its own instance. Afterwards another try has another token, which
//! the instance will never hear of: it fails for good, and the machine ends the instance.
//! What a crash leaves: an instance that finds no token and ends itself; its tag leads the machine and `reconcile` to it.

use crate::drill_host::{self, Boot, HOST_NAME, TOKEN_NAME};
use crate::error::{FunctionError, Name};
use crate::plan_restore::Drill;
use crate::serve::{Common, variable};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::drills::{DrillRecord, LaunchedOn, State};
use highwater_aws::ec2::{Ec2, Launch, Launched, Volume};
use highwater_aws::s3::{Bucket, StoreErrorKind};
use highwater_aws::ssm::Ssm;
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::ids::drill_prefix;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, HostId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Step Functions' tokens are at most this long.
const TOKEN_BYTES: u64 = 2048;

/// The event, made by the state machine.
#[derive(Debug, Clone, Deserialize)]
struct Event {
    drill: Drill,
    token: String,
}

/// The answer; nobody waits for it, the task ends by its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The instance.
    pub instance: HostId,
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct LaunchDrill {
    catalog: CatalogTable,
    bucket: Bucket,
    ssm: Ssm,
    ec2: Ec2,
    region: String,
    deployment: String,
    clusters: String,
    template: String,
    subnets: Vec<String>,
    root_device: String,
    volume_key: String,
}

impl LaunchDrill {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        let Common { sdk, deployment, clusters, table, bucket } = common;
        Ok(Self {
            catalog: CatalogTable::new(table),
            bucket,
            ssm: Ssm::new(&sdk),
            ec2: Ec2::new(&sdk),
            region: variable("AWS_REGION")?,
            deployment,
            clusters,
            template: variable("HIGHWATER_LAUNCH_TEMPLATE")?,
            subnets: variable("HIGHWATER_SUBNETS")?.split(',').map(str::to_owned).collect(),
            root_device: variable("HIGHWATER_ROOT_DEVICE")?,
            volume_key: variable("HIGHWATER_VOLUME_KEY")?,
        })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `Transient` while another try may still launch, a lack of capacity included; `Permanent` once the token of another try
    /// lies beside the plan.
    pub async fn handle(&self, event: Value) -> Result<Answer, FunctionError> {
        let Event { drill, token } =
            serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, "the drill machine makes this event"))?;
        let Drill { cluster, drill_id, .. } = &drill;
        let unknown =
            || FunctionError::new(Name::Permanent, format!("the catalog has no drill {drill_id} of {cluster}: start a new execution"));
        let record = self.catalog.drill(cluster, drill_id).await?.filter(|r| r.plan == drill.plan).ok_or_else(unknown)?;
        if let Some(answer) = self.handed_over(&record, &token).await? {
            return Ok(answer);
        }
        let prefix = drill_prefix(cluster, drill_id);
        let config = self.ssm.cluster(&self.clusters, cluster).await?;
        let host = drill_host::host_toml(cluster, &config.drill.checks)?;
        match self.bucket.put_new(&format!("{prefix}{HOST_NAME}"), host.into(), "application/toml").await {
            // Deployed anew between two tries: the first try's stays.
            Err(error) if error.kind != StoreErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let (record, launch, instance) = match &record.state {
            State::Running { launch, instance, .. } => (record.clone(), *launch, instance.clone()),
            _ => self.launch(record, &config).await?,
        };
        let running = State::Running { launch, instance: instance.clone(), task_token: token.clone(), launched_at: Timestamp::now() };
        self.catalog.move_drill(&record, running).await?;
        self.bucket.put_new(&format!("{prefix}{TOKEN_NAME}"), token.into(), "text/plain").await.map_err(|error| match error.kind {
            StoreErrorKind::AlreadyExists => too_late(&record),
            _ => error.into(),
        })?;
        tracing::info!(%cluster, %drill_id, %instance, "launched");
        Ok(Answer { instance })
    }

    /// Whether this very try did everything before, its reply lost.
    async fn handed_over(&self, record: &DrillRecord, token: &str) -> Result<Option<Answer>, FunctionError> {
        let key = format!("{}{TOKEN_NAME}", drill_prefix(&record.cluster, &record.drill_id));
        let stored = match self.bucket.get(&key, None, TOKEN_BYTES).await {
            Ok(stored) => Some(stored),
            Err(error) if error.kind == StoreErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        match (stored, &record.state) {
            (Some(stored), State::Running { instance, .. }) if stored == token.as_bytes() => {
                Ok(Some(Answer { instance: instance.clone() }))
            }
            (Some(_), _) => Err(too_late(record)),
            (None, state) if state.has_ended() => {
                let message = format!("drill {} of {} has {}: start a new execution", record.drill_id, record.cluster, state.name());
                Err(FunctionError::new(Name::Permanent, message))
            }
            (None, _) => Ok(None),
        }
    }

    /// Launches, from the launch on that may be under way, until there is an instance or every choice was tried once.
    async fn launch(&self, mut record: DrillRecord, config: &ClusterConfigV1) -> Result<(DrillRecord, u32, HostId), FunctionError> {
        let plan = self.plan(&record).await?;
        let user_data = drill_host::user_data(&Boot {
            region: &self.region,
            bucket: self.bucket.name(),
            cluster: &record.cluster,
            drill_id: &record.drill_id,
            plan_sha256: record.plan.sha256,
            max_hours: config.drill.timeout_hours,
        });
        let types = &config.drill.instance_types;
        let choices = u32::try_from(types.len() * self.subnets.len()).unwrap_or(u32::MAX);
        let first = if let State::Launching { launch } = record.state { launch } else { 0 };
        let mut lacks = Vec::new();
        for launch in first..first.saturating_add(choices) {
            let Some((instance_type, subnet)) = drill_host::choice(types, &self.subnets, launch) else { break };
            if record.state != (State::Launching { launch }) {
                record = self.catalog.move_drill(&record, State::Launching { launch }).await?;
            }
            let request = Launch {
                client_token: drill_host::client_token(&record.drill_id, launch),
                template: &self.template,
                image: &config.drill.image,
                instance_type,
                subnet,
                profile: format!("{}-drill-{}", self.deployment, record.cluster),
                volume: Volume { device: &self.root_device, gib: drill_host::volume_gib(&plan), key: &self.volume_key },
                user_data: &user_data,
                tags: vec![
                    ("highwater:deployment", self.deployment.clone()),
                    ("highwater:purpose", "drill".to_owned()),
                    ("highwater:drill", record.drill_id.to_string()),
                    ("highwater:cluster", record.cluster.to_string()),
                ],
            };
            match self.ec2.launch(&request).await? {
                Launched::Instance(instance) => {
                    let (instance_type, volume_gib) = (instance_type.to_owned(), drill_host::volume_gib(&plan));
                    let launched = Some(LaunchedOn { instance_type, volume_gib, at: Timestamp::now() });
                    return Ok((DrillRecord { launched, ..record }, launch, instance));
                }
                Launched::NoCapacity(why) => {
                    tracing::warn!(drill_id = %record.drill_id, instance_type, subnet, why, "no instance to be had here");
                    lacks.push(format!("{instance_type} in {subnet}: {why}"));
                }
            }
        }
        let message = format!(
            "EC2 has no instance for drill {} of {}: {}; add types to drill.instance_types if this stays",
            record.drill_id,
            record.cluster,
            lacks.join("; ")
        );
        Err(FunctionError::new(Name::Transient, message))
    }

    async fn plan(&self, record: &DrillRecord) -> Result<RestorePlanV1, FunctionError> {
        let foreign = || FunctionError::new(Name::Permanent, format!("the plan {} is not in {}", record.plan.uri, self.bucket.name()));
        let key = record.plan.key_in(self.bucket.name()).ok_or_else(foreign)?;
        let bytes = self.bucket.get(key, None, RestorePlanV1::MAX_BYTES as u64).await?;
        Ok(RestorePlanV1::parse_pinned(&bytes, record.plan.sha256)?)
    }
}

fn too_late(record: &DrillRecord) -> FunctionError {
    let message = format!(
        "an earlier try of this step handed its task token to the instance of drill {} of {}, which cannot answer this one: start a new execution",
        record.drill_id, record.cluster
    );
    FunctionError::new(Name::Permanent, message)
}
