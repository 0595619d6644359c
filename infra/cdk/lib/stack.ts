// The one source of the stack.

import { CfnOutput, Stack, type StackProps, Tags } from "aws-cdk-lib";
import type { Construct } from "constructs";
import type { Config } from "./config.ts";
import { Documents } from "./documents.ts";
import { Functions } from "./functions.ts";
import { Hosts } from "./hosts.ts";
import { Names, TAG } from "./names.ts";
import { type Artifacts, Release } from "./release.ts";
import { Storage } from "./storage.ts";
import { Triggers } from "./triggers.ts";
import { Watch } from "./watch.ts";
import { Workflows } from "./workflows.ts";

/** CloudFormation's limit for one stack. */
const MAX_RESOURCES = 500;

/** A deployment of Highwater. */
export class HighwaterStack extends Stack {
  readonly names: Names;

  constructor(scope: Construct, id: string, props: StackProps & { config: Config; artifacts: Artifacts }) {
    const { config, artifacts, ...rest } = props;
    super(scope, id, { description: "Highwater: proven backups of MySQL and MariaDB", ...rest });
    // The access logs' bucket takes them by its policy; its ACLs are off.
    this.node.setContext("@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy", true);
    const names = new Names(this, config.name);
    this.names = names;
    Tags.of(this).add(TAG.deployment, config.name);

    const storage = new Storage(this, "Storage", config, names);
    const release = new Release(this, "Release", artifacts, names);
    const hosts = new Hosts(this, "Hosts", config, names, storage, release.helper);
    new Documents(this, "Documents", names, release.helper);
    const functions = new Functions(this, "Functions", config, names, storage, hosts, release);
    new Workflows(this, "Workflows", config, names);
    new Triggers(this, "Triggers", config, names, storage, functions);
    new Watch(this, "Watch", config, names, storage, functions);

    const output = (name: string, description: string, value: string) => new CfnOutput(this, name, { description, value });
    output("Bucket", "Where backups lie", storage.bucket.bucketName);
    output("Pages", "Where the status page (index.html) and the reports lie", storage.pages.bucketName);
    output("Catalog", "The catalog's table", storage.table.tableName);
    output("SigningKey", "Signs drill certificates; get its public half with kms get-public-key", storage.signingKey.keyArn);
    output("ApprovalUrl", "Where promotions are asked for and decided", functions.approvalUrl.url);
    output("DrillMachine", "Start it with {\"cluster\":\"…\"}", names.machine("drill"));
    output("PromotionMachine", "Start it with {\"cluster\":\"…\"}", names.machine("restore-primary"));

    this.node.addValidation({
      validate: () => {
        const resources = this.node.findAll().filter((c) => "cfnResourceType" in c).length;
        return resources <= MAX_RESOURCES
          ? []
          : [`${Object.keys(config.clusters).length} clusters make ${resources} resources; a stack holds ${MAX_RESOURCES}: move clusters to a second file with another name`];
      },
    });
  }
}
