// Roles from tables of grants. A grant carries its reason: the template shows it, and a wildcard in a grant's resources
// is acknowledged to cdk-nag with that reason and no other.

import { Aws, type CfnResource, Stack, Tags, Validations } from "aws-cdk-lib";
import { Effect, type IPrincipal, ManagedPolicy, PolicyDocument, PolicyStatement, Role } from "aws-cdk-lib/aws-iam";
import type { Construct } from "constructs";

/** One statement of a role, and why the role has it. */
export interface Grant {
  sid: string;
  why: string;
  actions: string[];
  resources: string[];
  conditions?: Record<string, Record<string, unknown>>;
}

/** A role with exactly these grants; nothing that CDK would like to add to it is added. */
export function roleOf(
  scope: Construct,
  id: string,
  props: { roleName: string; description: string; assumedBy: IPrincipal; grants: Grant[]; tags?: Record<string, string> },
): Role {
  const { grants, tags, ...rest } = props;
  const role = new Role(scope, id, { ...rest, inlinePolicies: { grants: document(grants) } });
  for (const [key, value] of Object.entries(tags ?? {})) Tags.of(role).add(key, value);
  explain(role, grants);
  return role;
}

/** A managed policy with exactly these grants. */
export function policyOf(scope: Construct, id: string, props: { managedPolicyName: string; description: string; grants: Grant[] }): ManagedPolicy {
  const { grants, ...rest } = props;
  const policy = new ManagedPolicy(scope, id, { ...rest, document: document(grants) });
  explain(policy, grants);
  return policy;
}

function document(grants: Grant[]): PolicyDocument {
  const statements = grants.map(({ sid, actions, resources, conditions }) => new PolicyStatement({ sid, effect: Effect.ALLOW, actions, resources, conditions }));
  return new PolicyDocument({ statements, minimize: false });
}

function explain(owner: Construct, grants: Grant[]): void {
  const resource = owner.node.defaultChild as CfnResource;
  resource.addMetadata("Reasons", Object.fromEntries(grants.map(({ sid, why }) => [sid, why])));
  const reasons = new Map<string, string>();
  for (const { resources, why } of grants) {
    for (const each of resources.map((r) => flat(Stack.of(owner).resolve(r))).filter((r) => r.includes("*"))) {
      reasons.set(each, [...new Set([reasons.get(each), why])].filter(Boolean).join(" "));
    }
  }
  for (const [each, reason] of reasons) Validations.of(owner).acknowledge({ id: `AwsSolutions-IAM5[Resource::${each}]`, reason });
}

/** A resolved ARN as cdk-nag spells it in a finding's id. */
function flat(value: unknown): string {
  if (typeof value === "string") return value;
  const { "Fn::Join": join, "Fn::GetAtt": att, Ref: ref } = value as { "Fn::Join"?: [string, unknown[]]; "Fn::GetAtt"?: string[]; Ref?: string };
  if (join) return join[1].map(flat).join(join[0]);
  return att ? `<${att.join(".")}>` : `<${ref}>`;
}

/** The use of a KMS key by way of one service only. */
export function keyGrant(sid: string, why: string, keyArn: string, service: "s3" | "sns" | "ec2", actions: string[]): Grant {
  const conditions = { StringEquals: { "kms:ViaService": `${service}.${Aws.REGION}.amazonaws.com` } };
  return { sid, why, actions, resources: [keyArn], conditions };
}
