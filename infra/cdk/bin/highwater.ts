// Synthesises the stack: -c config=FILE (default highwater.yaml), -c artifacts=DIR (default ../../target/lambda).
// With -c artifacts=parameters the template takes the functions' place as parameters and needs no bootstrapped account:
// the form that infra/terraform, or CloudFormation alone, deploys.

import { App, DefaultStackSynthesizer, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { ConfigError, loadConfig } from "../lib/config.ts";
import { HighwaterStack } from "../lib/stack.ts";

const app = new App({ analyticsReporting: false });
const setting = (name: string, environment: string, absent: string) => (app.node.tryGetContext(name) as string | undefined) ?? process.env[environment] ?? absent;

try {
  const config = loadConfig(setting("config", "HIGHWATER_CONFIG", "highwater.yaml"));
  const artifacts = setting("artifacts", "HIGHWATER_ARTIFACTS", "../../target/lambda");
  const props = artifacts === "parameters" ? { artifacts, synthesizer: new DefaultStackSynthesizer({ generateBootstrapVersionRule: false }) } as const : { artifacts: { directory: artifacts } };
  new HighwaterStack(app, config.name, { config, ...props });
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app, { verbose: true }));
  app.synth();
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(error.message);
  process.exit(1);
}
