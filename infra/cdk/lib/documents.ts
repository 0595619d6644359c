// The SSM documents: `infra/ssm/*.yaml` as they are.

import { readFileSync } from "node:fs";
import { CfnDocument } from "aws-cdk-lib/aws-ssm";
import { Construct } from "constructs";
import { parse } from "yaml";
import { DOCUMENTS, type DocumentName, type Names } from "./names.ts";

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

/** All of them. */
export class Documents extends Construct {
  constructor(scope: Construct, id: string, names: Names) {
    super(scope, id);
    for (const name of DOCUMENTS) {
      new CfnDocument(this, name, {
        name: names.of(name),
        documentType: "Command",
        documentFormat: "JSON",
        targetType: "/AWS::EC2::Instance",
        updateMethod: "NewVersion",
        content: commandDocument(name),
      });
    }
  }
}
