//! Highwater's ports on the AWS SDK. SDK types stay inside this crate; the ports are narrow and speak our types.
#![warn(missing_docs)]

pub mod call;

/// What clients are built from: whoever runs a function hands it on, and looks at nothing in it.
pub use aws_config::SdkConfig;

#[cfg(feature = "dynamodb")]
pub mod table;

#[cfg(feature = "dynamodb")]
pub mod catalog;

#[cfg(feature = "dynamodb")]
pub mod cost;

#[cfg(feature = "dynamodb")]
pub mod status;

#[cfg(feature = "ssm")]
pub mod ssm;

#[cfg(feature = "ec2")]
pub mod ec2;

#[cfg(feature = "kms")]
pub mod kms;

#[cfg(feature = "s3")]
pub mod s3;

#[cfg(feature = "s3")]
pub mod manifests;

#[cfg(feature = "sfn")]
pub mod sfn;

#[cfg(feature = "s3")]
pub mod versions;

#[cfg(feature = "s3")]
pub mod copies;

#[cfg(feature = "lambda")]
pub mod function_url;

#[cfg(feature = "lambda")]
pub mod lambda;

#[cfg(feature = "sns")]
pub mod sns;

#[cfg(all(feature = "dynamodb", feature = "s3"))]
pub mod prune;

#[cfg(all(feature = "dynamodb", feature = "s3"))]
pub mod rebuild;
