// The Lambda functions: one binary, one role and one log group each. What a function may do stands in one table, with
// reasons; its environment is its contract with `functions/` (see ../README.md).

import { Aws, Duration, RemovalPolicy } from "aws-cdk-lib";
import { ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Architecture, type Code, Function, FunctionUrl, FunctionUrlAuthType, LoggingFormat, Runtime } from "aws-cdk-lib/aws-lambda";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import { Construct } from "constructs";
import type { Config } from "./config.ts";
import { FUNCTIONS, type FunctionName, type MachineName, type Names, TAG } from "./names.ts";
import { type Grant, keyGrant, roleOf } from "./permissions.ts";
import type { Hosts } from "./hosts.ts";
import type { Release } from "./release.ts";
import { type Storage, STATUS_PAGE } from "./storage.ts";

/** What one function is. */
interface Spec {
  description: string;
  timeout: Duration;
  memoryMiB?: number;
  /** Called by events: what it could not handle goes to the dead letters. */
  byEvent?: boolean;
  env: Record<string, string>;
  grants: Grant[];
}

/** Every function. */
export class Functions extends Construct {
  readonly #functions = new Map<FunctionName, Function>();
  /** Where a person decides: the caller is whom IAM vouches for. */
  readonly approvalUrl: FunctionUrl;

  constructor(scope: Construct, id: string, config: Config, names: Names, storage: Storage, hosts: Hosts, release: Release) {
    super(scope, id);
    const specs = specifications(config, names, storage, hosts);
    for (const name of FUNCTIONS) this.#functions.set(name, this.#function(name, specs[name], config, names, storage, release.code(name)));
    this.approvalUrl = this.get("decide-approval").addFunctionUrl({ authType: FunctionUrlAuthType.AWS_IAM });
    this.get("request-approval").addEnvironment("HIGHWATER_APPROVAL_URL", this.approvalUrl.url);
  }

  get(name: FunctionName): Function {
    return this.#functions.get(name) as Function;
  }

  all(): Function[] {
    return [...this.#functions.values()];
  }

  #function(name: FunctionName, spec: Spec, config: Config, names: Names, storage: Storage, code: Code): Function {
    const logGroup = new LogGroup(this, `${name}-log`, { logGroupName: `/aws/lambda/${names.of(name)}`, retention: config.log_retention_days, removalPolicy: RemovalPolicy.DESTROY });
    const grants = [...spec.grants, log(logGroup.logGroupArn), ...(spec.byEvent ? [deadLetter(storage)] : [])];
    const role = roleOf(this, `${name}-role`, {
      roleName: names.of(name),
      description: spec.description,
      assumedBy: new ServicePrincipal("lambda.amazonaws.com"),
      grants,
    });
    return new Function(this, name, {
      functionName: names.of(name),
      description: spec.description,
      code,
      handler: "bootstrap",
      runtime: Runtime.PROVIDED_AL2023,
      architecture: config.architecture === "arm64" ? Architecture.ARM_64 : Architecture.X86_64,
      memorySize: spec.memoryMiB ?? 256,
      timeout: spec.timeout,
      role: role.withoutPolicyUpdates(),
      logGroup,
      loggingFormat: LoggingFormat.JSON,
      ...(spec.byEvent ? { deadLetterQueue: storage.deadLetters, retryAttempts: 2, maxEventAge: Duration.hours(6) } : {}),
      environment: {
        HIGHWATER_DEPLOYMENT: names.deployment,
        HIGHWATER_CLUSTERS: names.parameters,
        HIGHWATER_TABLE: names.of("catalog"),
        HIGHWATER_BUCKET: names.bucket,
        ...spec.env,
      },
    });
  }
}

const log = (arn: string): Grant => ({ sid: "WriteOwnLog", why: "Its own log group.", actions: ["logs:CreateLogStream", "logs:PutLogEvents"], resources: [arn] });
const deadLetter = (storage: Storage): Grant => ({
  sid: "KeepWhatFailed",
  why: "An event that failed every attempt is kept.",
  actions: ["sqs:SendMessage"],
  resources: [storage.deadLetters.queueArn],
});

function specifications(config: Config, names: Names, storage: Storage, hosts: Hosts): Record<FunctionName, Spec> {
  const [GET, QUERY, PUT, UPDATE, CHECK, DELETE] = ["GetItem", "Query", "PutItem", "UpdateItem", "ConditionCheckItem", "DeleteItem"].map((action) => `dynamodb:${action}`) as [string, string, string, string, string, string];
  const catalog = (why: string, actions: string[]): Grant => ({ sid: "UseCatalog", why, actions, resources: [names.tableArn] });
  const openOperations: Grant = { sid: "FindOpen", why: "Unfinished operations, by the sparse index.", actions: ["dynamodb:Query"], resources: [`${names.tableArn}/index/open`] };
  const cluster: Grant = { sid: "ReadCluster", why: "The cluster's configuration.", actions: ["ssm:GetParameter"], resources: [`${names.parameterArn}/*`] };
  const everyCluster: Grant = {
    sid: "ReadClusters",
    why: "The configuration of every cluster.",
    actions: ["ssm:GetParameter", "ssm:GetParametersByPath"],
    resources: [names.parameterArn, `${names.parameterArn}/*`],
  };
  const read = (keys: string[], why: string, actions = ["s3:GetObject", "s3:GetObjectVersion"]): Grant => ({
    sid: "ReadObjects",
    why,
    actions,
    resources: keys.map((key) => names.objects(key)),
  });
  const create = (keys: string, why: string): Grant => ({ sid: "CreateObjects", why: `${why} The bucket's policy refuses to overwrite.`, actions: ["s3:PutObject"], resources: [names.objects(keys)] });
  const tellAbsent = (keys: string, why: string): Grant => ({
    sid: "TellAbsent",
    why: `${why} Of an absent object S3 says 403 to whom may not list.`,
    actions: ["s3:ListBucket"],
    resources: [names.bucketArn],
    conditions: { StringLike: { "s3:prefix": keys } },
  });
  const s3Key = (write: boolean) =>
    keyGrant("UseDataKeyInS3", "Objects are encrypted.", storage.dataKey.keyArn, "s3", write ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"]);
  const notify = (why: string): Grant[] => [
    { sid: "Notify", why, actions: ["sns:Publish"], resources: [storage.topic.topicArn] },
    keyGrant("UseDataKeyInSns", "Notifications are encrypted.", storage.dataKey.keyArn, "sns", ["kms:Decrypt", "kms:GenerateDataKey"]),
  ];
  const send = (document: "backup" | "promote", why: string): Grant[] => [
    { sid: "SendDocument", why, actions: ["ssm:SendCommand"], resources: [names.document(document)] },
    {
      sid: "SendToOurHosts",
      why: "Only to hosts that carry this deployment's tag.",
      actions: ["ssm:SendCommand"],
      resources: [names.arn("ec2", "instance", "*"), names.arn("ssm", "managed-instance", "*")],
      conditions: { StringEquals: { [`ssm:resourceTag/${TAG.deployment}`]: names.deployment } },
    },
  ];
  const commandResult: Grant = { sid: "ReadCommandResult", why: "The true status of a command; the action knows no resource.", actions: ["ssm:GetCommandInvocation"], resources: ["*"] };
  const findPrimary: Grant = { sid: "FindPrimary", why: "The host that carries the primary's tag; the action knows no resource.", actions: ["ec2:DescribeInstances"], resources: ["*"] };
  const findCommands: Grant = { sid: "FindCommands", why: "The commands of one operation, by their comment: a lost reply may hide one; the action knows no resource.", actions: ["ssm:ListCommandInvocations"], resources: ["*"] };
  const answer = (machine: MachineName): Grant => ({
    sid: "AnswerTask",
    why: `The result goes to the ${machine} execution that waits.`,
    actions: ["states:SendTaskSuccess", "states:SendTaskFailure"],
    resources: [names.machine(machine)],
  });
  const start = (machine: MachineName, why: string): Grant => ({ sid: "StartExecution", why, actions: ["states:StartExecution"], resources: [names.machine(machine)] });
  const verify: Grant = { sid: "VerifyCertificate", why: "No approval and no promotion without a certificate that is ours.", actions: ["kms:Verify"], resources: [storage.signingKey.keyArn] };
  // Reports lie beside what they are of, and once more among the pages.
  const createPages = (keys: string): Grant => ({ sid: "CreatePages", why: "A report for people. The bucket's policy refuses to overwrite.", actions: ["s3:PutObject"], resources: [`${names.pagesArn}/${keys}`] });
  const publish: Grant = { sid: "AskForStatus", why: "What the status page shows has changed.", actions: ["lambda:InvokeFunction"], resources: [names.function("publish-status")] };
  const DRILLS = "v1/*/drills/*";
  const PROMOTIONS = "v1/*/promotions/*";
  const env = {
    topic: { HIGHWATER_TOPIC: storage.topic.topicArn },
    signing: { HIGHWATER_SIGNING_KEY: storage.signingKey.keyArn },
    status: { HIGHWATER_PUBLISH_STATUS: names.of("publish-status") },
    pages: { HIGHWATER_PAGES: names.pages },
  };
  const short = Duration.seconds(60);

  return {
    "start-backup": {
      description: "Takes the cluster's lease, decides full or incremental, writes the request, sends the command",
      timeout: short,
      byEvent: true,
      env: { HIGHWATER_BACKUP_DOCUMENT: names.of("backup") },
      grants: [
        cluster,
        findPrimary,
        catalog("Lease, decision and intent.", [GET, QUERY, PUT, UPDATE, CHECK]),
        create("v1/*/requests/*", "The request."),
        read(["v1/*/requests/*"], "A request that a lost reply hid is compared with its own."),
        s3Key(true),
        ...send("backup", "The backup command."),
        findCommands,
      ],
    },
    "finish-backup": {
      description: "Checks every object of a finished backup and commits it; releases the lease",
      timeout: Duration.minutes(5),
      byEvent: true,
      env: { ...env.topic, ...env.status, HIGHWATER_DRILL_MACHINE: names.machine("drill") },
      grants: [
        cluster,
        catalog("The commit, as one conditional transaction, and the lease.", [GET, QUERY, PUT, UPDATE]),
        commandResult,
        findCommands,
        read(["v1/*"], "The manifest, and each object's size and checksum."),
        tellAbsent("v1/*", "Whether a manifest is there."),
        s3Key(false),
        {
          sid: "ExtendLocks",
          why: "A base must stay locked as long as its newest child.",
          actions: ["s3:GetObjectRetention", "s3:PutObjectRetention"],
          resources: [names.objects(`v1/*`)],
        },
        start("drill", "A drill after each backup, where the cluster asks for it."),
        ...notify("A backup that failed."),
        publish,
      ],
    },
    reconcile: {
      description: "Finishes what a lost event left open, expires leases, ends leaked instances, reports what is overdue",
      timeout: Duration.minutes(5),
      byEvent: true,
      env: { ...env.topic, ...env.status, HIGHWATER_FINISH_BACKUP: names.of("finish-backup"), HIGHWATER_FINISH_PROMOTE: names.of("finish-promote") },
      grants: [
        everyCluster,
        { sid: "ReadDeployment", why: "Prices, for the estimated cost.", actions: ["ssm:GetParameter"], resources: [names.deploymentParameterArn] },
        catalog("Dead leases and lost operations.", [GET, QUERY, PUT]),
        openOperations,
        { sid: "FinishForThem", why: "What an event would have called.", actions: ["lambda:InvokeFunction"], resources: [names.function("finish-backup"), names.function("finish-promote")] },
        { sid: "FindInstances", why: "Drill instances, by tag; the action knows no resource.", actions: ["ec2:DescribeInstances"], resources: ["*"] },
        terminate(names),
        {
          sid: "FailLostDrills",
          why: "A drill whose instance is gone need not wait for its heartbeat.",
          actions: ["states:SendTaskFailure"],
          resources: [names.machine("drill")],
        },
        { sid: "ReadExecutions", why: "Whether the execution behind an open operation still runs.", actions: ["states:DescribeExecution"], resources: [names.executions("drill"), names.executions("restore-primary")] },
        ...notify("What is overdue or was lost."),
        publish,
      ],
    },
    "publish-status": {
      description: "Writes the status page from the catalog",
      timeout: Duration.minutes(2),
      byEvent: true,
      env: env.pages,
      grants: [
        { ...everyCluster, actions: ["ssm:GetParametersByPath"] },
        catalog("What the page shows.", [GET, QUERY]),
        { sid: "WriteStatus", why: "The one writer of the page, which is put only over the page that it read.", actions: ["s3:PutObject", "s3:GetObject"], resources: [`${names.pagesArn}/${STATUS_PAGE}`] },
        { sid: "FindStatus", why: "Whether there is a page: of an absent object S3 says 403 to whom may not list.", actions: ["s3:ListBucket"], resources: [names.pagesArn] },
      ],
    },
    "plan-restore": {
      description: "Builds the restore plan of a drill from the catalog and checks that every object is there",
      timeout: Duration.minutes(5),
      env: {},
      grants: [
        cluster,
        catalog("Restore points, and the drill's record.", [GET, QUERY, PUT, CHECK]),
        read(["v1/*"], "The manifests and objects of the plan, and a plan that a lost reply hid."),
        tellAbsent("v1/*", "Whether an object of the plan is there, or an earlier try's plan."),
        create(DRILLS, "The plan."),
        s3Key(true),
      ],
    },
    "launch-drill": {
      description: "Launches a drill's instance; the drill answers with the task's token",
      timeout: short,
      env: {
        HIGHWATER_LAUNCH_TEMPLATE: hosts.launchTemplate.ref,
        HIGHWATER_SUBNETS: config.network.subnet_ids.join(","),
        HIGHWATER_ROOT_DEVICE: config.drill_root_device,
        HIGHWATER_VOLUME_KEY: storage.dataKey.keyArn,
      },
      grants: [
        cluster,
        catalog("The drill's record: intent before the launch, the instance after it.", [GET, PUT]),
        read([DRILLS], "The plan, for the size of the volume; files that a lost reply hid."),
        tellAbsent(DRILLS, "Whether an earlier try gave its token away."),
        create(DRILLS, "The helper's configuration and the task's token, for the instance."),
        s3Key(true),
        ...launch(config, names, hosts, storage),
      ],
    },
    "record-drill": {
      description: "Reads a drill's report, signs its certificate if it passed, records it",
      timeout: short,
      env: { ...env.topic, ...env.signing, ...env.status, ...env.pages },
      grants: [
        catalog("The drill's result.", [GET, PUT]),
        read([DRILLS], "The plan and the report."),
        tellAbsent(DRILLS, "Whether there is a report."),
        create(DRILLS, "The certificate and its signature."),
        s3Key(true),
        { ...verify, why: "A signature that a lost reply hid." },
        { sid: "SignCertificate", why: "The one place that signs.", actions: ["kms:Sign"], resources: [storage.signingKey.keyArn] },
        ...notify("A drill that failed."),
        createPages(DRILLS),
        publish,
      ],
    },
    "request-approval": {
      description: "Records that a promotion waits for approval and asks for it",
      timeout: short,
      env: { ...env.topic, ...env.signing, HIGHWATER_APPROVAL_HOURS: String(config.approval.expires_hours), HIGHWATER_APPROVERS: String(config.approval.approvers) },
      grants: [
        cluster,
        findPrimary,
        catalog("The open approval, with the task's token.", [GET, PUT]),
        read([DRILLS], "The certificate that the approval will be bound to.", ["s3:GetObject"]),
        s3Key(false),
        verify,
        ...notify("The question to the approvers."),
      ],
    },
    "decide-approval": {
      description: "Takes requests for promotions and decisions on them from callers whom IAM vouches for",
      timeout: Duration.seconds(30),
      env: { ...env.topic, HIGHWATER_PROMOTION_MACHINE: names.machine("restore-primary"), HIGHWATER_NAMED_SESSIONS: config.approval.named_sessions.join(",") },
      grants: [
        catalog("Requests, decisions, and who made them.", [GET, QUERY, PUT, CHECK]),
        create(PROMOTIONS, "The approval, for the host."),
        read([PROMOTIONS], "An approval that a lost reply hid."),
        s3Key(true),
        answer("restore-primary"),
        start("restore-primary", "A promotion asked for by a known person."),
        ...notify("The decision, for everyone to see."),
      ],
    },
    promote: {
      description: "Takes the cluster's lease and sends the promotion to the approved host",
      timeout: short,
      env: { ...env.signing, HIGHWATER_PROMOTE_DOCUMENT: names.of("promote") },
      grants: [
        cluster,
        findPrimary,
        catalog("The lease, the approval's use, and the promotion's record.", [GET, PUT, UPDATE, CHECK]),
        read([DRILLS, PROMOTIONS], "Plan, report, certificate and approval, checked again.", ["s3:GetObject"]),
        s3Key(false),
        verify,
        findCommands,
        ...send("promote", "The promotion command."),
      ],
    },
    "finish-promote": {
      description: "Records how a promotion, its resumption or its roll-back ended; opens the new incarnation, releases the lease",
      timeout: short,
      byEvent: true,
      env: { ...env.topic, ...env.status, ...env.pages },
      grants: [
        catalog("The promotion's end, the new incarnation, the lease.", [GET, QUERY, PUT, UPDATE]),
        openOperations,
        commandResult,
        findCommands,
        create(PROMOTIONS, "An approval that was decided on, and whose function broke off; the report of a promotion."),
        read([PROMOTIONS], "An approval that a lost reply hid."),
        s3Key(true),
        answer("restore-primary"),
        ...notify("How a promotion ended; a stuck one above all."),
        createPages(PROMOTIONS),
        publish,
      ],
    },
    prune: {
      description: "Deletes what the keep rules no longer keep: marks in the catalog first, then deletes",
      timeout: Duration.minutes(15),
      memoryMiB: 512,
      byEvent: true,
      env: env.status,
      grants: [
        everyCluster,
        catalog("Marks before, and removes after, the objects are gone.", [GET, QUERY, PUT, UPDATE, DELETE]),
        read(["v1/*"], "The locks of a backup's objects.", ["s3:GetObjectVersion"]),
        s3Key(false),
        {
          sid: "ListVersions",
          why: "Versions below a backup's prefix, left by a crash.",
          actions: ["s3:ListBucketVersions"],
          resources: [names.bucketArn],
          conditions: { StringLike: { "s3:prefix": "v1/*" } },
        },
        {
          sid: "DeleteVersions",
          why: "The one place that deletes; Object Lock still holds.",
          actions: ["s3:DeleteObjectVersion", "s3:GetObjectRetention", "s3:GetObjectLegalHold"],
          resources: [names.objects("v1/*")],
        },
        publish,
      ],
    },
  };
}

/** Ends drill instances of this deployment, and no other instance. */
export function terminate(names: Names): Grant {
  return {
    sid: "EndDrillInstances",
    why: "Only instances that carry this deployment's tag and are for drills.",
    actions: ["ec2:TerminateInstances"],
    resources: [names.arn("ec2", "instance", "*")],
    conditions: { StringEquals: { [`ec2:ResourceTag/${TAG.deployment}`]: names.deployment, [`ec2:ResourceTag/${TAG.purpose}`]: "drill" } },
  };
}

function launch(config: Config, names: Names, hosts: Hosts, storage: Storage): Grant[] {
  const made = ["instance", "volume", "network-interface"].map((type) => names.arn("ec2", type, "*"));
  const template = names.arn("ec2", "launch-template", hosts.launchTemplate.ref);
  const images = [...new Set(Object.values(config.clusters).map((c) => c.drill.image))].map((id) => `arn:${Aws.PARTITION}:ec2:${Aws.REGION}::image/${id}`);
  const used = [...config.network.subnet_ids.map((id) => names.arn("ec2", "subnet", id)), names.arn("ec2", "security-group", hosts.groupId), ...images];
  return [
    {
      sid: "LaunchTagged",
      why: "Only from our template, tagged as ours, with IMDSv2.",
      actions: ["ec2:RunInstances"],
      resources: [names.arn("ec2", "instance", "*")],
      conditions: {
        ArnEquals: { "ec2:LaunchTemplate": template },
        StringEquals: { [`aws:RequestTag/${TAG.deployment}`]: names.deployment, [`aws:RequestTag/${TAG.purpose}`]: "drill", "ec2:MetadataHttpTokens": "required" },
      },
    },
    {
      sid: "LaunchEncrypted",
      why: "The instance's own volume, always encrypted.",
      actions: ["ec2:RunInstances"],
      resources: [names.arn("ec2", "volume", "*")],
      conditions: { ArnEquals: { "ec2:LaunchTemplate": template }, Bool: { "ec2:Encrypted": "true" } },
    },
    {
      sid: "LaunchWith",
      why: "The network interface, template, subnets, group and images of this deployment.",
      actions: ["ec2:RunInstances"],
      resources: [template, ...used, names.arn("ec2", "network-interface", "*")],
      conditions: { ArnEquals: { "ec2:LaunchTemplate": template } },
    },
    { sid: "TagAtLaunch", why: "Tags are set by the launch and not afterwards.", actions: ["ec2:CreateTags"], resources: made, conditions: { StringEquals: { "ec2:CreateAction": "RunInstances" } } },
    {
      sid: "PassDrillRole",
      why: "Drill roles, to EC2 only.",
      actions: ["iam:PassRole"],
      resources: [names.role("drill-*")],
      conditions: { StringEquals: { "iam:PassedToService": "ec2.amazonaws.com" } },
    },
    keyGrant("EncryptVolume", "EC2 encrypts the instance's volume with our key.", storage.dataKey.keyArn, "ec2", ["kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt", "kms:DescribeKey"]),
    {
      ...keyGrant("GrantVolume", "EC2 attaches the volume by a grant that ends with it.", storage.dataKey.keyArn, "ec2", ["kms:CreateGrant"]),
      conditions: { StringEquals: { "kms:ViaService": `ec2.${Aws.REGION}.amazonaws.com` }, Bool: { "kms:GrantIsForAWSResource": "true" } },
    },
  ];
}
