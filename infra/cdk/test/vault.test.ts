// The vault: what the deployment's account can do there (add copies, and nothing else), on both templates.

import { spawnSync } from "node:child_process";
import { App } from "aws-cdk-lib";
import { Template } from "aws-cdk-lib/assertions";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { loadConfig, parseConfig, type Vault } from "../lib/config.ts";
import { VaultStack } from "../lib/vault.ts";
import { EXAMPLE, named, plain, synthesise, withArtifacts } from "./fixture.ts";
import { allowed, type Statement } from "./iam.ts";

const KEY = "arn:aws:kms:eu-central-1:444455556666:key/01234567-89ab-cdef-0123-456789abcdef";
const VAULT: Vault = { bucket: "highwater-vault", account: "444455556666", region: "eu-central-1", source_account: "111122223333", kms_key: KEY, lock_days: 30 };
const BUCKET = "arn:aws:s3:::highwater-vault";
const COPY = `${BUCKET}/v1/orders/20261122T015900Z-8b2e/20261122T020000Z-full-4f7c/data-000`;
const EVERYTHING: Statement = { Effect: "Allow", Action: "*", Resource: "*" };
const TLS = { "aws:SecureTransport": "true", "s3:TlsVersion": "1.3", "aws:PrincipalIsAWSService": "false" };
const ROLE = { ...TLS, "aws:PrincipalArn": "arn:aws:iam::111122223333:role/highwater-replication", "aws:PrincipalAccount": "111122223333" };
const ADMIN = { ...TLS, "aws:PrincipalArn": "arn:aws:iam::111122223333:role/admin", "aws:PrincipalAccount": "111122223333" };
const KEEPER = { ...TLS, "aws:PrincipalArn": "arn:aws:iam::444455556666:role/keeper", "aws:PrincipalAccount": "444455556666" };

let template: Template;
let policy: Statement[];
let key: Statement[];
let role: Statement[];
let source: any;

/** Another account's request needs both accounts' leave; one of the vault's own account either. */
const may = (identity: Statement[], action: string, resource: string, context: Record<string, string>, policies = policy) => {
  const request = { action, resource, context };
  const account = context["aws:PrincipalAccount"] ?? "";
  const resourcePolicy = policies.filter(({ Principal }) => [`arn:aws:iam::${account}:root`, "*"].includes((Principal as { AWS: string }).AWS));
  const outside = account !== VAULT.account;
  return outside ? allowed([...identity, ...resourcePolicy.filter((s) => s.Effect === "Deny")], request) && allowed(resourcePolicy, request) : allowed([...identity, ...resourcePolicy], request);
};

const vaultTemplate = (vault: Vault) => {
  const app = new App({ builtinCloudFormationValidation: false });
  return Template.fromStack(new VaultStack(app, "vault", { deployment: "highwater", vault, env: { account: vault.account, region: vault.region } }));
};

beforeAll(() => {
  template = vaultTemplate(VAULT);
  const arns = (text: string) => text.replace(/<Bucket[0-9A-F]*[.]Arn>|arn:aws:s3:::<Bucket[0-9A-F]*>/g, BUCKET);
  const statements = (type: string, property: string): Statement[] => Object.values(template.findResources(type)).flatMap((r) => JSON.parse(arns(JSON.stringify(plain(r.Properties[property], template)))).Statement);
  policy = statements("AWS::S3::BucketPolicy", "PolicyDocument");
  key = statements("AWS::KMS::Key", "KeyPolicy");
  const deployment = synthesise({ ...loadConfig(EXAMPLE), vault: VAULT }).template;
  role = named(deployment, "AWS::IAM::Role", "RoleName", "highwater-replication").Properties.Policies[0].PolicyDocument.Statement;
  source = named(deployment, "AWS::S3::Bucket", "BucketName", "highwater-111122223333-eu-west-1").Properties;
});

describe("the vault", () => {
  it("takes copies from the deployment's replication, and from nobody else", () => {
    for (const action of ["s3:ReplicateObject", "s3:ObjectOwnerOverrideToBucketOwner"]) {
      expect(may(role, action, COPY, ROLE), action).toBe(true);
      expect(may([EVERYTHING], action, COPY, ADMIN), action).toBe(false);
      expect(may([EVERYTHING], action, COPY, { ...ROLE, "aws:PrincipalAccount": "777777777777", "aws:PrincipalArn": "arn:aws:iam::777777777777:role/highwater-replication" })).toBe(false);
    }
    expect(may(role, "kms:Encrypt", KEY, { ...ROLE, "kms:ViaService": "s3.eu-central-1.amazonaws.com" }, key)).toBe(true);
    expect(may([EVERYTHING], "kms:Encrypt", KEY, { ...ADMIN, "kms:ViaService": "s3.eu-central-1.amazonaws.com" }, key)).toBe(false);
  });
  it("lets nobody of the deployment's account delete, overwrite, unlock, read or reconfigure, whatever they may do at home", () => {
    const objects = ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:ReplicateDelete", "s3:PutObject", "s3:PutObjectRetention", "s3:PutObjectLegalHold", "s3:BypassGovernanceRetention", "s3:GetObject", "s3:GetObjectVersion"];
    const settings = ["s3:PutLifecycleConfiguration", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:PutBucketVersioning", "s3:PutBucketObjectLockConfiguration", "s3:PutEncryptionConfiguration", "s3:DeleteBucket"];
    for (const who of [ROLE, ADMIN]) {
      for (const action of objects) expect(may([EVERYTHING], action, COPY, who), action).toBe(false);
      for (const action of settings) expect(may([EVERYTHING], action, BUCKET, who), action).toBe(false);
      for (const action of ["kms:Decrypt", "kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:PutKeyPolicy"]) expect(may([EVERYTHING], action, KEY, { ...who, "kms:ViaService": "s3.eu-central-1.amazonaws.com" }, key), action).toBe(false);
    }
  });
  it("lets its own account read, and not delete or write by hand", () => {
    const reader = named(template, "AWS::IAM::ManagedPolicy", "ManagedPolicyName", "highwater-vault-reader").Properties.PolicyDocument.Statement as Statement[];
    const here = reader.map((s) => JSON.parse(JSON.stringify(s).replace(/<Bucket[0-9A-F]*[.]Arn>/g, BUCKET)));
    expect(may(here, "s3:GetObjectVersion", COPY, KEEPER)).toBe(true);
    expect(may(here, "s3:ListBucketVersions", BUCKET, KEEPER)).toBe(true);
    for (const action of ["s3:DeleteObjectVersion", "s3:DeleteObject", "s3:PutObject", "s3:BypassGovernanceRetention"]) expect(may([EVERYTHING], action, COPY, KEEPER), action).toBe(false);
  });
  it("keeps versions under a lock, and outlives its stack; copies go only where the configuration says when", () => {
    template.hasResource("AWS::S3::Bucket", {
      DeletionPolicy: "RetainExceptOnCreate",
      Properties: { BucketName: "highwater-vault", VersioningConfiguration: { Status: "Enabled" }, ObjectLockConfiguration: { Rule: { DefaultRetention: { Mode: "COMPLIANCE", Days: 30 } } } },
    });
    template.hasResource("AWS::KMS::Key", { DeletionPolicy: "RetainExceptOnCreate" });
    const rules = (t: Template) => Object.values(t.findResources("AWS::S3::Bucket"))[0]!.Properties.LifecycleConfiguration?.Rules;
    expect(rules(template)).toBeUndefined();
    expect(rules(vaultTemplate({ ...VAULT, keep_days: 400 }))[0]).toMatchObject({ ExpirationInDays: 400, NoncurrentVersionExpiration: { NoncurrentDays: 1 } });
  });
});

describe("the deployment's end", () => {
  it("copies every object of every cluster, encrypted with the vault's key, owned by the vault, and never a deletion", () => {
    expect(source.ReplicationConfiguration.Rules).toEqual([
      {
        Id: "vault",
        Priority: 1,
        Status: "Enabled",
        Filter: { Prefix: "v1/" },
        DeleteMarkerReplication: { Status: "Disabled" },
        SourceSelectionCriteria: { SseKmsEncryptedObjects: { Status: "Enabled" } },
        Destination: { Bucket: BUCKET, Account: "444455556666", AccessControlTranslation: { Owner: "Destination" }, EncryptionConfiguration: { ReplicaKmsKeyID: KEY } },
      },
    ]);
    expect(role.flatMap((s) => s.Action).filter((a) => /Delete|Put/.test(String(a)))).toEqual([]);
  });
  it("has no replication without a vault, and says what to deploy first without its key", () => {
    const { kms_key: _, ...keyless } = VAULT;
    expect(() => synthesise({ ...loadConfig(EXAMPLE), vault: keyless })).toThrow(/deploy the vault's stack first/);
    const { template } = synthesise();
    expect(named(template, "AWS::S3::Bucket", "BucketName", "highwater-111122223333-eu-west-1").Properties.ReplicationConfiguration).toBeUndefined();
  });
  it("is configured in the same file, with every mistake named by its line", () => {
    const text = readFileSync(EXAMPLE, "utf8");
    const of = (vault: string) => parseConfig(`${text}vault: ${vault}\n`, "highwater.yaml").vault;
    const good = `{bucket: highwater-vault, account: "444455556666", region: eu-central-1, source_account: "111122223333"}`;
    expect(of(good)).toEqual({ ...VAULT, kms_key: undefined, keep_days: undefined });
    const last = text.split("\n").length;
    expect(() => of(good.replace('"444455556666"', "444455556666"))).toThrow(`highwater.yaml:${last}: vault.account: must be like`);
    expect(() => of(good.replace("bucket: highwater-vault, ", ""))).toThrow("vault.bucket: is missing");
    expect(() => of(good.replace("}", `, kms_key: "${KEY.replace("444455556666", "111122223333")}"}`))).toThrow("vault.kms_key: is not a key of account 444455556666 in eu-central-1");
  });
  it("and the vault's stack pass cdk-nag in their apps, which write the templates that cfn-lint reads", () => {
    const directory = mkdtempSync(join(tmpdir(), "highwater-vault-"));
    try {
      const config = join(directory, "vault.yaml");
      writeFileSync(config, `${readFileSync(EXAMPLE, "utf8")}vault: ${JSON.stringify(VAULT)}\n`);
      withArtifacts((artifacts) => {
        for (const app of ["highwater", "vault"]) {
          const run = spawnSync(process.execPath, ["--import", "tsx", `bin/${app}.ts`], {
            cwd: new URL("..", import.meta.url).pathname,
            env: { ...process.env, HIGHWATER_CONFIG: config, HIGHWATER_ARTIFACTS: artifacts, CDK_OUTDIR: new URL(`../cdk.out/with-${app}`, import.meta.url).pathname },
            encoding: "utf8",
          });
          expect(run.stderr + run.stdout, app).toBe("");
          expect(run.status, app).toBe(0);
        }
      });
    } finally {
      rmSync(directory, { recursive: true });
    }
  }, 180_000);
});
