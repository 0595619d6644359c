//! Which deployment a command is about: found by its name with one read, or told piece by piece.

use crate::error::{Error, Result};
use highwater_aws::SdkConfig;
use highwater_aws::call::{CallErrorKind, sdk_config};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::s3::Bucket;
use highwater_aws::ssm::{ConfigError, Ssm};
use highwater_aws::table::Table;
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::deployment::DeploymentV1;
use highwater_core::{ClusterId, Failure};

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// One JSON value on standard output.
    pub(crate) json: bool,
    /// The deployment's name.
    pub(crate) name: String,
    /// Whether somebody said it.
    pub(crate) is_named: bool,
}

/// A deployment, found.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) of: DeploymentV1,
    pub(crate) sdk: SdkConfig,
}

/// Which cluster, and where its backups are.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// The bucket that holds the backups. Default: the deployment's.
    #[arg(long)]
    pub(crate) bucket: Option<String>,
    /// The cluster.
    #[arg(long)]
    pub(crate) cluster: ClusterId,
}

impl ClusterArgs {
    /// The bucket.
    pub(crate) async fn connect(&self, cx: &Context) -> Result<Bucket> {
        match &self.bucket {
            Some(bucket) => Ok(Bucket::connect(bucket).await),
            None => Ok(cx.deployment().await?.bucket().await),
        }
    }
}

/// A cluster of a deployment.
#[derive(Debug, clap::Args)]
pub(crate) struct OfCluster {
    /// The cluster.
    #[arg(long)]
    pub(crate) cluster: ClusterId,
}

impl OfCluster {
    /// The deployment, and the cluster's configuration in it: an unknown one is refused before anything is done.
    pub(crate) async fn find(&self, cx: &Context) -> Result<(Deployment, ClusterConfigV1)> {
        let deployment = cx.deployment().await?;
        let config = deployment.config(&self.cluster).await?;
        Ok((deployment, config))
    }
}

impl Context {
    pub(crate) fn new(json: bool, deployment: Option<String>) -> Self {
        let from_environment = || std::env::var("HIGHWATER_DEPLOYMENT").ok().filter(|name| !name.is_empty());
        let named = deployment.or_else(from_environment);
        Self { json, is_named: named.is_some(), name: named.unwrap_or_else(|| "highwater".to_owned()) }
    }

    /// The deployment of the name, as its stack describes it.
    pub(crate) async fn deployment(&self) -> Result<Deployment> {
        let sdk = sdk_config().await;
        match Ssm::new(&sdk).deployment(&self.name).await {
            Ok(of) => Ok(Deployment { of, sdk }),
            Err(ConfigError::Call(call)) if call.kind == CallErrorKind::NotFound => {
                let region = sdk.region().map_or("no region".to_owned(), ToString::to_string);
                Err(Error::new(Failure::Config, format!("this account has no deployment {} in {region}", self.name))
                    .hint("name it with --deployment or HIGHWATER_DEPLOYMENT; check AWS_PROFILE and AWS_REGION"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Deployment {
    pub(crate) fn catalog(&self) -> CatalogTable {
        CatalogTable::new(Table::new(&self.sdk, &self.of.table))
    }

    pub(crate) async fn bucket(&self) -> Bucket {
        Bucket::connect(&self.of.bucket).await
    }

    /// A cluster's configuration.
    pub(crate) async fn config(&self, cluster: &ClusterId) -> Result<ClusterConfigV1> {
        match Ssm::new(&self.sdk).cluster(&self.of.clusters, cluster).await {
            Ok(config) => Ok(config),
            Err(ConfigError::Call(call)) if call.kind == CallErrorKind::NotFound => {
                let known = self.configs().await.unwrap_or_default();
                let known: Vec<_> = known.iter().flatten().map(|config| config.cluster.to_string()).collect();
                Err(Error::new(Failure::Document, format!("deployment {} has no cluster {cluster}", self.of.deployment))
                    .hint(format!("it has {}", known.join(", "))))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Every cluster's configuration.
    pub(crate) async fn configs(&self) -> Result<Vec<std::result::Result<ClusterConfigV1, ConfigError>>> {
        Ok(Ssm::new(&self.sdk).clusters(&self.of.clusters).await?)
    }
}
