// Physical names and ARNs. They are fixed, so that policies name what they mean before it exists, and operators find it.

import { ArnFormat, Aws, Stack } from "aws-cdk-lib";

/** The functions, in the order in which a backup's life meets them. */
export const FUNCTIONS = [
  "start-backup",
  "finish-backup",
  "reconcile",
  "publish-status",
  "plan-restore",
  "launch-drill",
  "record-drill",
  "request-approval",
  "decide-approval",
  "promote",
  "finish-promote",
  "prune",
] as const;
export type FunctionName = (typeof FUNCTIONS)[number];

/** The state machines, each defined by `infra/asl/<name>.asl.json`. */
export const MACHINES = ["drill", "restore-primary", "drill-fleet"] as const;
export type MachineName = (typeof MACHINES)[number];

/** The SSM documents, each defined by `infra/ssm/<name>.yaml`. */
export const DOCUMENTS = ["backup", "promote", "resume", "rollback", "doctor", "install"] as const;
export type DocumentName = (typeof DOCUMENTS)[number];

/** Tags: what a host, a drill's instance or a role belongs to. */
export const TAG = { deployment: "highwater:deployment", cluster: "highwater:cluster", purpose: "highwater:purpose", drill: "highwater:drill" } as const;

/** Names inside one deployment and account. */
export class Names {
  readonly #stack: Stack;
  readonly deployment: string;

  constructor(stack: Stack, deployment: string) {
    this.#stack = stack;
    this.deployment = deployment;
  }

  /** `<deployment>-<what>`. */
  of(what: string): string {
    return `${this.deployment}-${what}`;
  }

  /** Globally unique, and found without looking it up. */
  get bucket(): string {
    return `${this.deployment}-${Aws.ACCOUNT_ID}-${Aws.REGION}`;
  }

  /** Of the pages. */
  get pages(): string {
    return `${this.deployment}-pages-${Aws.ACCOUNT_ID}-${Aws.REGION}`;
  }

  get pagesArn(): string {
    return `arn:${Aws.PARTITION}:s3:::${this.pages}`;
  }

  get bucketArn(): string {
    return `arn:${Aws.PARTITION}:s3:::${this.bucket}`;
  }

  /** An object of any bucket. */
  objectArn(bucket: string, key: string): string {
    return `arn:${Aws.PARTITION}:s3:::${bucket}/${key}`;
  }

  /** Objects below the bucket; `keys` may hold wildcards. */
  objects(keys: string): string {
    return `${this.bucketArn}/${keys}`;
  }

  get parameters(): string {
    return `/${this.deployment}/clusters`;
  }

  get parameterArn(): string {
    return this.arn("ssm", "parameter", `${this.deployment}/clusters`);
  }

  /** The parameter that tells the operator's command and `reconcile` what this deployment is. */
  get deploymentParameter(): string {
    return `/${this.deployment}/deployment`;
  }

  get deploymentParameterArn(): string {
    return this.arn("ssm", "parameter", `${this.deployment}/deployment`);
  }

  /** Path of the hosts' settings. */
  get hostParameters(): string {
    return `/${this.deployment}/hosts`;
  }

  hostParameterArn(cluster: string): string {
    return this.arn("ssm", "parameter", `${this.deployment}/hosts/${cluster}`);
  }

  get tableArn(): string {
    return this.arn("dynamodb", "table", this.of("catalog"));
  }

  function(name: FunctionName): string {
    return this.arn("lambda", "function", this.of(name), ArnFormat.COLON_RESOURCE_NAME);
  }

  machine(name: MachineName): string {
    return this.arn("states", "stateMachine", this.of(name), ArnFormat.COLON_RESOURCE_NAME);
  }

  /** Executions of a machine. */
  executions(name: MachineName): string {
    return this.arn("states", "execution", `${this.of(name)}:*`, ArnFormat.COLON_RESOURCE_NAME);
  }

  document(name: DocumentName): string {
    return this.arn("ssm", "document", this.of(name));
  }

  arn(service: string, resource: string, resourceName: string, arnFormat: ArnFormat = ArnFormat.SLASH_RESOURCE_NAME): string {
    return this.#stack.formatArn({ service, resource, resourceName, arnFormat });
  }

  /** A role; IAM is global. */
  role(what: string): string {
    return this.#stack.formatArn({ service: "iam", region: "", resource: "role", resourceName: this.of(what) });
  }
}
