// Synthesises the stack: -c config=FILE (default highwater.yaml), -c artifacts=DIR (default: what `make package` left).
// With -c place=parameters the template takes the release's place in S3 as parameters and needs no bootstrapped account: the
// form that infra/terraform, or CloudFormation alone, deploys.

import { DefaultStackSynthesizer } from "aws-cdk-lib";
import { synthesise } from "../lib/app.ts";
import { HighwaterStack } from "../lib/stack.ts";

synthesise((app, config, setting) => {
  const directory = setting("artifacts", "HIGHWATER_ARTIFACTS", "../../target/package/release");
  const place = setting("place", "HIGHWATER_PLACE", "assets") === "parameters" ? "parameters" : "assets";
  const synthesizer = new DefaultStackSynthesizer({ generateBootstrapVersionRule: place === "assets" });
  new HighwaterStack(app, config.name, { config, artifacts: { directory, place }, synthesizer });
});
