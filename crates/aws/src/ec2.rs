//! EC2: the instances of drills, found by tag, launched once, ended.
//!
//! A launch is idempotent by its client token, as long as every other argument is byte for byte the same; EC2 refuses the
//! token otherwise (`IdempotentParameterMismatch`).

use crate::call::{CallError, CallErrorKind};
use aws_config::SdkConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Filter, IamInstanceProfileSpecification, InstanceType, LaunchTemplateSpecification, ResourceType,
    Tag, TagSpecification, VolumeType,
};
use highwater_core::HostId;
use highwater_core::cluster::HostTag;
use jiff::Timestamp;
use std::time::Duration;

/// How often a launch is tried when EC2 does not answer; the client token makes it one launch.
const ATTEMPTS: u32 = 3;

/// EC2.
#[derive(Debug, Clone)]
pub struct Ec2 {
    client: Client,
}

/// One instance to launch.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// Makes it one launch, however often it is sent.
    pub client_token: String,
    /// The launch template's id; its default version is taken.
    pub template: &'a str,
    /// The image.
    pub image: &'a str,
    /// The type.
    pub instance_type: &'a str,
    /// The subnet.
    pub subnet: &'a str,
    /// The instance profile's name.
    pub profile: String,
    /// The root volume.
    pub volume: Volume<'a>,
    /// The script that the instance runs when it boots, as plain text.
    pub user_data: &'a str,
    /// Tags of the instance and what is made with it, beside the template's.
    pub tags: Vec<(&'a str, String)>,
}

/// A root volume. It is said whole: what a request says of a device replaces what the template says of it.
#[derive(Debug, Clone, Copy)]
pub struct Volume<'a> {
    /// The image's root device.
    pub device: &'a str,
    /// Its size.
    pub gib: u64,
    /// The KMS key that encrypts it.
    pub key: &'a str,
}

/// What became of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launched {
    /// The instance: launched now, or by an earlier call with the same token.
    Instance(HostId),
    /// There is none of this type to be had in this subnet now; another may do. EC2's code and message.
    NoCapacity(String),
}

/// A drill's instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillInstance {
    /// Its id.
    pub id: HostId,
    /// The value of its tag `highwater:drill`.
    pub drill: Option<String>,
    /// The value of its tag `highwater:cluster`.
    pub cluster: Option<String>,
    /// Whether it is ending or has ended.
    pub is_ending: bool,
    /// When it was launched.
    pub launched_at: Timestamp,
}

impl Ec2 {
    /// A client.
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// Launches one instance.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn launch(&self, launch: &Launch<'_>) -> Result<Launched, CallError> {
        let mut attempt = 1;
        loop {
            // The SDK would try a lack of capacity again, which lasts: the next type is the better try.
            let config = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
            let sent = self.request(launch).customize().config_override(config).send().await;
            let error = match sent.map_err(|e| CallError::of("ec2:RunInstances", launch.instance_type, e)) {
                Ok(answer) => {
                    let id = answer.instances.unwrap_or_default().into_iter().find_map(|i| i.instance_id);
                    return id.and_then(|id| id.parse().ok()).map(Launched::Instance).ok_or_else(|| nameless(launch));
                }
                Err(error) => error,
            };
            match error.kind {
                _ if is_lack(&error.code) => return Ok(Launched::NoCapacity(error.detail)),
                CallErrorKind::Unavailable if attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(300 << attempt)).await;
                    attempt += 1;
                }
                _ => return Err(error),
            }
        }
    }

    fn request(&self, launch: &Launch<'_>) -> RunInstancesFluentBuilder {
        let Volume { device, gib, key } = launch.volume;
        let tags: Vec<_> = launch.tags.iter().map(|(k, v)| Tag::builder().key(*k).value(v).build()).collect();
        let tagged = |of: ResourceType| TagSpecification::builder().resource_type(of).set_tags(Some(tags.clone())).build();
        let ebs = EbsBlockDevice::builder()
            .encrypted(true)
            .kms_key_id(key)
            .volume_type(VolumeType::Gp3)
            .volume_size(i32::try_from(gib).unwrap_or(i32::MAX))
            .delete_on_termination(true);
        self.client
            .run_instances()
            .client_token(&launch.client_token)
            .min_count(1)
            .max_count(1)
            .launch_template(LaunchTemplateSpecification::builder().launch_template_id(launch.template).build())
            .image_id(launch.image)
            .instance_type(InstanceType::from(launch.instance_type))
            .subnet_id(launch.subnet)
            .iam_instance_profile(IamInstanceProfileSpecification::builder().name(&launch.profile).build())
            .block_device_mappings(BlockDeviceMapping::builder().device_name(device).ebs(ebs.build()).build())
            .user_data(aws_smithy_types::base64::encode(launch.user_data))
            .tag_specifications(tagged(ResourceType::Instance))
            .tag_specifications(tagged(ResourceType::Volume))
            .tag_specifications(tagged(ResourceType::NetworkInterface))
    }

    /// Every instance for drills of a deployment that EC2 still lists; ended ones disappear after a while, and one launched a
    /// moment ago may not be listed yet.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn drill_instances(&self, deployment: &str) -> Result<Vec<DrillInstance>, CallError> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let request = self.client.describe_instances().filters(filter("tag:highwater:deployment", deployment));
        let mut pages = request.filters(filter("tag:highwater:purpose", "drill")).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| CallError::of("ec2:DescribeInstances", deployment, e))?;
            let instances = page.reservations.unwrap_or_default().into_iter().flat_map(|r| r.instances.unwrap_or_default());
            found.extend(instances.filter_map(drill_instance));
        }
        Ok(found)
    }

    /// The running instances of a deployment that carry a tag; those of drills do not count.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn hosts_tagged(&self, deployment: &str, tag: &HostTag) -> Result<Vec<HostId>, CallError> {
        let filter = |name: String, value: &str| Filter::builder().name(name).values(value).build();
        let request = self.client.describe_instances().filters(filter("tag:highwater:deployment".into(), deployment));
        let request = request.filters(filter("instance-state-name".into(), "running"));
        let mut pages = request.filters(filter(format!("tag:{}", tag.tag), &tag.value)).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| CallError::of("ec2:DescribeInstances", format!("{}={}", tag.tag, tag.value), e))?;
            let instances = page.reservations.unwrap_or_default().into_iter().flat_map(|r| r.instances.unwrap_or_default());
            found.extend(instances.filter(|i| !is_drill(i)).filter_map(|i| i.instance_id?.parse().ok()));
        }
        Ok(found)
    }

    /// Ends an instance. One that has ended, or is not known any more, is success.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn terminate(&self, instance: &HostId) -> Result<(), CallError> {
        let sent = self.client.terminate_instances().instance_ids(instance.to_string()).send().await;
        match sent.map_err(|e| CallError::of("ec2:TerminateInstances", instance.to_string(), e)) {
            Err(error) if error.kind != CallErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Codes that say: not this type, or not in this subnet, or not now.
fn is_lack(code: &str) -> bool {
    matches!(
        code,
        "InsufficientInstanceCapacity"
            | "InsufficientCapacity"
            | "InsufficientFreeAddressesInSubnet"
            | "InstanceLimitExceeded"
            | "VcpuLimitExceeded"
            | "Unsupported"
    )
}

fn nameless(launch: &Launch<'_>) -> CallError {
    CallError {
        operation: "ec2:RunInstances",
        subject: launch.client_token.clone(),
        kind: CallErrorKind::Unavailable,
        code: String::new(),
        detail: "the answer names no instance".to_owned(),
    }
}

fn is_drill(instance: &aws_sdk_ec2::types::Instance) -> bool {
    instance.tags().iter().any(|tag| tag.key() == Some("highwater:purpose") && tag.value() == Some("drill"))
}

fn drill_instance(instance: aws_sdk_ec2::types::Instance) -> Option<DrillInstance> {
    let tags = instance.tags.unwrap_or_default();
    let tag = |name: &str| tags.iter().find(|t| t.key.as_deref() == Some(name)).and_then(|t| t.value.clone());
    let state = instance.state.and_then(|s| s.name).map(|name| name.as_str().to_owned()).unwrap_or_default();
    Some(DrillInstance {
        id: instance.instance_id?.parse().ok()?,
        drill: tag("highwater:drill"),
        cluster: tag("highwater:cluster"),
        is_ending: matches!(state.as_str(), "shutting-down" | "terminated"),
        launched_at: instance.launch_time.and_then(|at| Timestamp::from_second(at.secs()).ok())?,
    })
}
