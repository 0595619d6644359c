// The template's own promises, and cdk-nag's. What IAM allows is in access.test.ts.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { App, DefaultStackSynthesizer, Validations } from "aws-cdk-lib";
import { Match, Template } from "aws-cdk-lib/assertions";
import { AwsSolutionsChecks } from "cdk-nag";
import type { IConstruct } from "constructs";
import { beforeAll, describe, expect, it } from "vitest";
import { type Config, loadConfig } from "../lib/config.ts";
import { FUNCTIONS } from "../lib/names.ts";
import { HighwaterStack } from "../lib/stack.ts";
import { EXAMPLE, named, plain, type Synthesised, synthesise, withArtifacts } from "./fixture.ts";

let s: Synthesised;
beforeAll(() => {
  s = synthesise();
});
const has = (type: string, properties: object) => s.template.hasResourceProperties(type, properties);

describe("cdk-nag", () => {
  /** The checks, noting which acknowledgements they came to need. */
  class Noting extends AwsSolutionsChecks {
    readonly needed = new Set<string>();
    // Private in its type, not in its class: there is no other way to see what an acknowledgement was for.
    constructor() {
      super();
      const self = this as unknown as { isAcknowledged(resource: IConstruct, rule: string): boolean };
      const original = self.isAcknowledged.bind(this);
      self.isAcknowledged = (resource, rule) => {
        const acknowledged = original(resource, rule);
        if (acknowledged) this.needed.add(rule);
        return acknowledged;
      };
    }
  }
  const acknowledgements = () =>
    s.app.node
      .findAll()
      .flatMap((c) => c.node.metadata)
      .filter((m) => m.type === Validations.ACKNOWLEDGED_RULES_METADATA_KEY)
      .flatMap((m) => Object.entries(m.data as Record<string, string>))
      .map(([id, reason]) => ({ id: id.replace(/^annotation::/i, ""), reason }));

  it("finds nothing, and needs each acknowledgement, each of which has a reason", () => {
    const checks = new Noting();
    expect(checks.validateScope(s.app).violations.map((v) => `${v.ruleName} ${v.violatingResources[0]?.constructPath}`)).toEqual([]);
    expect(new Set(acknowledgements().map((a) => a.id))).toEqual(checks.needed);
    for (const { id, reason } of acknowledgements()) expect(reason.length, id).toBeGreaterThan(20);
  });
  it("would find something", () => {
    const { app, stack } = synthesise();
    stack.node.findChild("Storage").node.findChild("DeadLetters").node.tryRemoveChild("Policy");
    expect(new AwsSolutionsChecks().validateScope(app).violations.map((v) => v.ruleName)).toEqual(["AwsSolutions-SQS4"]);
  });
  it("passes in the app itself, which writes the template that cfn-lint reads", () => {
    withArtifacts((artifacts) => {
      const out = new URL("../cdk.out", import.meta.url).pathname;
      const run = spawnSync(process.execPath, ["--import", "tsx", "bin/highwater.ts"], {
        cwd: new URL("..", import.meta.url).pathname,
        env: { ...process.env, HIGHWATER_ARTIFACTS: artifacts, CDK_OUTDIR: out },
        encoding: "utf8",
      });
      expect(run.stderr + run.stdout).toBe("");
      expect(run.status).toBe(0);
      expect(existsSync(`${out}/highwater.template.json`)).toBe(true);
    });
  });
});

describe("what is kept", () => {
  it("lies in a versioned, locked, encrypted, private bucket", () => {
    has("AWS::S3::Bucket", {
      VersioningConfiguration: { Status: "Enabled" },
      ObjectLockEnabled: true,
      ObjectLockConfiguration: { ObjectLockEnabled: "Enabled", Rule: { DefaultRetention: { Mode: "GOVERNANCE", Days: 14 } } },
      BucketEncryption: { ServerSideEncryptionConfiguration: [{ BucketKeyEnabled: true, ServerSideEncryptionByDefault: { SSEAlgorithm: "aws:kms" } }] },
      PublicAccessBlockConfiguration: { BlockPublicAcls: true, BlockPublicPolicy: true, IgnorePublicAcls: true, RestrictPublicBuckets: true },
    });
  });
  it("loses orphaned uploads after every running one has ended, and no version to a lifecycle rule", () => {
    const rules = named(s.template, "AWS::S3::Bucket", "BucketName", "highwater-111122223333-eu-west-1").Properties.LifecycleConfiguration.Rules;
    const days = rules.map((r: any) => r.AbortIncompleteMultipartUpload?.DaysAfterInitiation).filter(Boolean);
    expect(days).toEqual([3]);
    for (const rule of rules) for (const key of ["ExpirationInDays", "NoncurrentVersionExpiration", "Transitions"]) expect(rule[key]).toBeUndefined();
  });
  it("outlives the stack", () => {
    for (const type of ["AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::KMS::Key", "AWS::SNS::Topic"]) {
      const kept = type === "AWS::DynamoDB::Table" ? "Retain" : "RetainExceptOnCreate";
      for (const resource of Object.values(s.template.findResources(type))) expect([resource.DeletionPolicy, resource.UpdateReplacePolicy], type).toEqual([kept, "Retain"]);
    }
    const guards = Object.values<any>(s.template.findResources("AWS::S3::BucketPolicy")).find((p) => p.Properties.PolicyDocument.Statement.some((each: any) => each.Sid === "OnlyPruneDeletes"));
    expect(guards.DeletionPolicy).toBe("RetainExceptOnCreate");
  });
  it("is shown in a private bucket that holds no backup: without lock, without the data key", () => {
    const pages = named(s.template, "AWS::S3::Bucket", "BucketName", "highwater-pages-111122223333-eu-west-1").Properties;
    for (const key of ["ObjectLockEnabled", "VersioningConfiguration", "WebsiteConfiguration"]) expect(pages[key], key).toBeUndefined();
    expect(pages.PublicAccessBlockConfiguration).toEqual({ BlockPublicAcls: true, BlockPublicPolicy: true, IgnorePublicAcls: true, RestrictPublicBuckets: true });
    expect(pages.BucketEncryption.ServerSideEncryptionConfiguration).toEqual([{ ServerSideEncryptionByDefault: { SSEAlgorithm: "AES256" } }]);
  });
  it("is catalogued in a protected table with recovery, expiry and the index of open operations", () => {
    has("AWS::DynamoDB::Table", {
      TableName: "highwater-catalog",
      BillingMode: "PAY_PER_REQUEST",
      DeletionProtectionEnabled: true,
      PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true },
      TimeToLiveSpecification: { AttributeName: "ttl", Enabled: true },
      GlobalSecondaryIndexes: [Match.objectLike({ IndexName: "open", KeySchema: [{ AttributeName: "open", KeyType: "HASH" }, { AttributeName: "sk", KeyType: "RANGE" }] })],
    });
  });
  it("is vouched for by a key that signs and does nothing else", () => has("AWS::KMS::Key", { KeySpec: "ECC_NIST_P256", KeyUsage: "SIGN_VERIFY" }));
});

describe("a drill's instance", () => {
  it("has IMDSv2 with one hop, an encrypted volume, no inbound, and ends when it shuts down", () => {
    const { LaunchTemplateData: data } = named(s.template, "AWS::EC2::LaunchTemplate", "LaunchTemplateName", "highwater-drill").Properties;
    expect(data.MetadataOptions).toEqual({ HttpEndpoint: "enabled", HttpTokens: "required", HttpPutResponseHopLimit: 1, InstanceMetadataTags: "disabled" });
    expect(data.BlockDeviceMappings[0].Ebs).toMatchObject({ Encrypted: true, DeleteOnTermination: true, KmsKeyId: "arn:aws:kms:eu-west-1:111122223333:key/data" });
    expect(data.InstanceInitiatedShutdownBehavior).toBe("terminate");
    for (const key of ["UserData", "KeyName", "NetworkInterfaces", "IamInstanceProfile"]) expect(data[key], key).toBeUndefined();
    for (const { Tags } of data.TagSpecifications) expect(Tags).toContainEqual({ Key: "highwater:purpose", Value: "drill" });
  });
  it("reaches the endpoints and nothing else", () => {
    const group = named(s.template, "AWS::EC2::SecurityGroup", "GroupName", "highwater-drill").Properties;
    expect(group.SecurityGroupIngress).toBeUndefined();
    expect(group.SecurityGroupEgress.map((e: any) => [e.FromPort, e.ToPort, e.CidrIp, e.DestinationPrefixListId ?? e.DestinationSecurityGroupId])).toEqual([
      [443, 443, undefined, "pl-6da54004"],
      [443, 443, undefined, "sg-0123456789abcdef0"],
    ]);
  });
});

describe("the functions", () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const environment = (name: string) => Object.keys(named(s.template, "AWS::Lambda::Function", "FunctionName", `highwater-${name}`).Properties.Environment.Variables);

  it("are twelve binaries on the plain runtime, each with a role and a log group of its own", () => {
    const functions = Object.values(s.template.findResources("AWS::Lambda::Function")).map((f) => f.Properties);
    expect(functions.map((f) => f.FunctionName).sort()).toEqual(FUNCTIONS.map((n) => `highwater-${n}`).sort());
    for (const f of functions) expect(f).toMatchObject({ Handler: "bootstrap", Runtime: "provided.al2023", Architectures: ["x86_64"] });
    for (const property of ["Role", "LoggingConfig"]) expect(new Set(functions.map((f) => JSON.stringify(f[property]))).size).toBe(FUNCTIONS.length);
  });
  it("get the environment that the README states, and no more", () => {
    const common = environment("plan-restore");
    expect(common).toEqual(["HIGHWATER_DEPLOYMENT", "HIGHWATER_CLUSTERS", "HIGHWATER_TABLE", "HIGHWATER_BUCKET"]);
    for (const variable of common) expect(readme).toContain(`\`${variable}\``);
    for (const name of FUNCTIONS) {
      const row = readme.split("\n").find((line) => line.startsWith(`| \`${name}\` |`)) ?? "";
      expect([...row.matchAll(/HIGHWATER_\w+/g)].map((m) => m[0]).sort(), name).toEqual(environment(name).filter((v) => !common.includes(v)).sort());
    }
  });
  it("keep what they could not handle when an event called them", () => {
    for (const name of ["start-backup", "finish-backup", "reconcile", "publish-status", "finish-promote", "prune"]) {
      expect(named(s.template, "AWS::Lambda::Function", "FunctionName", `highwater-${name}`).Properties.DeadLetterConfig.TargetArn).toBe("arn:aws:sqs:eu-west-1:111122223333:highwater-dead-letters");
    }
  });
  it("take decisions only from callers whom IAM vouches for", () => {
    has("AWS::Lambda::Url", { AuthType: "AWS_IAM" });
    s.template.resourceCountIs("AWS::Lambda::Url", 1);
    for (const permission of Object.values(s.template.findResources("AWS::Lambda::Permission"))) expect(permission.Properties.Principal).toBe("events.amazonaws.com");
  });
});

describe("what starts things", () => {
  const schedule = (name: string) => named(s.template, "AWS::Scheduler::Schedule", "Name", name).Properties;

  it("is a schedule for each cluster, in a flexible window, with its retries and its end", () => {
    expect(schedule("backup-orders")).toMatchObject({
      ScheduleExpression: "rate(1 hour)",
      FlexibleTimeWindow: { Mode: "FLEXIBLE", MaximumWindowInMinutes: 15 },
      Target: { Arn: "arn:aws:lambda:eu-west-1:111122223333:function:highwater-start-backup", Input: '{"cluster":"orders","once":"<aws.scheduler.scheduled-time>"}', RetryPolicy: { MaximumEventAgeInSeconds: 3600 } },
    });
    expect(schedule("backup-billing-eu")).toMatchObject({ ScheduleExpressionTimezone: "Europe/Berlin" });
    expect(schedule("drill-orders")).toMatchObject({ Target: { Arn: "arn:aws:states:eu-west-1:111122223333:stateMachine:highwater-drill", Input: '{"cluster":"orders"}' } });
    for (const { Properties } of Object.values(s.template.findResources("AWS::Scheduler::Schedule"))) {
      const fixed = ["fleet-reconcile"].includes(Properties.Name);
      expect(Properties.FlexibleTimeWindow.Mode, Properties.Name).toBe(fixed ? "OFF" : "FLEXIBLE");
      expect(plain(Properties.Target.DeadLetterConfig.Arn, s.template)).toContain("dead-letters");
    }
  });
  it("trusts Scheduler for its own group, as Scheduler presents it", () => {
    const trust = named(s.template, "AWS::IAM::Role", "RoleName", "highwater-scheduler").Properties.AssumeRolePolicyDocument.Statement;
    expect(trust[0].Condition.StringEquals["aws:SourceArn"]).toBe("arn:aws:scheduler:eu-west-1:111122223333:schedule-group/highwater");
  });
  it("is each cluster's parameter, which is the document that the functions read", () => {
    const value = JSON.parse(named(s.template, "AWS::SSM::Parameter", "Name", "/highwater/clusters/orders").Properties.Value);
    expect(value).toMatchObject({ format: "highwater.cluster.v1", cluster: "orders" });
  });
  it("is described to the operator's command by one parameter", () => {
    const value = plain(named(s.template, "AWS::SSM::Parameter", "Name", "/highwater/deployment").Properties.Value, s.template);
    expect(JSON.parse(value)).toMatchObject({
      format: "highwater.deployment.v1",
      deployment: "highwater",
      clusters: "/highwater/clusters",
      start_backup: "highwater-start-backup",
      drill_machine: "arn:aws:states:eu-west-1:111122223333:stateMachine:highwater-drill",
      promotion_machine: "arn:aws:states:eu-west-1:111122223333:stateMachine:highwater-restore-primary",
      signing_key: "arn:aws:kms:eu-west-1:111122223333:key/signing",
      cost: { cap_per_month: 100, prices: { currency: "USD" } },
    });
  });
  it("is the end of our commands, however it is spelt; of instances; and of executions that nobody cleaned up after", () => {
    const rule = (name: string) => named(s.template, "AWS::Events::Rule", "Name", `highwater-${name}`).Properties.EventPattern;
    expect(rule("backup-ended")).toMatchObject({ source: ["aws.ssm"], detail: { "document-name": ["highwater-backup"], status: [{ "anything-but": ["Pending", "InProgress", "Delayed", "Cancelling"] }] } });
    expect(rule("promotion-ended").detail["document-name"]).toEqual(["highwater-promote", "highwater-resume", "highwater-rollback"]);
    expect(rule("instance-ended").source).toEqual(["aws.ec2"]);
    expect(rule("execution-ended").detail.status).toEqual(["ABORTED", "TIMED_OUT", "FAILED"]);
  });
});

describe("what calls a person", () => {
  it("is alarms that all notify, by a topic that lets them; silence of reconcile is one", () => {
    const alarms = Object.values(s.template.findResources("AWS::CloudWatch::Alarm")).map((a) => a.Properties);
    for (const alarm of alarms) expect(alarm.AlarmActions, alarm.AlarmName).toHaveLength(1);
    const breaching = alarms.filter((a) => a.TreatMissingData === "breaching").map((a) => a.AlarmName);
    expect(breaching.sort()).toEqual(["highwater-backups-overdue", "highwater-drills-overdue"]);
    expect(alarms.map((a) => a.AlarmName.replace("highwater-", "")).sort()).toEqual(
      ["backups-failed", "backups-overdue", "chain-broken", "cost-over-cap", "dead-letters", "drills-failed", "drills-overdue", "function-errors", "instance-leaked", "lease-stuck", "promotion-stuck", "rto-over-target"],
    );
    const { template } = synthesise({ ...loadConfig(EXAMPLE), cost: { ...loadConfig(EXAMPLE).cost, cap_per_month: undefined } });
    expect(JSON.stringify(template.findResources("AWS::CloudWatch::Alarm"))).not.toContain("cost-over-cap");
    expect(alarms.find((a) => a.AlarmName === "highwater-cost-over-cap")?.Threshold).toBe(100);
    has("AWS::SNS::TopicPolicy", { PolicyDocument: { Statement: Match.arrayWith([Match.objectLike({ Sid: "AlarmsMayNotify", Effect: "Allow" })]) } });
    for (const { Metrics } of alarms) expect((Metrics ?? []).filter((m: any) => m.MetricStat).length).toBeLessThanOrEqual(10);
  });
});

describe("what is measured", () => {
  it("is what the README lists: every metric there is in an alarm or on the dashboard, and no other", () => {
    const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
    const table = readme.slice(readme.indexOf("| metric | of |")).split("\n\n")[0] ?? "";
    const listed = table.split("\n").slice(2).flatMap((row) => [...(row.split("|")[1] ?? "").matchAll(/`(\w+)`/g)].map((m) => m[1]));
    const template = JSON.stringify(Object.values({ ...s.template.findResources("AWS::CloudWatch::Alarm"), ...s.template.findResources("AWS::CloudWatch::Dashboard") }));
    const inAlarms = Object.values<any>(s.template.findResources("AWS::CloudWatch::Alarm")).filter((a) => a.Properties.Namespace === "Highwater").map((a) => a.Properties.MetricName);
    const onDashboard = [...template.matchAll(/\\"Highwater\\",\\"(\w+)\\"/g)].map((m) => m[1]);
    expect(listed.length).toBeGreaterThan(10);
    expect([...new Set([...inAlarms, ...onDashboard])].sort()).toEqual(listed.sort());
  });
});

describe("the deployment", () => {
  const many = (count: number): Config => {
    const config = loadConfig(EXAMPLE);
    const one = config.clusters.orders!;
    const hex = (i: number) => i.toString(16).padStart(17, "0");
    const cluster = (i: number): Config["clusters"][string] => ({ ...one, host: `i-${hex(i)}`, drill: { ...one.drill, image: `ami-${hex(i)}` } });
    config.clusters = Object.fromEntries(Array.from({ length: count }, (_, i) => [`c${i}`.padEnd(40, "x"), cluster(i)]));
    return { ...config, name: "highwater-sixtee" };
  };
  it("holds 50 clusters with the longest names within every limit, and says what to do about too many", () => {
    const { template } = synthesise(many(50));
    const size = (document: unknown) => JSON.stringify(plain(document, template)).length;
    for (const { Properties: p } of Object.values(template.findResources("AWS::IAM::Role"))) {
      expect(p.RoleName.length, p.RoleName).toBeLessThanOrEqual(64);
      expect(size(p.Policies[0].PolicyDocument), p.RoleName).toBeLessThanOrEqual(10_240);
    }
    for (const { Properties: p } of Object.values(template.findResources("AWS::IAM::ManagedPolicy"))) expect(size(p.PolicyDocument), p.ManagedPolicyName).toBeLessThanOrEqual(6_144);
    for (const { Properties: p } of Object.values(template.findResources("AWS::S3::BucketPolicy"))) expect(size(p.PolicyDocument)).toBeLessThanOrEqual(20_480);
    for (const { Properties: p } of Object.values(template.findResources("AWS::Scheduler::Schedule"))) expect(p.Name.length).toBeLessThanOrEqual(64);
    const roles = Object.values(template.findResources("AWS::IAM::Role")).map((r) => r.Properties.RoleName);
    expect(new Set(roles).size).toBe(roles.length);
    expect(() => synthesise(many(120))).toThrow(/a stack holds 500: move clusters to a second file/);
  });
  it("lives beside another one: every physical name carries the deployment's", () => {
    const names = (name: string) => {
      const { template } = synthesise({ ...loadConfig(EXAMPLE), name });
      const values = Object.values(template.toJSON().Resources as Record<string, any>).flatMap(({ Type, Properties }) =>
        Object.entries(Properties ?? {})
          .filter(([key]) => /Name$/.test(key) && key !== "MetricName" && Type !== "AWS::Scheduler::Schedule")
          .map(([key, value]) => `${Type} ${key} ${JSON.stringify(value)}`)
          // A reference names another resource of the same stack.
          .filter((each) => !/ \{"(Ref|Fn::GetAtt)"/.test(each)),
      );
      return new Set(values);
    };
    const ours = names("highwater");
    expect([...names("second")].filter((name) => ours.has(name))).toEqual([]);
    // A schedule's name is unique in its group only.
    for (const { Properties } of Object.values(s.template.findResources("AWS::Scheduler::Schedule"))) expect(s.template.toJSON().Resources[Properties.GroupName.Ref].Properties.Name).toBe("highwater");
  });
  it("is not synthesised without its binaries", () => {
    const app = new App();
    expect(() => new HighwaterStack(app, "x", { config: loadConfig(EXAMPLE), artifacts: { directory: "/nonexistent", place: "assets" } })).toThrow(/\/nonexistent holds no highwater-host: run `make package` first/);
  });
  it("is the same stack for whoever deploys it without CDK, its code's place being two parameters", () => {
    const app = new App({ builtinCloudFormationValidation: false });
    const synthesizer = new DefaultStackSynthesizer({ generateBootstrapVersionRule: false });
    const stack = withArtifacts((directory) => new HighwaterStack(app, "highwater", { config: loadConfig(EXAMPLE), artifacts: { directory, place: "parameters" }, synthesizer }));
    const template = Template.fromStack(stack).toJSON();
    const without = ({ Resources, ...rest }: any) => ({
      ...rest,
      Parameters: undefined,
      Rules: undefined,
      Resources: Object.fromEntries(Object.entries<any>(Resources).map(([id, { Metadata, ...r }]) => [id, r.Type === "AWS::Lambda::Function" ? { ...r, Properties: { ...r.Properties, Code: undefined } } : r])),
    });
    // The helper lies where the release was uploaded to; the rest is the same to the letter.
    const uploaded = JSON.stringify(without(template)).replaceAll('{"Ref":"ArtifactBucket"},"/",{"Ref":"ArtifactPrefix"},"highwater-host', '"HELPER');
    const asset = JSON.stringify(without(s.template.toJSON())).replace(/\{"Fn::Sub":"cdk-hnb659fds-assets-\$\{AWS::AccountId\}-\$\{AWS::Region\}"\},"\/[0-9a-f.]{64,}/g, '"HELPER');
    expect(uploaded.match(/"HELPER/g)?.length).toBeGreaterThan(3);
    expect(JSON.parse(uploaded)).toEqual(JSON.parse(asset));
    const codes = Object.values<any>(template.Resources).filter((r) => r.Type === "AWS::Lambda::Function").map((r) => r.Properties.Code);
    const zips = FUNCTIONS.map((name) => ({ S3Bucket: { Ref: "ArtifactBucket" }, S3Key: { "Fn::Join": ["", [{ Ref: "ArtifactPrefix" }, `${name}.zip`]] } }));
    expect(codes).toHaveLength(zips.length);
    expect(codes).toEqual(expect.arrayContaining(zips));
    // infra/terraform passes just these, and asks for outputs that there are.
    const terraform = (file: string) => readFileSync(new URL(`../../terraform/${file}`, import.meta.url), "utf8");
    const passed = terraform("modules/stack/main.tf").match(/output "parameters" \{\s*value = \{([^}]*)\}/)?.[1] ?? "";
    expect([...passed.matchAll(/^\s*(\w+)\s*=/gm)].map((m) => m[1]).sort()).toEqual(Object.keys(template.Parameters).sort());
    const asked = [...terraform("outputs.tf").matchAll(/outputs\["(\w+)"\]/g)].map((m) => m[1]);
    expect(asked.sort()).toEqual(Object.keys(template.Outputs).sort());
  });
  it("has a section of the runbook for each alarm, which the alarm names", () => {
    const runbook = readFileSync(new URL("../../../docs/RUNBOOK.md", import.meta.url), "utf8");
    const alarms = runbook.slice(runbook.indexOf("## Alarms"), runbook.indexOf("## Disasters"));
    const sections = [...alarms.matchAll(/^### (.*)$/gm)].map((m) => m[1]);
    const named = Object.values<any>(s.template.findResources("AWS::CloudWatch::Alarm")).map(({ Properties }) => [Properties.AlarmName, Properties.AlarmDescription.match(/RUNBOOK: (.*)$/)?.[1]]);
    expect(named.map(([, section]) => section).sort()).toEqual(sections.sort());
    for (const [alarm, section] of named) expect(alarm).toBe(`highwater-${section}`);
  });
  it("has a lock file that names no registry", () => {
    expect(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8")).not.toContain('"resolved"');
  });
});
