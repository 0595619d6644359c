# The same stack that `cdk deploy` makes, for users of Terraform: CloudFormation carries it out, so that there is one
# template to trust. Everything that can be wrong before AWS is asked is decided in modules/stack.

data "aws_region" "here" {}

data "aws_partition" "here" {}

module "stack" {
  source = "./modules/stack"

  artifact_bucket = var.artifact_bucket
  artifact_prefix = var.artifact_prefix
  name            = var.name
  region          = data.aws_region.here.name
  url_suffix      = data.aws_partition.here.dns_suffix
  tags            = var.tags
  timeout_minutes = var.timeout_minutes
}

resource "aws_cloudformation_stack" "highwater" {
  name               = module.stack.name
  template_url       = module.stack.template_url
  parameters         = module.stack.parameters
  capabilities       = ["CAPABILITY_NAMED_IAM"]
  on_failure         = "ROLLBACK"
  iam_role_arn       = var.cloudformation_role_arn
  timeout_in_minutes = module.stack.timeout_minutes
  tags               = module.stack.tags
}
