// What is kept: the bucket that holds every backup, the catalog, the keys, the queue of events nobody could handle, the topic.

import { Aws, Duration, RemovalPolicy } from "aws-cdk-lib";
import { AttributeType, BillingMode, ProjectionType, Table } from "aws-cdk-lib/aws-dynamodb";
import { AnyPrincipal, Effect, PolicyStatement, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Key, KeySpec, KeyUsage } from "aws-cdk-lib/aws-kms";
import { BlockPublicAccess, Bucket, BucketEncryption, type IBucket, ObjectLockRetention, ObjectOwnership } from "aws-cdk-lib/aws-s3";
import { Topic } from "aws-cdk-lib/aws-sns";
import { EmailSubscription } from "aws-cdk-lib/aws-sns-subscriptions";
import { Queue, QueueEncryption } from "aws-cdk-lib/aws-sqs";
import { Construct } from "constructs";
import { type Config, MAX_COMMAND_HOURS } from "./config.ts";
import { type Names, TAG } from "./names.ts";
import { replicate } from "./vault.ts";

/** Outlives the stack; a first deployment that fails, and has nothing to keep, leaves nothing in the way of the next. */
const KEPT = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE;

/** The key of the status page. */
export const STATUS_PAGE = "index.html";

/** The stores. Everything that holds backups, or proves them, outlives the stack. */
export class Storage extends Construct {
  /** Encrypts backups, the drills' volumes and notifications. */
  readonly dataKey: Key;
  /** Signs drill certificates; its public half verifies them anywhere. */
  readonly signingKey: Key;
  readonly bucket: Bucket;
  /** The status page, and a copy of every report: to be looked at, not to be relied on. */
  readonly pages: Bucket;
  readonly table: Table;
  readonly deadLetters: Queue;
  readonly topic: Topic;

  constructor(scope: Construct, id: string, config: Config, names: Names) {
    super(scope, id);
    const alias = (what: string) => `alias/${names.of(what)}`;
    this.dataKey = new Key(this, "DataKey", { alias: alias("data"), enableKeyRotation: true, description: "Highwater: backups at rest", removalPolicy: KEPT });
    this.dataKey.addToResourcePolicy(
      new PolicyStatement({
        sid: "AlarmsMayNotify",
        principals: [new ServicePrincipal("cloudwatch.amazonaws.com")],
        actions: ["kms:GenerateDataKey", "kms:Decrypt"],
        resources: ["*"],
        conditions: { StringEquals: { "aws:SourceAccount": Aws.ACCOUNT_ID } },
      }),
    );
    this.signingKey = new Key(this, "SigningKey", {
      alias: alias("certificates"),
      keySpec: KeySpec.ECC_NIST_P256,
      keyUsage: KeyUsage.SIGN_VERIFY,
      description: "Highwater: signs drill certificates",
      removalPolicy: KEPT,
    });

    const logs = this.#accessLogs(names);
    this.bucket = this.#bucket(config, names, logs);
    this.pages = this.#pages(names, logs);
    this.table = new Table(this, "Catalog", {
      tableName: names.of("catalog"),
      partitionKey: { name: "pk", type: AttributeType.STRING },
      sortKey: { name: "sk", type: AttributeType.STRING },
      billingMode: BillingMode.PAY_PER_REQUEST,
      pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
      timeToLiveAttribute: "ttl",
      // A protected table cannot be deleted when a first deployment fails: README says what to do with it.
      deletionProtection: true,
      removalPolicy: RemovalPolicy.RETAIN,
    });
    // Only unfinished operations carry `open`: reconcile finds them in one query, however many backups there are.
    this.table.addGlobalSecondaryIndex({
      indexName: "open",
      partitionKey: { name: "open", type: AttributeType.STRING },
      sortKey: { name: "sk", type: AttributeType.STRING },
      projectionType: ProjectionType.ALL,
    });

    this.deadLetters = new Queue(this, "DeadLetters", {
      queueName: names.of("dead-letters"),
      encryption: QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      retentionPeriod: Duration.days(14),
    });

    this.topic = new Topic(this, "Notifications", { topicName: names.of("notifications"), masterKey: this.dataKey, enforceSSL: true });
    this.topic.applyRemovalPolicy(KEPT);
    // A policy of its own replaces the one that lets the account's alarms publish.
    this.topic.addToResourcePolicy(
      new PolicyStatement({
        sid: "AlarmsMayNotify",
        principals: [new ServicePrincipal("cloudwatch.amazonaws.com")],
        actions: ["sns:Publish"],
        resources: [this.topic.topicArn],
        conditions: { StringEquals: { "aws:SourceAccount": Aws.ACCOUNT_ID } },
      }),
    );
    for (const address of config.notify) this.topic.addSubscription(new EmailSubscription(address));
  }

  #accessLogs(names: Names): Bucket {
    return new Bucket(this, "AccessLogs", {
      bucketName: `${names.deployment}-access-${Aws.ACCOUNT_ID}-${Aws.REGION}`,
      encryption: BucketEncryption.S3_MANAGED,
      blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
      objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
      enforceSSL: true,
      lifecycleRules: [{ id: "forget-old-logs", expiration: Duration.days(365) }],
      removalPolicy: KEPT,
    });
  }

  /**
   * What people look at. Not among the backups: there every version of a page would be locked, and its one overwritten object would be a hole
   * in the rule that nothing is overwritten. Not under the data key: who may read pages need not be able to decrypt backups.
   */
  #pages(names: Names, logs: IBucket): Bucket {
    const pages = new Bucket(this, "Pages", {
      bucketName: names.pages,
      encryption: BucketEncryption.S3_MANAGED,
      blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
      objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
      enforceSSL: true,
      minimumTLSVersion: 1.2,
      serverAccessLogsBucket: logs,
      serverAccessLogsPrefix: "pages/",
      removalPolicy: KEPT,
    });
    const guard = (sid: string, actions: string[], notResources: string[], conditions: Record<string, Record<string, unknown>>) =>
      pages.addToResourcePolicy(new PolicyStatement({ sid, effect: Effect.DENY, principals: [new AnyPrincipal()], actions, notResources, conditions }));
    guard("OnlyTheStatusIsOverwritten", ["s3:PutObject"], [pages.arnForObjects(STATUS_PAGE)], { Null: { "s3:if-none-match": "true" } });
    guard("OnlyPublishStatusWritesTheStatus", ["s3:PutObject"], [pages.arnForObjects("v1/*")], { ArnNotEquals: { "aws:PrincipalArn": [names.role("publish-status")] } });
    return pages;
  }

  #bucket(config: Config, names: Names, logs: IBucket): Bucket {
    const period = Duration.days(config.object_lock.days);
    const bucket = new Bucket(this, "Backups", {
      bucketName: names.bucket,
      versioned: true,
      objectLockEnabled: true,
      objectLockDefaultRetention: config.object_lock.mode === "compliance" ? ObjectLockRetention.compliance(period) : ObjectLockRetention.governance(period),
      encryption: BucketEncryption.KMS,
      encryptionKey: this.dataKey,
      bucketKeyEnabled: true,
      blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
      objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
      enforceSSL: true,
      minimumTLSVersion: 1.2,
      serverAccessLogsBucket: logs,
      serverAccessLogsPrefix: "backups/",
      lifecycleRules: [
        // Longer than any backup may run, so that no running upload is cut off.
        { id: "abort-orphaned-uploads", abortIncompleteMultipartUploadAfter: Duration.days(Math.ceil(MAX_COMMAND_HOURS / 24) + 1) },
        // Versions go only by prune, by their id: a version that somebody hid is kept until a person has looked.
        { id: "forget-empty-markers", expiredObjectDeleteMarker: true },
      ],
      removalPolicy: KEPT,
    });
    if (config.vault) replicate(this, bucket, this.dataKey, config.vault, names);
    for (const statement of guards(bucket, this.dataKey.keyArn, names)) bucket.addToResourcePolicy(statement);
    // Without its stack the bucket keeps its guards: then nobody deletes at all.
    bucket.policy?.applyRemovalPolicy(KEPT);
    return bucket;
  }
}

/** The denials that hold whatever else a principal may do (I7). */
function guards(bucket: IBucket, keyArn: string, names: Names): PolicyStatement[] {
  const deny = (sid: string, actions: string[], resources: { resources: string[] } | { notResources: string[] }, conditions: Record<string, Record<string, unknown>>) =>
    new PolicyStatement({ sid, effect: Effect.DENY, principals: [new AnyPrincipal()], actions, ...resources, conditions });
  const all = { resources: [bucket.arnForObjects("*")] };
  const cluster = `\${aws:PrincipalTag/${TAG.cluster}}`;
  const tagged = { [`aws:PrincipalTag/${TAG.cluster}`]: "false" };
  const other = (key: string, than: string) => ({ Null: { [key]: "false" }, StringNotEquals: { [key]: than } });
  const except = (...roles: string[]) => ({ ArnNotEquals: { "aws:PrincipalArn": roles.map((role) => names.role(role)) } });
  return [
    // CreateMultipartUpload and UploadPart take no condition and create nothing: they are the exemption. Copies cannot carry one: refused.
    deny("OnlyNewObjects", ["s3:PutObject"], all, { Null: { "s3:if-none-match": "true" }, Bool: { "s3:ObjectCreationOperation": "true" } }),
    // A write that names nothing gets the bucket's own encryption. StringNotEqualsIfExists would deny it: an absent key makes it true.
    deny("OnlyOurKey", ["s3:PutObject"], all, other("s3:x-amz-server-side-encryption-aws-kms-key-id", keyArn)),
    deny("OnlyKmsEncryption", ["s3:PutObject"], all, other("s3:x-amz-server-side-encryption", "aws:kms")),
    deny("OnlyPruneDeletes", ["s3:DeleteObject", "s3:DeleteObjectVersion"], all, except("prune")),
    deny("OnlyFinishBackupExtendsLocks", ["s3:PutObjectRetention", "s3:PutObjectLegalHold"], all, except("finish-backup")),
    deny("NobodyBypassesLocks", ["s3:BypassGovernanceRetention"], all, {}),
    // A DB host or drill is tagged with its cluster: outside that cluster's prefix it has nothing, whatever its own policies say.
    deny(
      "HostsStayInTheirCluster",
      ["s3:PutObject", "s3:GetObject", "s3:GetObjectVersion", "s3:AbortMultipartUpload"],
      { notResources: [bucket.arnForObjects(`v1/${cluster}/*`)] },
      { Null: tagged },
    ),
    deny(
      "DrillsWriteOnlyDrills",
      ["s3:PutObject", "s3:AbortMultipartUpload"],
      { notResources: [bucket.arnForObjects(`v1/${cluster}/drills/*`)] },
      { StringEquals: { [`aws:PrincipalTag/${TAG.purpose}`]: "drill" } },
    ),
  ];
}
