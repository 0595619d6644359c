// Synthesises the stack: -c config=FILE (default highwater.yaml), -c artifacts=DIR (default: what `make package` left).
// With -c place=parameters the template takes the release's place in S3 as parameters and needs no bootstrapped account: the
// form that infra/terraform, or CloudFormation alone, deploys. Without CDK's command the environment says the same.

import { App, DefaultStackSynthesizer, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { ConfigError, loadConfig } from "../lib/config.ts";
import { HighwaterStack } from "../lib/stack.ts";

const app = new App({ analyticsReporting: false });
const setting = (name: string, environment: string, absent: string) => (app.node.tryGetContext(name) as string | undefined) ?? process.env[environment] ?? absent;

try {
  const config = loadConfig(setting("config", "HIGHWATER_CONFIG", "highwater.yaml"));
  const directory = setting("artifacts", "HIGHWATER_ARTIFACTS", "../../target/package/release");
  const place = setting("place", "HIGHWATER_PLACE", "assets") === "parameters" ? "parameters" : "assets";
  const synthesizer = new DefaultStackSynthesizer({ generateBootstrapVersionRule: place === "assets" });
  new HighwaterStack(app, config.name, { config, artifacts: { directory, place }, synthesizer });
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app, { verbose: true }));
  app.synth();
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(error.message);
  process.exit(1);
}
