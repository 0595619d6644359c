// What runs on EC2: the policy of DB hosts, and the role, network and launch template of drill instances (I7).

import type { CfnTag } from "aws-cdk-lib";
import { CfnLaunchTemplate, CfnSecurityGroup } from "aws-cdk-lib/aws-ec2";
import { CfnInstanceProfile, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Construct } from "constructs";
import type { Config } from "./config.ts";
import { type Names, TAG } from "./names.ts";
import { type Grant, keyGrant, policyOf, roleOf } from "./permissions.ts";
import type { Helper } from "./release.ts";
import type { Storage } from "./storage.ts";

/** `v1/<cluster>/<incarnation>/`, where backups lie; requests, drills and promotions have no such name. */
export const INCARNATION = "????????T??????Z-????";

/** DB hosts and drill instances. */
export class Hosts extends Construct {
  readonly launchTemplate: CfnLaunchTemplate;
  /** The drills' security group. */
  readonly groupId: string;

  constructor(scope: Construct, id: string, config: Config, names: Names, storage: Storage, helper: Helper) {
    super(scope, id);
    for (const cluster of Object.keys(config.clusters)) {
      policyOf(this, `Host-${cluster}`, {
        managedPolicyName: names.of(`host-${cluster}`),
        description: `Attach to the role of the DB host of ${cluster}, beside AmazonSSMManagedInstanceCore; tag that role ${TAG.cluster}=${cluster}`,
        grants: hostGrants(names, storage, helper, cluster),
      });
      const role = roleOf(this, `Drill-${cluster}`, {
        roleName: names.of(`drill-${cluster}`),
        description: `Drill instances of ${cluster}: read that cluster, write its drill reports`,
        assumedBy: new ServicePrincipal("ec2.amazonaws.com"),
        grants: drillGrants(names, storage, cluster),
        tags: { [TAG.cluster]: cluster, [TAG.purpose]: "drill" },
      });
      new CfnInstanceProfile(this, `DrillProfile-${cluster}`, { instanceProfileName: names.of(`drill-${cluster}`), roles: [role.roleName] });
    }
    const group = drillGroup(this, config, names);
    this.groupId = group.attrGroupId;
    this.launchTemplate = drillTemplate(this, config, names, storage, this.groupId);
  }
}

const readCluster = (names: Names, cluster: string): Grant => ({
  sid: "ReadOwnCluster",
  why: `Requests, plans and data of ${cluster}.`,
  actions: ["s3:GetObject", "s3:GetObjectVersion"],
  resources: [names.objects(`v1/${cluster}/*`)],
});

const createAt = (names: Names, keys: string[], why: string, more: string[] = []): Grant => ({
  sid: "CreateObjects",
  why: `${why} The bucket's policy refuses to overwrite.`,
  actions: ["s3:PutObject", ...more],
  resources: keys.map((each) => names.objects(each)),
});

function hostGrants(names: Names, storage: Storage, helper: Helper, cluster: string): Grant[] {
  return [
    createAt(names, [`v1/${cluster}/${INCARNATION}/*`, `v1/${cluster}/doctor/*`], `Backups of ${cluster}, and the object by which doctor tries the bucket.`, ["s3:AbortMultipartUpload"]),
    readCluster(names, cluster),
    {
      sid: "ListOwnCluster",
      why: "Telling an object that is missing from one that is forbidden.",
      actions: ["s3:ListBucket"],
      resources: [names.bucketArn],
      conditions: { StringLike: { "s3:prefix": `v1/${cluster}/*` } },
    },
    keyGrant("UseDataKeyInS3", "Backups are encrypted; completing a multipart upload decrypts.", storage.dataKey.keyArn, "s3", ["kms:GenerateDataKey", "kms:Decrypt"]),
    { sid: "FetchHelper", why: "The helper of the deployed release, to install.", actions: ["s3:GetObject"], resources: [helper.objectArn] },
    { sid: "ReadOwnSettings", why: "What its host.toml is first made of.", actions: ["ssm:GetParameter"], resources: [names.hostParameterArn(cluster)] },
  ];
}

function drillGrants(names: Names, storage: Storage, cluster: string): Grant[] {
  return [
    readCluster(names, cluster),
    createAt(names, [`v1/${cluster}/drills/*/report.json`], "The drill's report, and no certificate."),
    keyGrant("UseDataKeyInS3", "Backups and reports are encrypted.", storage.dataKey.keyArn, "s3", ["kms:GenerateDataKey", "kms:Decrypt"]),
    {
      sid: "AnswerTheDrill",
      why: "Heartbeats and the result go to the execution that waits; whoever answers needs its task token.",
      actions: ["states:SendTaskHeartbeat", "states:SendTaskSuccess", "states:SendTaskFailure"],
      resources: [names.machine("drill")],
    },
  ];
}

/** Nothing reaches a drill's instance, and it reaches S3's and Step Functions' endpoints only. */
function drillGroup(scope: Construct, { network }: Config, names: Names): CfnSecurityGroup {
  return new CfnSecurityGroup(scope, "DrillGroup", {
    groupName: names.of("drill"),
    groupDescription: "Highwater drills: nothing comes in; out to the endpoints only",
    vpcId: network.vpc_id,
    // Without a rule of its own, EC2 would let everything out.
    securityGroupEgress: [
      { ipProtocol: "tcp", fromPort: 443, toPort: 443, destinationPrefixListId: network.s3_prefix_list_id, description: "S3 gateway endpoint" },
      { ipProtocol: "tcp", fromPort: 443, toPort: 443, destinationSecurityGroupId: network.endpoint_security_group_id, description: "Interface endpoints" },
    ],
    tags: tags(names),
  });
}

/** Image, type, subnet, profile, user data and the volume's size come with each launch: they depend on cluster and plan. */
function drillTemplate(scope: Construct, config: Config, names: Names, storage: Storage, groupId: string): CfnLaunchTemplate {
  const ebs = { encrypted: true, kmsKeyId: storage.dataKey.keyArn, volumeType: "gp3", volumeSize: 100, deleteOnTermination: true };
  return new CfnLaunchTemplate(scope, "DrillTemplate", {
    launchTemplateName: names.of("drill"),
    launchTemplateData: {
      securityGroupIds: [groupId],
      instanceInitiatedShutdownBehavior: "terminate",
      disableApiTermination: false,
      metadataOptions: { httpEndpoint: "enabled", httpTokens: "required", httpPutResponseHopLimit: 1, instanceMetadataTags: "disabled" },
      blockDeviceMappings: [{ deviceName: config.drill_root_device, ebs }],
      tagSpecifications: ["instance", "volume", "network-interface"].map((resourceType) => ({ resourceType, tags: tags(names) })),
    },
  });
}

function tags(names: Names): CfnTag[] {
  return [
    { key: TAG.deployment, value: names.deployment },
    { key: TAG.purpose, value: "drill" },
  ];
}
