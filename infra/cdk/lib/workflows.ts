// The state machines: `infra/asl/*.asl.json` as they are, with the configuration's time-outs and this deployment's names.

import { readFileSync } from "node:fs";
import { Aws, RemovalPolicy, Validations } from "aws-cdk-lib";
import { ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import { CfnStateMachine } from "aws-cdk-lib/aws-stepfunctions";
import { Construct } from "constructs";
import type { Config } from "./config.ts";
import { terminate } from "./functions.ts";
import { type FunctionName, MACHINES, type MachineName, type Names } from "./names.ts";
import { type Grant, roleOf } from "./permissions.ts";

const HOUR = 3600;

/** A definition as its file states it. */
export interface Definition {
  StartAt: string;
  TimeoutSeconds: number;
  States: Record<string, State>;
}
/** A state; only what the stack touches is typed. */
export interface State {
  Type: string;
  TimeoutSeconds?: number;
  MaxConcurrency?: number;
  ItemProcessor?: { StartAt: string; States: Record<string, State> };
  [field: string]: unknown;
}

/** The three machines. */
export class Workflows extends Construct {
  constructor(scope: Construct, id: string, config: Config, names: Names) {
    super(scope, id);
    for (const machine of MACHINES) {
      // Execution data holds task tokens: it is not logged.
      const logGroup = new LogGroup(this, `${machine}-log`, { logGroupName: `/aws/vendedlogs/states/${names.of(machine)}`, retention: config.log_retention_days, removalPolicy: RemovalPolicy.DESTROY });
      const role = roleOf(this, `${machine}-role`, {
        roleName: names.of(`machine-${machine}`),
        description: `The state machine ${machine}`,
        assumedBy: new ServicePrincipal("states.amazonaws.com", { conditions: { StringEquals: { "aws:SourceAccount": Aws.ACCOUNT_ID } } }),
        grants: [...grants(machine, names), DELIVER_LOGS],
      });
      const resource = new CfnStateMachine(this, machine, {
        stateMachineName: names.of(machine),
        stateMachineType: "STANDARD",
        roleArn: role.roleArn,
        definitionString: JSON.stringify(definition(machine, config), null, 1),
        definitionSubstitutions: substitutions(machine, config, names),
        loggingConfiguration: { level: "ALL", includeExecutionData: false, destinations: [{ cloudWatchLogsLogGroup: { logGroupArn: logGroup.logGroupArn } }] },
      });
      Validations.of(resource).acknowledge({ id: "AwsSolutions-SF2", reason: "Every event is logged and the history shows every step; X-Ray would add permissions on all resources and no knowledge." });
    }
  }
}

/** The file's definition under this configuration's time-outs. One machine serves all clusters, so the longest counts. */
export function definition(machine: MachineName, config: Config): Definition {
  const asl = JSON.parse(readFileSync(new URL(`../../asl/${machine}.asl.json`, import.meta.url), "utf8")) as Definition;
  const longest = (hours: (cluster: Config["clusters"][string]) => number) => Math.max(...Object.values(config.clusters).map(hours)) * HOUR;
  const drill = longest((c) => c.drill.timeout_hours);
  // Planning, finding, ending and recording, with all their retries, take less than two hours together.
  const wholeDrill = drill + 2 * HOUR;
  const set = (name: string, field: "TimeoutSeconds" | "MaxConcurrency", value: number, states = asl.States) => {
    const state = states[name];
    if (state?.[field] === undefined) throw new Error(`${machine}.asl.json: the state ${name} with ${field} is gone`);
    state[field] = value;
  };
  switch (machine) {
    case "drill":
      set("Drill", "TimeoutSeconds", drill);
      asl.TimeoutSeconds = wholeDrill;
      break;
    case "restore-primary": {
      const ask = config.approval.expires_hours * HOUR;
      // The agent ends the script at its time-out; the helper's roll-back and the event's way take their time after it.
      const promote = longest((c) => c.promotion.timeout_hours) + HOUR;
      set("Drill", "TimeoutSeconds", wholeDrill + 600);
      set("Ask", "TimeoutSeconds", ask);
      set("Promote", "TimeoutSeconds", promote);
      asl.TimeoutSeconds = wholeDrill + ask + promote + 2 * HOUR;
      break;
    }
    case "drill-fleet": {
      const { concurrency } = config.fleet_drill;
      set("Drills", "MaxConcurrency", concurrency);
      set("Drill", "TimeoutSeconds", wholeDrill + 600, asl.States.Drills?.ItemProcessor?.States);
      asl.TimeoutSeconds = Math.ceil(Object.keys(config.clusters).length / concurrency) * (wholeDrill + 600) + HOUR;
      break;
    }
  }
  return asl;
}

/** What each definition's `${…}` stand for. */
export function substitutions(machine: MachineName, config: Config, names: Names): Record<string, string> {
  switch (machine) {
    case "drill":
      return {
        Deployment: names.deployment,
        PlanRestore: names.function("plan-restore"),
        LaunchDrill: names.function("launch-drill"),
        RecordDrill: names.function("record-drill"),
      };
    case "restore-primary":
      return {
        DrillMachine: names.machine("drill"),
        RequestApproval: names.function("request-approval"),
        Promote: names.function("promote"),
        FinishPromote: names.function("finish-promote"),
        StartBackup: names.function("start-backup"),
      };
    case "drill-fleet":
      // Cluster ids hold no quotes: this is a JSONata array of strings.
      return { DrillMachine: names.machine("drill"), Clusters: `[${Object.keys(config.clusters).map((c) => `'${c}'`).join(", ")}]` };
  }
}

function grants(machine: MachineName, names: Names): Grant[] {
  const invoke = (functions: FunctionName[]): Grant => ({
    sid: "CallFunctions",
    why: "The functions of this machine's states.",
    actions: ["lambda:InvokeFunction"],
    resources: functions.map((f) => names.function(f)),
  });
  const runDrill: Grant[] = [
    { sid: "StartDrill", why: "A drill is an execution of its own.", actions: ["states:StartExecution"], resources: [names.machine("drill")] },
    { sid: "FollowDrill", why: "Waiting for it, and ending it when this execution ends.", actions: ["states:DescribeExecution", "states:StopExecution"], resources: [names.executions("drill")] },
    {
      sid: "HearOfDrill",
      why: "Step Functions keeps a managed rule for synchronous nested executions.",
      actions: ["events:PutTargets", "events:PutRule", "events:DescribeRule"],
      resources: [names.arn("events", "rule", "StepFunctionsGetEventsForStepFunctionsExecutionRule")],
    },
  ];
  switch (machine) {
    case "drill":
      return [
        invoke(["plan-restore", "launch-drill", "record-drill"]),
        { sid: "FindInstances", why: "The drill's instance, by tag; the action knows no resource.", actions: ["ec2:DescribeInstances"], resources: ["*"] },
        terminate(names),
      ];
    case "restore-primary":
      return [...runDrill, invoke(["request-approval", "promote", "finish-promote", "start-backup"])];
    case "drill-fleet":
      return runDrill;
  }
}

/** What CloudWatch asks of a role whose machine writes vended logs. */
const DELIVER_LOGS: Grant = {
  sid: "DeliverLogs",
  why: "The log delivery actions know no resource.",
  actions: [
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
  ],
  resources: ["*"],
};
