# Before `terraform apply`, make the release from your configuration and upload it:
#
#   make package CONFIG=highwater.yaml
#   aws s3 cp --recursive target/package/release s3://my-artifacts/highwater/0.1.0/
#
# Hosts fetch the helper from there: their roles get the right to it with the policy highwater-host-CLUSTER.

provider "aws" {
  region = "eu-west-1"
}

module "highwater" {
  source = "../.."

  artifact_bucket = "my-artifacts"
  artifact_prefix = "highwater/0.1.0"
}

output "drill_machine" {
  value = module.highwater.drill_machine
}
