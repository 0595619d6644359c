variable "artifact_bucket" {
  description = "The bucket that `make package` was uploaded to, in the deployment's region."
  type        = string
}

variable "artifact_prefix" {
  description = "Where in it: the directory of one release. A new release is a new prefix, so that every change is seen."
  type        = string
}

variable "name" {
  description = "The deployment's name: `name` in the highwater.yaml that the template was made from."
  type        = string
  default     = "highwater"
}

variable "tags" {
  description = "Tags for the stack and everything in it."
  type        = map(string)
  default     = {}
}

variable "cloudformation_role_arn" {
  description = "The role that CloudFormation works with; null: the caller's."
  type        = string
  default     = null
}

variable "timeout_minutes" {
  description = "How long CloudFormation may take."
  type        = number
  default     = 30
}
