// The stack as the tests see it: from the example configuration, with placeholder binaries made here and nowhere kept.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { App } from "aws-cdk-lib";
import { Template } from "aws-cdk-lib/assertions";
import { type Config, loadConfig } from "../lib/config.ts";
import { FUNCTIONS } from "../lib/names.ts";
import { HighwaterStack } from "../lib/stack.ts";

export const EXAMPLE = new URL("../highwater.yaml", import.meta.url).pathname;

/** Runs `use` with a directory of placeholder binaries. */
export function withArtifacts<T>(use: (directory: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), "highwater-artifacts-"));
  try {
    for (const name of FUNCTIONS) {
      mkdirSync(join(directory, name));
      writeFileSync(join(directory, name, "bootstrap"), "a placeholder, never deployed\n");
    }
    writeFileSync(join(directory, "highwater-host"), "a placeholder, never installed\n");
    return use(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

export interface Synthesised {
  app: App;
  stack: HighwaterStack;
  template: Template;
}

/** A stack of this configuration, and its template. */
export function synthesise(config: Config = loadConfig(EXAMPLE)): Synthesised {
  return withArtifacts((artifacts) => {
    const app = new App({ builtinCloudFormationValidation: false });
    const stack = new HighwaterStack(app, config.name, { config, artifacts: { directory: artifacts, place: "assets" } });
    return { app, stack, template: Template.fromStack(stack) };
  });
}

/** The values that stand for what only a deployment knows. */
const PSEUDO: Record<string, string> = { "AWS::Partition": "aws", "AWS::AccountId": "111122223333", "AWS::Region": "eu-west-1", "AWS::URLSuffix": "amazonaws.com" };

/** Template values as a deployment would have them: intrinsics become text. */
export function plain(value: unknown, template: Template): any {
  if (Array.isArray(value)) return value.map((v) => plain(v, template));
  if (typeof value !== "object" || value === null) return value;
  const { Ref, "Fn::Join": join, "Fn::GetAtt": att, "Fn::Sub": sub } = value as { Ref?: string; "Fn::Join"?: [string, unknown[]]; "Fn::GetAtt"?: [string, string]; "Fn::Sub"?: string };
  if (typeof sub === "string") return sub.replace(/\$\{([^}]+)\}/g, (_, name: string) => PSEUDO[name] ?? `<${name}>`);
  if (join) return join[1].map((v) => plain(v, template)).join(join[0]);
  if (Ref) return PSEUDO[Ref] ?? `<${Ref}>`;
  if (att) return arnOf(att, template) ?? `<${att.join(".")}>`;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v, template)]));
}

/** The ARN of a resource with a fixed name, where a policy test needs it to be exact. */
function arnOf([id, attribute]: [string, string], template: Template): string | undefined {
  if (attribute !== "Arn") return undefined;
  const { Type, Properties } = template.toJSON().Resources[id];
  const account = `${PSEUDO["AWS::Region"]}:${PSEUDO["AWS::AccountId"]}`;
  switch (Type) {
    case "AWS::S3::Bucket":
      return `arn:aws:s3:::${plain(Properties.BucketName, template)}`;
    case "AWS::DynamoDB::Table":
      return `arn:aws:dynamodb:${account}:table/${Properties.TableName}`;
    case "AWS::SQS::Queue":
      return `arn:aws:sqs:${account}:${Properties.QueueName}`;
    case "AWS::Lambda::Function":
      return `arn:aws:lambda:${account}:function:${Properties.FunctionName}`;
    case "AWS::Logs::LogGroup":
      return `arn:aws:logs:${account}:log-group:${Properties.LogGroupName}:*`;
    case "AWS::KMS::Key":
      return `arn:aws:kms:${account}:key/${Properties.KeyUsage === "SIGN_VERIFY" ? "signing" : "data"}`;
    default:
      return undefined;
  }
}

export const BUCKET = "arn:aws:s3:::highwater-111122223333-eu-west-1";

/** The one resource of a type with this name. */
export function named(template: Template, type: string, nameProperty: string, name: string): any {
  const found = Object.values(template.findResources(type)).filter((r) => plain(r.Properties[nameProperty], template) === name);
  if (found.length !== 1) throw new Error(`${found.length} resources of ${type} have the name ${name}`);
  return plain(found[0], template);
}
