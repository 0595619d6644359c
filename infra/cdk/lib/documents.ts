// The SSM documents: `infra/ssm/*.yaml` as they are; install.yaml with the release that this deployment is of.

import { readFileSync } from "node:fs";
import { CfnDocument } from "aws-cdk-lib/aws-ssm";
import { Construct } from "constructs";
import { parse } from "yaml";
import { DOCUMENTS, type DocumentName, type Names } from "./names.ts";
import type { Helper } from "./release.ts";

/** A Command document, schema 2.2. */
export interface CommandDocument {
  schemaVersion: string;
  description: string;
  parameters: Record<string, { type: string; description: string; allowedPattern: string; default?: string }>;
  mainSteps: { action: string; name: string; inputs: { timeoutSeconds: string; runCommand: string[] } }[];
}

/** Reads one. */
export function commandDocument(name: DocumentName): CommandDocument {
  return parse(readFileSync(new URL(`../../ssm/${name}.yaml`, import.meta.url), "utf8")) as CommandDocument;
}

/**
 * `install` with what it installs. These are no parameters: who may send the document chooses neither the program that a host
 * runs as root nor its configuration.
 */
export function installDocument(values: { artifact: string; sha256: string; bucket: string; settings: string }): CommandDocument {
  const document = commandDocument("install");
  const [step] = document.mainSteps;
  const fill = (line: string) => Object.entries(values).reduce((text, [key, value]) => text.replaceAll(`@${key.toUpperCase()}@`, value), line);
  return { ...document, mainSteps: [{ ...step!, inputs: { ...step!.inputs, runCommand: step!.inputs.runCommand.map(fill) } }] };
}

/** All of them. */
export class Documents extends Construct {
  constructor(scope: Construct, id: string, names: Names, helper: Helper) {
    super(scope, id);
    const install = installDocument({ artifact: helper.uri, sha256: helper.sha256, bucket: names.bucket, settings: names.hostParameters });
    for (const name of DOCUMENTS) {
      new CfnDocument(this, name, {
        name: names.of(name),
        documentType: "Command",
        documentFormat: "JSON",
        targetType: "/AWS::EC2::Instance",
        updateMethod: "NewVersion",
        content: name === "install" ? install : commandDocument(name),
      });
    }
  }
}
