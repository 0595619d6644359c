// The vault: a bucket that the deployment's account fills by replication, and in which nobody of that account can delete, overwrite or
// read anything. This file has both ends: what the deployment's own stack needs, and the stack that the vault's account deploys.

import { ArnFormat, Aws, CfnOutput, Duration, RemovalPolicy, Stack, type StackProps, Validations } from "aws-cdk-lib";
import { AccountPrincipal, AnyPrincipal, Effect, PolicyStatement, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Key } from "aws-cdk-lib/aws-kms";
import { BlockPublicAccess, Bucket, BucketEncryption, type CfnBucket, ObjectLockRetention, ObjectOwnership } from "aws-cdk-lib/aws-s3";
import type { Construct } from "constructs";
import { ConfigError, type Vault } from "./config.ts";
import type { Names } from "./names.ts";
import { type Grant, keyGrant, policyOf, roleOf } from "./permissions.ts";

/** The deployment's role by which S3 replicates. */
const REPLICATION = "replication";

/** What S3 may do in the vault on the deployment's behalf; nothing else may come from outside the vault's account. */
const FROM_OUTSIDE = { objects: ["s3:ReplicateObject", "s3:ObjectOwnerOverrideToBucketOwner"], bucket: ["s3:GetBucketVersioning", "s3:ListBucket"] };

/** Lets S3 copy every new object of `bucket` to the vault. Deletions are never replicated, of a version or by a marker. */
export function replicate(scope: Construct, bucket: Bucket, key: Key, vault: Vault, names: Names): void {
  if (vault.kms_key === undefined) throw new ConfigError("vault.kms_key is missing: deploy the vault's stack first (bin/vault.ts); its output VaultKey belongs here");
  const target = `arn:${Aws.PARTITION}:s3:::${vault.bucket}`;
  const grants: Grant[] = [
    { sid: "ReadRule", why: "The rule, and which objects there are.", actions: ["s3:GetReplicationConfiguration", "s3:ListBucket"], resources: [names.bucketArn] },
    {
      sid: "ReadVersions",
      why: "Every object, with its lock: the copy is locked like it.",
      actions: ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging", "s3:GetObjectRetention", "s3:GetObjectLegalHold"],
      resources: [names.objects("*")],
    },
    { sid: "WriteCopies", why: "Copies, which then belong to the vault's account; no deletions.", actions: FROM_OUTSIDE.objects, resources: [`${target}/*`] },
    keyGrant("DecryptOurs", "What is copied is encrypted here.", key.keyArn, "s3", ["kms:Decrypt"]),
    {
      sid: "EncryptTheirs",
      why: "And encrypted there with the vault's key.",
      actions: ["kms:Encrypt"],
      resources: [vault.kms_key],
      conditions: { StringEquals: { "kms:ViaService": `s3.${vault.region}.amazonaws.com` } },
    },
  ];
  const role = roleOf(scope, "Replication", {
    roleName: names.of(REPLICATION),
    description: "S3 replicates the backups to the vault",
    assumedBy: new ServicePrincipal("s3.amazonaws.com"),
    grants,
  });
  (bucket.node.defaultChild as CfnBucket).replicationConfiguration = {
    role: role.roleArn,
    rules: [
      {
        id: "vault",
        priority: 1,
        status: "Enabled",
        filter: { prefix: "v1/" },
        deleteMarkerReplication: { status: "Disabled" },
        sourceSelectionCriteria: { sseKmsEncryptedObjects: { status: "Enabled" } },
        destination: {
          bucket: target,
          account: vault.account,
          accessControlTranslation: { owner: "Destination" },
          encryptionConfiguration: { replicaKmsKeyId: vault.kms_key },
        },
      },
    ],
  };
}

/** The stack of the vault's account. */
export class VaultStack extends Stack {
  constructor(scope: Construct, id: string, props: StackProps & { deployment: string; vault: Vault }) {
    const { deployment, vault, ...rest } = props;
    super(scope, id, { description: `Highwater: the vault of ${deployment}`, ...rest });
    const source = new AccountPrincipal(vault.source_account);
    // By a condition, since a principal has to exist and this role is made after the vault.
    const role = this.formatArn({ service: "iam", region: "", account: vault.source_account, resource: "role", resourceName: `${deployment}-${REPLICATION}`, arnFormat: ArnFormat.SLASH_RESOURCE_NAME });
    const byReplication = { ArnEquals: { "aws:PrincipalArn": role } };

    const key = new Key(this, "Key", { alias: `alias/${deployment}-vault`, enableKeyRotation: true, description: `Highwater: the vault of ${deployment}`, removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE });
    key.addToResourcePolicy(
      new PolicyStatement({
        sid: "ReplicationMayEncrypt",
        principals: [source],
        actions: ["kms:Encrypt"],
        resources: ["*"],
        conditions: { ...byReplication, StringEquals: { "kms:ViaService": `s3.${vault.region}.amazonaws.com` } },
      }),
    );

    const bucket = new Bucket(this, "Bucket", {
      bucketName: vault.bucket,
      versioned: true,
      objectLockEnabled: true,
      objectLockDefaultRetention: ObjectLockRetention.compliance(Duration.days(vault.lock_days)),
      encryption: BucketEncryption.KMS,
      encryptionKey: key,
      bucketKeyEnabled: true,
      blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
      objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
      enforceSSL: true,
      minimumTLSVersion: 1.2,
      removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
      ...(vault.keep_days === undefined
        ? {}
        : {
            lifecycleRules: [
              // First hidden by a marker, then gone: a version that is still locked stays until its lock ends.
              { id: "forget-old-copies", expiration: Duration.days(vault.keep_days), noncurrentVersionExpiration: Duration.days(1) },
              { id: "forget-empty-markers", expiredObjectDeleteMarker: true },
            ],
          }),
    });
    Validations.of(bucket).acknowledge({ id: "AwsSolutions-S1", reason: "The vault's account has CloudTrail for who reads; a log bucket would be a second thing to guard." });
    const objects = bucket.arnForObjects("*");
    const allow = (sid: string, actions: string[], resource: string) =>
      new PolicyStatement({ sid, principals: [source], actions, resources: [resource], conditions: byReplication });
    bucket.addToResourcePolicy(allow("ReplicationMayCopy", FROM_OUTSIDE.objects, objects));
    bucket.addToResourcePolicy(allow("ReplicationMayLook", FROM_OUTSIDE.bucket, bucket.bucketArn));
    bucket.addToResourcePolicy(
      new PolicyStatement({
        sid: "NothingElseFromOutside",
        effect: Effect.DENY,
        principals: [new AnyPrincipal()],
        notActions: [...FROM_OUTSIDE.objects, ...FROM_OUTSIDE.bucket],
        resources: [bucket.bucketArn, objects],
        conditions: { StringNotEquals: { "aws:PrincipalAccount": vault.account }, Bool: { "aws:PrincipalIsAWSService": "false" } },
      }),
    );
    bucket.addToResourcePolicy(
      new PolicyStatement({
        sid: "NobodyDeletes",
        effect: Effect.DENY,
        principals: [new AnyPrincipal()],
        actions: ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:ReplicateDelete", "s3:BypassGovernanceRetention", "s3:PutObject"],
        resources: [objects],
      }),
    );

    policyOf(this, "Reader", {
      managedPolicyName: `${deployment}-vault-reader`,
      description: "Plan and restore from the vault: for a person, and for the host that is to be restored",
      grants: [
        { sid: "ReadCopies", why: "Manifests and data of every cluster.", actions: ["s3:GetObject", "s3:GetObjectVersion"], resources: [objects] },
        { sid: "ListCopies", why: "Which there are, in which versions.", actions: ["s3:ListBucket", "s3:ListBucketVersions"], resources: [bucket.bucketArn] },
        keyGrant("UseKeyInS3", "Copies are encrypted.", key.keyArn, "s3", ["kms:Decrypt"]),
      ],
    });
    new CfnOutput(this, "VaultBucket", { description: "highwater plan --copied --bucket", value: bucket.bucketName });
    new CfnOutput(this, "VaultKey", { description: "vault.kms_key of the deployment's configuration", value: key.keyArn });
  }
}
