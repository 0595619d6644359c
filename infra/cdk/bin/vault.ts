// Synthesises the vault's stack, for the vault's account: npx cdk deploy -a "npx tsx bin/vault.ts" -c config=FILE. The file is the
// deployment's own; only its `name` and `vault` are used.

import { App, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { ConfigError, loadConfig } from "../lib/config.ts";
import { VaultStack } from "../lib/vault.ts";

const app = new App({ analyticsReporting: false });
try {
  const config = loadConfig((app.node.tryGetContext("config") as string | undefined) ?? process.env.HIGHWATER_CONFIG ?? "highwater.yaml");
  if (config.vault === undefined) throw new ConfigError("the configuration has no vault");
  const { account, region } = config.vault;
  new VaultStack(app, `${config.name}-vault`, { deployment: config.name, vault: config.vault, env: { account, region } });
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app, { verbose: true }));
  app.synth();
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(error.message);
  process.exit(1);
}
