// I7 on the template itself: what DB hosts, drills and functions can and cannot do, by their own policies and the bucket's.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { DOCUMENTS, FUNCTIONS } from "../lib/names.ts";
import { BUCKET, named, plain, type Synthesised, synthesise } from "./fixture.ts";
import { allowed, type Request, type Statement } from "./iam.ts";

const BACKUP = "v1/orders/20261122T015900Z-8b2e/20261122T020000Z-full-4f7c";
const DATA = `${BUCKET}/${BACKUP}/data-000`;
const CATALOG = "arn:aws:dynamodb:eu-west-1:111122223333:table/highwater-catalog";
const S3_VIA = { "kms:ViaService": "s3.eu-west-1.amazonaws.com" };
const DATA_KEY = "arn:aws:kms:eu-west-1:111122223333:key/data";

/** A PutObject or CompleteMultipartUpload over TLS, on condition that the key is free. */
const NEW = { "s3:if-none-match": "*", "s3:ObjectCreationOperation": "true", "aws:SecureTransport": "true", "s3:TlsVersion": "1.3" };
/** An UploadPart, or the start of an upload. */
const PART = { ...NEW, "s3:if-none-match": undefined, "s3:ObjectCreationOperation": "false" } as unknown as Record<string, string>;
const READ = { "aws:SecureTransport": "true", "s3:TlsVersion": "1.3" };

let synthesised: Synthesised;
let bucket: Statement[];
const role = (what: string) => named(synthesised.template, "AWS::IAM::Role", "RoleName", `highwater-${what}`);
const inline = (what: string): Statement[] => role(what).Properties.Policies[0].PolicyDocument.Statement;
const policy = (what: string): Statement[] => named(synthesised.template, "AWS::IAM::ManagedPolicy", "ManagedPolicyName", `highwater-${what}`).Properties.PolicyDocument.Statement;
const arn = (what: string) => ({ "aws:PrincipalArn": `arn:aws:iam::111122223333:role/highwater-${what}` });
const can = (statements: Statement[], principal: Record<string, string>) => (action: string, resource: string, context: Request["context"] = READ) =>
  allowed([...statements, ...bucket], { action, resource, context: { ...context, ...principal } });

beforeAll(() => {
  synthesised = synthesise();
  const policies = Object.values(synthesised.template.findResources("AWS::S3::BucketPolicy")).map((p) => plain(p.Properties, synthesised.template));
  bucket = policies.map((p) => p.PolicyDocument.Statement as Statement[]).find((s) => s.some((each) => each.Sid === "OnlyNewObjects")) ?? [];
});

describe("I7: a DB host", () => {
  const tagged = { "aws:PrincipalArn": "arn:aws:iam::111122223333:role/orders-db", "aws:PrincipalTag/highwater:cluster": "orders" };
  const host = (extra: Statement[] = []) => can([...policy("host-orders"), ...extra], tagged);
  const everything: Statement = { Effect: "Allow", Action: "*", Resource: "*" };

  it("creates new objects of its own backups, whole or in parts", () => {
    expect(host()("s3:PutObject", DATA, NEW)).toBe(true);
    expect(host()("s3:PutObject", DATA, PART)).toBe(true);
    expect(host()("s3:AbortMultipartUpload", DATA)).toBe(true);
    expect(host()("kms:GenerateDataKey", DATA_KEY, S3_VIA)).toBe(true);
  });
  it("reads its own cluster: requests, plans, its own backups", () => {
    for (const key of ["v1/orders/requests/20261122T020000Z-full-4f7c.json", "v1/orders/drills/d1/plan.json", `${BACKUP}/manifest.json`]) {
      expect(host()("s3:GetObject", `${BUCKET}/${key}`), key).toBe(true);
    }
    expect(host()("s3:ListBucket", BUCKET, { ...READ, "s3:prefix": "v1/orders/" })).toBe(true);
    expect(host()("s3:ListBucket", BUCKET, { ...READ, "s3:prefix": "v1/" })).toBe(false);
  });
  it("never overwrites: a write without If-None-Match is refused, even to one who may do everything", () => {
    const unconditional = { ...NEW, "s3:if-none-match": undefined } as unknown as Record<string, string>;
    expect(host()("s3:PutObject", DATA, unconditional)).toBe(false);
    expect(host([everything])("s3:PutObject", DATA, unconditional)).toBe(false);
  });
  it("never deletes, shortens a lock, or bypasses one", () => {
    for (const action of ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectRetention", "s3:BypassGovernanceRetention"]) {
      expect(host()(action, DATA), action).toBe(false);
      expect(host([everything])(action, DATA), action).toBe(false);
    }
  });
  it("neither reads nor writes another cluster, even if its role allowed it", () => {
    for (const key of [DATA.replace("orders", "billing-eu"), DATA.replace("/orders/", "/orders-2/"), `${BUCKET}/v2/orders/x`, `${BUCKET}/x`]) {
      expect(host([everything])("s3:PutObject", key, NEW), key).toBe(false);
      expect(host([everything])("s3:GetObject", key), key).toBe(false);
    }
  });
  it("lets doctor try the bucket, where doctor tries it", () => {
    const place = readFileSync(new URL("../../../host-helper/src/doctor/store.rs", import.meta.url), "utf8").match(/format!\("v1\/\{\}\/(\w+)\/\{\}-\{\}"/)?.[1];
    expect(host()("s3:PutObject", `${BUCKET}/v1/orders/${place}/i-0123456789abcdef0-1795000000000`, NEW)).toBe(true);
    expect(host()("s3:PutObject", `${BUCKET}/v1/orders/${place}/i-0123456789abcdef0-1795000000000-upload`, PART)).toBe(true);
    expect(place).toBe("doctor");
  });
  it("fetches the deployed helper and its own settings, and nothing else there", () => {
    const fetch = policy("host-orders").find((s) => s.Sid === "FetchHelper")!;
    expect([fetch.Action, [fetch.Resource].flat()]).toEqual(["s3:GetObject", [expect.stringMatching(/^arn:aws:s3:::cdk-hnb659fds-assets-[^*]+\/[0-9a-f.]{64,}$/)]]);
    const settings = (cluster: string) => `arn:aws:ssm:eu-west-1:111122223333:parameter/highwater/hosts/${cluster}`;
    expect(host()("ssm:GetParameter", settings("orders"), {})).toBe(true);
    expect(host()("ssm:GetParameter", settings("billing-eu"), {})).toBe(false);
  });
  it("cannot place requests, plans, reports or approvals", () => {
    for (const key of ["requests/r.json", "drills/d1/report.json", "promotions/p1/approval.json", "x"]) {
      expect(host()("s3:PutObject", `${BUCKET}/v1/orders/${key}`, NEW), key).toBe(false);
    }
  });
  it("does nothing without TLS, or with an old one", () => {
    expect(host()("s3:PutObject", DATA, { ...NEW, "aws:SecureTransport": "false" })).toBe(false);
    expect(host()("s3:PutObject", DATA, { ...NEW, "s3:TlsVersion": "1.1" })).toBe(false);
  });
  it("cannot choose another key or no KMS encryption", () => {
    expect(host()("s3:PutObject", DATA, { ...NEW, "s3:x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-west-1:111122223333:key/other" })).toBe(false);
    expect(host()("s3:PutObject", DATA, { ...NEW, "s3:x-amz-server-side-encryption": "AES256" })).toBe(false);
  });
  it("touches nothing but S3, its settings, and KMS by way of S3", () => {
    for (const action of ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:DeleteItem"]) expect(host()(action, CATALOG), action).toBe(false);
    expect(host()("kms:Decrypt", DATA_KEY, {})).toBe(false);
    expect(new Set(policy("host-orders").flatMap((s) => s.Action).map((a) => a.split(":")[0]))).toEqual(new Set(["s3", "kms", "ssm"]));
  });
});

describe("I7: a drill", () => {
  const tags = () => Object.fromEntries((role("drill-orders").Properties.Tags as { Key: string; Value: string }[]).map((t) => [`aws:PrincipalTag/${t.Key}`, t.Value]));
  const drill = (extra: Statement[] = []) => can([...inline("drill-orders"), ...extra], { ...arn("drill-orders"), ...tags() });

  it("reads its plan's cluster and writes its report", () => {
    expect(drill()("s3:GetObject", DATA)).toBe(true);
    expect(drill()("s3:GetObjectVersion", DATA)).toBe(true);
    expect(drill()("s3:PutObject", `${BUCKET}/v1/orders/drills/d1/report.json`, NEW)).toBe(true);
    for (const name of ["plan.json", "certificate.json", "certificate.sig"]) expect(drill()("s3:PutObject", `${BUCKET}/v1/orders/drills/d1/${name}`, NEW)).toBe(false);
  });
  it("writes no data, whatever its role allows", () => {
    const everything: Statement = { Effect: "Allow", Action: "*", Resource: "*" };
    for (const key of [DATA, `${BUCKET}/v1/orders/requests/r.json`, `${BUCKET}/v1/billing-eu/drills/d1/report.json`]) {
      expect(drill([everything])("s3:PutObject", key, NEW), key).toBe(false);
    }
    expect(drill([everything])("s3:DeleteObjectVersion", DATA)).toBe(false);
  });
  it("reads no other cluster", () => expect(drill()("s3:GetObject", DATA.replace("orders", "billing-eu"))).toBe(false));
  it("answers drills and no promotion, and knows no catalog", () => {
    const machine = (name: string) => `arn:aws:states:eu-west-1:111122223333:stateMachine:highwater-${name}`;
    expect(drill()("states:SendTaskSuccess", machine("drill"))).toBe(true);
    expect(drill()("states:SendTaskSuccess", machine("restore-primary"))).toBe(false);
    expect(drill()("dynamodb:GetItem", CATALOG)).toBe(false);
  });
  it("has no way to a primary: no command, no function, no other service than S3, KMS by way of it, and its own task", () => {
    expect(new Set(inline("drill-orders").flatMap((s) => s.Action).map((a) => a.split(":")[0]))).toEqual(new Set(["s3", "kms", "states"]));
    expect(drill()("kms:Decrypt", DATA_KEY, S3_VIA)).toBe(true);
    expect(drill()("kms:Decrypt", DATA_KEY, {})).toBe(false);
    for (const action of ["ssm:SendCommand", "ssm:StartSession", "ec2-instance-connect:SendSSHPublicKey"]) {
      expect(drill()(action, "arn:aws:ec2:eu-west-1:111122223333:instance/i-0123456789abcdef0", { "ssm:resourceTag/highwater:deployment": "highwater" }), action).toBe(false);
    }
  });
  it("can be assumed by EC2 only, and an instance gets the profile of its cluster", () => {
    expect(role("drill-orders").Properties.AssumeRolePolicyDocument.Statement).toEqual([{ Action: "sts:AssumeRole", Effect: "Allow", Principal: { Service: "ec2.amazonaws.com" } }]);
    synthesised.template.hasResourceProperties("AWS::IAM::InstanceProfile", { InstanceProfileName: "highwater-drill-orders" });
  });
});

describe("I7: the functions", () => {
  it("only prune deletes, and only finish-backup sets locks", () => {
    for (const name of FUNCTIONS) {
      const may = can(inline(name), arn(name));
      expect(may("s3:DeleteObjectVersion", DATA), name).toBe(name === "prune");
      expect(may("s3:PutObjectRetention", DATA), name).toBe(name === "finish-backup");
      expect(may("s3:PutObject", DATA, NEW), name).toBe(false);
      expect(may("dynamodb:DeleteItem", CATALOG), name).toBe(name === "prune");
    }
  });
  it("only record-drill signs, only decide-approval (and finish-promote, for one that broke off) makes approvals, only launch-drill launches", () => {
    const who = (action: string) => FUNCTIONS.filter((name) => inline(name).some((s) => [s.Action].flat().includes(action)));
    expect(who("kms:Sign")).toEqual(["record-drill"]);
    expect(who("ec2:RunInstances")).toEqual(["launch-drill"]);
    expect(who("iam:PassRole")).toEqual(["launch-drill"]);
    expect(FUNCTIONS.filter((name) => can(inline(name), arn(name))("s3:PutObject", `${BUCKET}/v1/orders/promotions/p1/approval.json`, NEW))).toEqual(["decide-approval", "finish-promote"]);
  });
  it("two of them answer the task of a promotion, and nobody else does: no host, no drill, no machine, no person", () => {
    const task = "arn:aws:states:eu-west-1:111122223333:stateMachine:highwater-restore-primary";
    const answers = (statements: Statement[], principal: Record<string, string>) => ["states:SendTaskSuccess", "states:SendTaskFailure"].some((action) => can(statements, principal)(action, task));
    expect(FUNCTIONS.filter((name) => answers(inline(name), arn(name)))).toEqual(["decide-approval", "finish-promote"]);
    for (const what of ["drill-orders", "machine-drill", "machine-restore-primary", "machine-drill-fleet", "scheduler"]) expect(answers(inline(what), arn(what)), what).toBe(false);
    // An operator reads the catalog, where an open request's token lies.
    for (const what of ["host-orders", "operator", "approver"]) expect(answers(policy(what), arn("person")), what).toBe(false);
  });
  it("send commands only to hosts tagged for this deployment", () => {
    const instance = "arn:aws:ec2:eu-west-1:111122223333:instance/i-0123456789abcdef0";
    const send = can(inline("start-backup"), arn("start-backup"));
    expect(send("ssm:SendCommand", instance, { "ssm:resourceTag/highwater:deployment": "highwater" })).toBe(true);
    expect(send("ssm:SendCommand", instance, { "ssm:resourceTag/highwater:deployment": "other" })).toBe(false);
    expect(send("ssm:SendCommand", instance)).toBe(false);
    expect(send("ssm:SendCommand", "arn:aws:ssm:eu-west-1:111122223333:document/highwater-promote")).toBe(false);
    expect(send("ssm:SendCommand", "arn:aws:ssm:eu-west-1::document/AWS-RunShellScript")).toBe(false);
  });
  it("end only instances that are this deployment's drills", () => {
    const instance = "arn:aws:ec2:eu-west-1:111122223333:instance/i-0123456789abcdef0";
    const ours = { "ec2:ResourceTag/highwater:deployment": "highwater", "ec2:ResourceTag/highwater:purpose": "drill" };
    for (const what of ["reconcile", "machine-drill"]) {
      expect(can(inline(what), arn(what))("ec2:TerminateInstances", instance, ours), what).toBe(true);
      expect(can(inline(what), arn(what))("ec2:TerminateInstances", instance, { "ec2:ResourceTag/highwater:deployment": "highwater" }), what).toBe(false);
    }
  });
});

describe("I7: the pages", () => {
  const PAGES = "arn:aws:s3:::highwater-pages-111122223333-eu-west-1";
  const over = { ...NEW, "s3:if-none-match": undefined } as unknown as Record<string, string>;
  const guards = () => {
    const policies = Object.values(synthesised.template.findResources("AWS::S3::BucketPolicy")).map((p) => plain(p.Properties, synthesised.template).PolicyDocument.Statement as Statement[]);
    return policies.find((s) => s.some((each) => each.Sid === "OnlyPublishStatusWritesTheStatus")) ?? [];
  };
  const may = (who: string, extra: Statement[] = []) => (action: string, key: string, context: Record<string, string>) =>
    allowed([...inline(who), ...extra, ...guards()], { action, resource: `${PAGES}/${key}`, context: { ...context, ...arn(who) } });
  const everything: Statement = { Effect: "Allow", Action: "*", Resource: "*" };

  it("are written by one function the status, by two the reports, and never over a report", () => {
    const status = FUNCTIONS.filter((name) => may(name)("s3:PutObject", "index.html", over));
    expect(status).toEqual(["publish-status"]);
    expect(FUNCTIONS.filter((name) => may(name)("s3:PutObject", "v1/orders/drills/d1/report.html", NEW))).toEqual(["record-drill"]);
    expect(FUNCTIONS.filter((name) => may(name)("s3:PutObject", "v1/orders/promotions/p1/report.html", NEW))).toEqual(["finish-promote"]);
    for (const name of FUNCTIONS) expect(may(name, [everything])("s3:PutObject", "v1/orders/drills/d1/report.html", over), name).toBe(false);
    for (const name of FUNCTIONS) expect(may(name, [everything])("s3:PutObject", "index.html", over), name).toBe(name === "publish-status");
  });
  it("are read by people, who need no key for it", () => {
    for (const who of ["operator", "approver"]) {
      expect(allowed([...policy(who), ...guards()], { action: "s3:GetObject", resource: `${PAGES}/index.html`, context: READ }), who).toBe(true);
    }
  });
  it("give whoever writes the status nothing of a backup", () => {
    expect(can(inline("publish-status"), arn("publish-status"))("s3:GetObject", DATA)).toBe(false);
    expect(can(inline("publish-status"), arn("publish-status"))("kms:Decrypt", DATA_KEY, S3_VIA)).toBe(false);
  });
});

describe("an operator", () => {
  const may = (action: string, resource: string, context: Record<string, string> = {}) => can(policy("operator"), { "aws:PrincipalArn": "arn:aws:iam::111122223333:role/dba" })(action, resource, context);
  it("sends install and doctor to this deployment's hosts, and no other document anywhere", () => {
    const document = (name: string) => `arn:aws:ssm:eu-west-1:111122223333:document/highwater-${name}`;
    const instance = "arn:aws:ec2:eu-west-1:111122223333:instance/i-0123456789abcdef0";
    for (const name of DOCUMENTS) expect(may("ssm:SendCommand", document(name)), name).toBe(["install", "doctor"].includes(name));
    expect(may("ssm:SendCommand", "arn:aws:ssm:eu-west-1::document/AWS-RunShellScript")).toBe(false);
    expect(may("ssm:SendCommand", instance, { "ssm:resourceTag/highwater:deployment": "highwater" })).toBe(true);
    expect(may("ssm:SendCommand", instance, { "ssm:resourceTag/highwater:deployment": "other" })).toBe(false);
  });
});

describe("approvals: only the URL, where IAM vouches for the caller", () => {
  const decide = "arn:aws:lambda:eu-west-1:111122223333:function:highwater-decide-approval";
  const person = { "aws:PrincipalArn": "arn:aws:iam::111122223333:role/dba" };
  const may = (statements: Statement[], action: string, context: Record<string, string> = {}) => can(statements, person)(action, decide, context);

  it("lets an approver call the URL, and the function by the URL alone", () => {
    expect(may(policy("approver"), "lambda:InvokeFunctionUrl", { "lambda:FunctionUrlAuthType": "AWS_IAM" })).toBe(true);
    expect(may(policy("approver"), "lambda:InvokeFunctionUrl", { "lambda:FunctionUrlAuthType": "NONE" })).toBe(false);
    expect(may(policy("approver"), "lambda:InvokeFunction", { "lambda:InvokedViaFunctionUrl": "true" })).toBe(true);
    expect(may(policy("approver"), "lambda:InvokeFunction")).toBe(false);
    expect(may(policy("approver"), "lambda:InvokeFunction", { "lambda:InvokedViaFunctionUrl": "false" })).toBe(false);
  });
  it("lets nobody else call the function: no operator, no host, no function, no machine", () => {
    const others = [policy("operator"), policy("host-orders"), ...[...FUNCTIONS, "machine-drill", "machine-restore-primary", "drill-orders"].map(inline)];
    for (const statements of others) {
      for (const action of ["lambda:InvokeFunction", "lambda:InvokeFunctionUrl"]) expect(may(statements, action)).toBe(false);
    }
  });
});

describe("the operator's command", () => {
  const person = { "aws:PrincipalArn": "arn:aws:iam::111122223333:role/dba" };
  const may = (name: string) => can(policy(name), person);
  const viaS3 = { "kms:ViaService": "s3.eu-west-1.amazonaws.com" };
  const DRILL = `${BUCKET}/v1/orders/drills/d1`;
  const fn = (name: string) => `arn:aws:lambda:eu-west-1:111122223333:function:highwater-${name}`;

  it("lets an operator see everything but the data, back up and drill, and change nothing else", () => {
    const operator = may("operator");
    expect(operator("ssm:GetParameter", "arn:aws:ssm:eu-west-1:111122223333:parameter/highwater/deployment")).toBe(true);
    expect(operator("dynamodb:Query", CATALOG)).toBe(true);
    expect(FUNCTIONS.filter((name) => operator("lambda:InvokeFunction", fn(name)))).toEqual(["start-backup"]);
    for (const file of ["report.json", "plan.json", "certificate.json", "certificate.sig"]) expect(operator("s3:GetObject", `${DRILL}/${file}`), file).toBe(true);
    for (const key of [DATA, `${DRILL}/task-token`]) expect(operator("s3:GetObject", key), key).toBe(false);
    for (const action of ["dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"]) expect(operator(action, CATALOG), action).toBe(false);
    expect(operator("s3:PutObject", DATA, NEW)).toBe(false);
    expect(operator("kms:Sign", "arn:aws:kms:eu-west-1:111122223333:key/signing")).toBe(false);
    expect(operator("kms:GetPublicKey", "arn:aws:kms:eu-west-1:111122223333:key/signing")).toBe(true);
    expect(operator("kms:Decrypt", "arn:aws:kms:eu-west-1:111122223333:key/data")).toBe(false);
    expect(operator("kms:Decrypt", "arn:aws:kms:eu-west-1:111122223333:key/data", viaS3)).toBe(true);
  });
  it("lets a restorer read every backup, and write nothing", () => {
    const restorer = may("restorer");
    expect(restorer("s3:GetObject", DATA)).toBe(true);
    expect(restorer("s3:PutObject", DATA, NEW)).toBe(false);
    expect(restorer("s3:DeleteObjectVersion", DATA)).toBe(false);
    expect(restorer("dynamodb:PutItem", CATALOG)).toBe(false);
  });
  it("lets an approver find the URL", () => {
    expect(may("approver")("ssm:GetParameter", "arn:aws:ssm:eu-west-1:111122223333:parameter/highwater/deployment")).toBe(true);
    expect(may("approver")("dynamodb:Query", CATALOG)).toBe(false);
  });
});

describe("every role and policy", () => {
  /** Actions that IAM lets nobody restrict to a resource. */
  const WITHOUT_RESOURCE = /^(ec2:DescribeInstances|ssm:GetCommandInvocation|ssm:ListCommandInvocations|logs:(Create|Get|Update|Delete|List)LogDeliver(y|ies)|logs:PutResourcePolicy|logs:DescribeResourcePolicies|logs:DescribeLogGroups)$/;
  const all = () => [
    ...Object.values(synthesised.template.findResources("AWS::IAM::Role")).map((r) => ({ id: r.Properties.RoleName as string, metadata: r.Metadata, statements: plain(r.Properties.Policies[0].PolicyDocument.Statement, synthesised.template) as Statement[] })),
    ...Object.values(synthesised.template.findResources("AWS::IAM::ManagedPolicy")).map((r) => ({ id: r.Properties.ManagedPolicyName as string, metadata: r.Metadata, statements: plain(r.Properties.PolicyDocument.Statement, synthesised.template) as Statement[] })),
  ];
  it("names its actions one by one, and a resource unless the action knows none", () => {
    for (const { id, statements } of all()) {
      for (const { Sid, Action, Resource } of statements) {
        const actions = [Action].flat();
        expect(actions.filter((a) => a.includes("*")), `${id} ${Sid}`).toEqual([]);
        if ([Resource].flat().includes("*")) expect(actions.filter((a) => !WITHOUT_RESOURCE.test(a)), `${id} ${Sid} on every resource`).toEqual([]);
      }
    }
  });
  it("confines each wildcard in a resource to this deployment, by a name in it or by a condition", () => {
    for (const { id, statements } of all()) {
      for (const { Sid, Resource, Condition } of statements) {
        const open = [Resource].flat().filter((r) => r !== "*" && r?.includes("*") && !/[:/]highwater[-/]/.test(r.split("*")[0] as string));
        if (open.length > 0) expect(Object.keys(Condition ?? {}), `${id} ${Sid} on ${open}`).not.toEqual([]);
      }
    }
  });
  it("gives a reason for each statement, and no policy came from elsewhere", () => {
    for (const { id, metadata, statements } of all()) expect(Object.keys(metadata.Reasons), id).toEqual(statements.map((s) => s.Sid));
    synthesised.template.resourceCountIs("AWS::IAM::Policy", 0);
    for (const role of Object.values(synthesised.template.findResources("AWS::IAM::Role"))) expect(role.Properties.ManagedPolicyArns).toBeUndefined();
  });
  it("has exactly the permissions that were reviewed", async () => {
    const lines = ({ Sid = "", Action, Resource, Condition }: Statement, reasons: Record<string, string>) => [
      `  ${Sid}: ${reasons[Sid]}`,
      ...[Action].flat().map((action) => `    ${action}`),
      ...[Resource].flat().map((resource) => `      on ${resource}`),
      ...Object.entries(Condition ?? {}).flatMap(([operator, keys]) => Object.entries(keys).map(([key, value]) => `      if ${key} ${operator} ${[value].flat().join(" | ")}`)),
    ];
    const text = all().map(({ id, metadata, statements }) => `${[id, ...statements.flatMap((s) => lines(s, metadata.Reasons))].join("\n")}\n`).join("\n");
    // The helper's object is named by its digest.
    await expect(text.replaceAll(/[0-9a-f]{64}/g, "DIGEST")).toMatchFileSnapshot("expected/permissions.txt");
  });
});
