# What is decided before AWS is asked: names, the template's place, the parameters. No provider, so that
# `terraform test` runs it anywhere.

terraform {
  required_version = ">= 1.9"
}

variable "artifact_bucket" {
  type = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.artifact_bucket))
    error_message = "artifact_bucket is not the name of a bucket (no s3://, no path): ${var.artifact_bucket}"
  }
}

variable "artifact_prefix" {
  type = string
  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$", var.artifact_prefix))
    error_message = "artifact_prefix is a path without a slash at its ends, like highwater/0.1.0: ${var.artifact_prefix}"
  }
}

variable "name" {
  type = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,15}$", var.name))
    error_message = "name must match [a-z][a-z0-9-]{0,15}, as in highwater.yaml: ${var.name}"
  }
}

variable "region" {
  type = string
}

variable "url_suffix" {
  type    = string
  default = "amazonaws.com"
}

variable "tags" {
  type    = map(string)
  default = {}
  validation {
    condition     = alltrue([for key in keys(var.tags) : !startswith(key, "highwater:") && !startswith(key, "aws:")])
    error_message = "tags that begin with highwater: or aws: are not yours to set: policies rest on them"
  }
}

variable "timeout_minutes" {
  type = number
  validation {
    condition     = var.timeout_minutes >= 5 && var.timeout_minutes <= 720 && floor(var.timeout_minutes) == var.timeout_minutes
    error_message = "timeout_minutes must be a whole number from 5 to 720"
  }
}

output "name" {
  value = var.name
}

# Path style: a bucket's name may hold dots, which no certificate covers.
output "template_url" {
  value = "https://s3.${var.region}.${var.url_suffix}/${var.artifact_bucket}/${var.artifact_prefix}/highwater.template.json"
}

output "parameters" {
  value = {
    ArtifactBucket = var.artifact_bucket
    ArtifactPrefix = "${var.artifact_prefix}/"
  }
}

output "tags" {
  value = merge(var.tags, { "highwater:deployment" = var.name })
}

output "timeout_minutes" {
  value = var.timeout_minutes
}
