// What both entry points do: read the configuration, build a stack of it, check it with cdk-nag, synthesise. A configuration that
// cannot be used ends the program with its message alone. Settings come with -c, or without CDK's command from the environment.

import { App, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { type Config, ConfigError, loadConfig } from "./config.ts";

/** A setting of this run: `-c name=…`, else the environment's, else `absent`. */
export type Setting = (name: string, environment: string, absent: string) => string;

/** Synthesises what `build` adds to the application for the configuration. */
export function synthesise(build: (app: App, config: Config, setting: Setting) => void): void {
  const app = new App({ analyticsReporting: false });
  const setting: Setting = (name, environment, absent) => (app.node.tryGetContext(name) as string | undefined) ?? process.env[environment] ?? absent;
  try {
    build(app, loadConfig(setting("config", "HIGHWATER_CONFIG", "highwater.yaml")), setting);
    Validations.of(app).addPlugins(new AwsSolutionsChecks(app, { verbose: true }));
    app.synth();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}
