// Synthesises the vault's stack, for the vault's account: npx cdk deploy -a "npx tsx bin/vault.ts" -c config=FILE. The file is the
// deployment's own; only its `name` and `vault` are used.

import { synthesise } from "../lib/app.ts";
import { ConfigError } from "../lib/config.ts";
import { VaultStack } from "../lib/vault.ts";

synthesise((app, config) => {
  if (config.vault === undefined) throw new ConfigError("the configuration has no vault");
  const { account, region } = config.vault;
  new VaultStack(app, `${config.name}-vault`, { deployment: config.name, vault: config.vault, env: { account, region } });
});
