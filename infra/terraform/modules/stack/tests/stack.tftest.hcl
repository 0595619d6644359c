variables {
  artifact_bucket = "my-artifacts"
  artifact_prefix = "highwater/0.1.0"
  name            = "highwater"
  region          = "eu-west-1"
  timeout_minutes = 30
}

run "the_template_and_its_parameters_point_at_one_release" {
  command = plan
  assert {
    condition     = output.template_url == "https://s3.eu-west-1.amazonaws.com/my-artifacts/highwater/0.1.0/highwater.template.json"
    error_message = "the template's URL is ${output.template_url}"
  }
  assert {
    condition     = output.parameters == { ArtifactBucket = "my-artifacts", ArtifactPrefix = "highwater/0.1.0/" }
    error_message = "the parameters are ${jsonencode(output.parameters)}"
  }
}

run "other_partitions_have_other_hosts" {
  command = plan
  variables {
    region     = "cn-north-1"
    url_suffix = "amazonaws.com.cn"
  }
  assert {
    condition     = startswith(output.template_url, "https://s3.cn-north-1.amazonaws.com.cn/")
    error_message = "the template's URL is ${output.template_url}"
  }
}

run "own_tags_are_kept_beside_ours" {
  command = plan
  variables {
    tags = { team = "dba" }
  }
  assert {
    condition     = output.tags == { team = "dba", "highwater:deployment" = "highwater" }
    error_message = "the tags are ${jsonencode(output.tags)}"
  }
}

run "a_tag_that_policies_rest_on_is_refused" {
  command = plan
  variables {
    tags = { "highwater:deployment" = "other" }
  }
  expect_failures = [var.tags]
}

run "a_url_is_no_bucket" {
  command = plan
  variables {
    artifact_bucket = "s3://my-artifacts"
  }
  expect_failures = [var.artifact_bucket]
}

run "a_prefix_has_no_slash_at_its_ends" {
  command = plan
  variables {
    artifact_prefix = "highwater/0.1.0/"
  }
  expect_failures = [var.artifact_prefix]
}

run "a_prefix_does_not_climb" {
  command = plan
  variables {
    artifact_prefix = "highwater/../0.1.0"
  }
  expect_failures = [var.artifact_prefix]
}

run "a_name_is_as_in_the_configuration" {
  command = plan
  variables {
    name = "Highwater"
  }
  expect_failures = [var.name]
}

run "a_timeout_is_whole_minutes" {
  command = plan
  variables {
    timeout_minutes = 2.5
  }
  expect_failures = [var.timeout_minutes]
}
