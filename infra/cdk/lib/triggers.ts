// What starts things: schedules per cluster and for the fleet, and the events that end them. Also the clusters' and hosts' parameters.

import { Aws, Duration, Stack } from "aws-cdk-lib";
import { Rule } from "aws-cdk-lib/aws-events";
import { LambdaFunction } from "aws-cdk-lib/aws-events-targets";
import { ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { CfnSchedule, CfnScheduleGroup } from "aws-cdk-lib/aws-scheduler";
import { CfnParameter } from "aws-cdk-lib/aws-ssm";
import { Construct } from "constructs";
import type { ClusterConfig, Config } from "./config.ts";
import { hostToml } from "./host-toml.ts";
import type { Functions } from "./functions.ts";
import type { DocumentName, FunctionName, Names } from "./names.ts";
import { roleOf } from "./permissions.ts";
import type { Storage } from "./storage.ts";

/** Scheduler fills it in: the same in every delivery of one turn, so that a turn begins one backup. */
const SCHEDULED_TIME = "<aws.scheduler.scheduled-time>";

/** A standard parameter holds this many characters, an advanced one twice as many. */
const STANDARD_PARAMETER = 4096;

/** Parameters, schedules and rules. */
export class Triggers extends Construct {
  constructor(scope: Construct, id: string, config: Config, names: Names, storage: Storage, functions: Functions) {
    super(scope, id);
    for (const [cluster, settings] of Object.entries(config.clusters)) this.#parameter(cluster, settings, names);
    this.#deployment(config, names, storage, functions);
    this.#schedules(config, names, storage);
    this.#rules(names, storage, functions);
  }

  #parameter(cluster: string, settings: ClusterConfig, names: Names): void {
    new CfnParameter(this, `Host-${cluster}`, {
      name: `${names.hostParameters}/${cluster}`,
      description: `Highwater: host.toml of ${cluster}, without host_id, for hosts that have none yet`,
      type: "String",
      value: hostToml(cluster, settings),
    });
    const value = clusterParameter(cluster, settings);
    if (value.length > 2 * STANDARD_PARAMETER) throw new Error(`clusters.${cluster} has ${value.length} characters as JSON; a parameter holds ${2 * STANDARD_PARAMETER}`);
    new CfnParameter(this, `Cluster-${cluster}`, {
      name: `${names.parameters}/${cluster}`,
      description: `Highwater: the configuration of ${cluster}`,
      type: "String",
      tier: value.length > STANDARD_PARAMETER ? "Advanced" : "Standard",
      value,
    });
  }

  /** What the operator's command has to know: everything but its name. */
  #deployment(config: Config, names: Names, storage: Storage, functions: Functions): void {
    new CfnParameter(this, "Deployment", {
      name: names.deploymentParameter,
      description: "Highwater: what this deployment is, for `highwater --deployment`",
      type: "String",
      value: Stack.of(this).toJsonString({
        format: "highwater.deployment.v1",
        deployment: names.deployment,
        bucket: storage.bucket.bucketName,
        table: storage.table.tableName,
        clusters: names.parameters,
        approval_url: functions.approvalUrl.url,
        start_backup: names.of("start-backup"),
        drill_machine: names.machine("drill"),
        promotion_machine: names.machine("restore-primary"),
        signing_key: storage.signingKey.keyArn,
        cost: config.cost,
      }),
    });
  }

  #schedules(config: Config, names: Names, storage: Storage): void {
    const group = new CfnScheduleGroup(this, "Group", { name: names.deployment });
    const role = roleOf(this, "Role", {
      roleName: names.of("scheduler"),
      description: "Starts what this deployment's schedules start",
      assumedBy: new ServicePrincipal("scheduler.amazonaws.com", {
        // Scheduler presents the group, never a schedule: a condition on schedules would let nothing start.
        conditions: { StringEquals: { "aws:SourceAccount": Aws.ACCOUNT_ID, "aws:SourceArn": names.arn("scheduler", "schedule-group", names.deployment) } },
      }),
      grants: [
        {
          sid: "CallFunctions",
          why: "Backups, reconciliation and retention.",
          actions: ["lambda:InvokeFunction"],
          resources: [names.function("start-backup"), names.function("reconcile"), names.function("prune")],
        },
        { sid: "StartDrills", why: "Drills of one cluster and of all.", actions: ["states:StartExecution"], resources: [names.machine("drill"), names.machine("drill-fleet")] },
        { sid: "KeepWhatFailed", why: "A start that failed every attempt is kept.", actions: ["sqs:SendMessage"], resources: [storage.deadLetters.queueArn] },
      ],
    });
    const add = (name: string, description: string, when: { schedule: string; timezone: string; window_minutes?: number }, targetArn: string, input: unknown, maximumAge: Duration) =>
      new CfnSchedule(this, name, {
        name,
        groupName: group.ref,
        description,
        scheduleExpression: when.schedule,
        scheduleExpressionTimezone: when.timezone,
        flexibleTimeWindow: when.window_minutes === undefined ? { mode: "OFF" } : { mode: "FLEXIBLE", maximumWindowInMinutes: when.window_minutes },
        target: {
          arn: targetArn,
          roleArn: role.roleArn,
          input: JSON.stringify(input),
          retryPolicy: { maximumEventAgeInSeconds: maximumAge.toSeconds(), maximumRetryAttempts: 20 },
          deadLetterConfig: { arn: storage.deadLetters.queueArn },
        },
      });
    for (const [cluster, { backup, drill }] of Object.entries(config.clusters)) {
      add(`backup-${cluster}`, `Backups of ${cluster}`, backup, names.function("start-backup"), { cluster, once: SCHEDULED_TIME }, Duration.hours(1));
      if (drill.schedule) add(`drill-${cluster}`, `Drills of ${cluster}`, { ...drill, schedule: drill.schedule }, names.machine("drill"), { cluster }, Duration.hours(6));
    }
    const { schedule, timezone } = config.fleet_drill;
    if (schedule) add("fleet-drill", "Drills of every cluster", { schedule, timezone, window_minutes: 60 }, names.machine("drill-fleet"), {}, Duration.hours(6));
    add("fleet-reconcile", "Finishes what was left open", { schedule: config.reconcile_schedule, timezone: "UTC" }, names.function("reconcile"), {}, Duration.minutes(5));
    add("fleet-prune", "Retention of every cluster", { schedule: config.prune_schedule, timezone: "UTC", window_minutes: 60 }, names.function("prune"), {}, Duration.hours(6));
  }

  #rules(names: Names, storage: Storage, functions: Functions): void {
    const on = (name: string, description: string, eventPattern: { source: string[]; detailType: string[]; detail: Record<string, unknown> }, target: FunctionName) =>
      new Rule(this, name, {
        ruleName: names.of(name),
        description,
        eventPattern,
        targets: [new LambdaFunction(functions.get(target), { deadLetterQueue: storage.deadLetters, maxEventAge: Duration.hours(6), retryAttempts: 20 })],
      });
    // Best effort, and its spellings of the end vary: whatever is not on the way is an end, and the function asks for the truth.
    const ended = (...documents: DocumentName[]) => ({
      source: ["aws.ssm"],
      detailType: ["EC2 Command Invocation Status-change Notification"],
      detail: { "document-name": documents.map((d) => names.of(d)), status: [{ "anything-but": ["Pending", "InProgress", "Delayed", "Cancelling"] }] },
    });
    on("backup-ended", "A backup command has ended", ended("backup"), "finish-backup");
    on("promotion-ended", "A promotion, its resumption or its roll-back has ended", ended("promote", "resume", "rollback"), "finish-promote");
    on(
      "instance-ended",
      "An instance ends: it may be a drill's",
      { source: ["aws.ec2"], detailType: ["EC2 Instance State-change Notification"], detail: { state: ["shutting-down", "terminated", "stopping", "stopped"] } },
      "reconcile",
    );
    on(
      "execution-ended",
      "A machine was aborted or ran out of time, so that none of its states cleaned up",
      {
        source: ["aws.states"],
        detailType: ["Step Functions Execution Status Change"],
        detail: { stateMachineArn: [names.machine("drill"), names.machine("restore-primary")], status: ["ABORTED", "TIMED_OUT", "FAILED"] },
      },
      "reconcile",
    );
  }
}

/** The parameter's JSON: what the functions read. What only the host needs is not in it. */
export function clusterParameter(cluster: string, settings: ClusterConfig): string {
  const { engine: _engine, state_dir: _stateDir, server: _server, promotion, ...rest } = settings;
  return JSON.stringify({ format: "highwater.cluster.v1", cluster, ...rest, promotion: { timeout_hours: promotion.timeout_hours } });
}
