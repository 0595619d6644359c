//! Which host a cluster's primary is, at the moment it is asked: what goes to a host, and what is approved for one, names an
//! instance and never a tag.

use crate::error::FunctionError;
use crate::serve::Common;
use highwater_aws::ec2::Ec2;
use highwater_core::cluster::{ClusterConfigV1, Primary};
use highwater_core::{Failure, HostId};

/// Finds primaries.
#[derive(Debug, Clone)]
pub struct Primaries {
    ec2: Ec2,
    deployment: String,
}

impl Primaries {
    /// Of this deployment.
    pub fn new(common: &Common) -> Self {
        Self { ec2: Ec2::new(&common.sdk), deployment: common.deployment.clone() }
    }

    /// The primary of a cluster.
    ///
    /// # Errors
    /// `Permanent` when no running instance carries the tag, or several do; `Transient`.
    pub async fn of(&self, config: &ClusterConfigV1) -> Result<HostId, FunctionError> {
        match &config.host {
            Primary::Id(host) => Ok(host.clone()),
            Primary::Tagged(tag) => {
                let found = self.ec2.hosts_tagged(&self.deployment, tag).await?;
                tag.only(found).map_err(|e| FunctionError::of(Failure::Precondition, format!("cluster {}: {e}", config.cluster)))
            }
        }
    }
}
