//! A deployment, as the stack describes it to the operator's command: one SSM parameter, `/<name>/deployment`.

use crate::cost::CostConfig;
use crate::document::Document;
use serde::{Deserialize, Serialize};

/// A deployment, version 1. Written by `infra/cdk`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentV1 {
    /// `highwater.deployment.v1`.
    pub format: String,
    /// Its name.
    pub deployment: String,
    /// Where backups lie.
    pub bucket: String,
    /// The catalog.
    pub table: String,
    /// Path of the clusters' parameters: `<path>/<cluster>`.
    pub clusters: String,
    /// Where promotions are asked for and decided.
    pub approval_url: String,
    /// The function that starts backups: its name.
    pub start_backup: String,
    /// The machine of drills: its ARN.
    pub drill_machine: String,
    /// The machine of promotions: its ARN.
    pub promotion_machine: String,
    /// The key that signs certificates: its ARN.
    pub signing_key: String,
    /// Cap and prices.
    pub cost: CostConfig,
}

impl DeploymentV1 {
    /// The parameter's name.
    pub fn parameter(deployment: &str) -> String {
        format!("/{deployment}/deployment")
    }
}

impl Document for DeploymentV1 {
    const FORMAT: &'static str = "highwater.deployment.v1";

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        self.cost.prices.check()
    }
}
