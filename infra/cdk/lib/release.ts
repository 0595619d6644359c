// The release that is deployed: where the functions' code and the hosts' helper come from. `make package` makes one.

import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CfnParameter } from "aws-cdk-lib";
import { Code } from "aws-cdk-lib/aws-lambda";
import { Bucket } from "aws-cdk-lib/aws-s3";
import { Asset } from "aws-cdk-lib/aws-s3-assets";
import { Construct } from "constructs";
import { ConfigError } from "./config.ts";
import { type FunctionName, type Names } from "./names.ts";

/**
 * A directory with `<function>.zip` (or `<function>/bootstrap`, as cargo-lambda leaves it) and `highwater-host`. CDK uploads it
 * (`assets`); or somebody has uploaded it, and the template takes its place as parameters (for whoever deploys without CDK).
 */
export interface Artifacts {
  directory: string;
  place: "assets" | "parameters";
}

/** The helper's place in S3, and what its bytes must be. */
export interface Helper {
  uri: string;
  objectArn: string;
  sha256: string;
}

/** Code and helper of one release. */
export class Release extends Construct {
  readonly code: (name: FunctionName) => Code;
  readonly helper: Helper;

  constructor(scope: Construct, id: string, artifacts: Artifacts, names: Names) {
    super(scope, id);
    const path = join(artifacts.directory, "highwater-host");
    if (!existsSync(path)) throw new ConfigError(`${artifacts.directory} holds no highwater-host: run \`make package\` first, or name a release with -c artifacts=DIR`);
    const sha256 = createHash("sha256").update(readFileSync(path)).digest("hex");
    const object = (bucket: string, key: string): Helper => ({ uri: `s3://${bucket}/${key}`, objectArn: names.objectArn(bucket, key), sha256 });
    if (artifacts.place === "assets") {
      const asset = new Asset(this, "Helper", { path });
      this.code = (name) => Code.fromAsset(packed(artifacts.directory, name));
      this.helper = object(asset.s3BucketName, asset.s3ObjectKey);
    } else {
      // Under the names that infra/terraform passes: `overrideLogicalId` keeps the scope's path out of them.
      const parameter = (name: string, description: string, allowedPattern: string) => {
        const made = new CfnParameter(this, name, { description, allowedPattern });
        made.overrideLogicalId(name);
        return made.valueAsString;
      };
      const bucket = parameter("ArtifactBucket", "The bucket that the release was uploaded to, in this region", "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$");
      const prefix = parameter("ArtifactPrefix", "The release's place in it, with a slash at its end", "^[A-Za-z0-9._/-]+/$");
      const from = Bucket.fromBucketName(this, "Artifacts", bucket);
      this.code = (name) => Code.fromBucketV2(from, `${prefix}${name}.zip`);
      this.helper = object(bucket, `${prefix}highwater-host`);
    }
  }
}

function packed(directory: string, name: FunctionName): string {
  const zip = join(directory, `${name}.zip`);
  if (existsSync(zip)) return zip;
  if (existsSync(join(directory, name, "bootstrap"))) return join(directory, name);
  throw new ConfigError(`${directory} holds neither ${name}.zip nor ${name}/bootstrap: run \`make package\` first, or name a release with -c artifacts=DIR`);
}
