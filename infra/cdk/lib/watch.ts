// What a person looks at, and what calls one: alarms, dashboard, and the policies of operators and approvers.

import { Duration } from "aws-cdk-lib";
import { Alarm, ComparisonOperator, Dashboard, GraphWidget, type IMetric, MathExpression, Metric, TextWidget, TreatMissingData } from "aws-cdk-lib/aws-cloudwatch";
import { SnsAction } from "aws-cdk-lib/aws-cloudwatch-actions";
import { Construct } from "constructs";
import type { Config } from "./config.ts";
import { FUNCTIONS, MACHINES, type MachineName, type Names, TAG } from "./names.ts";
import type { Functions } from "./functions.ts";
import { policyOf } from "./permissions.ts";
import type { Storage } from "./storage.ts";

/** The functions write their metrics into this namespace, as EMF lines in their logs: no permission is needed for it. */
export const NAMESPACE = "Highwater";

/** Alarms, dashboard and people's policies. */
export class Watch extends Construct {
  constructor(scope: Construct, id: string, config: Config, names: Names, storage: Storage, functions: Functions) {
    super(scope, id);
    this.#alarms(names, storage, functions);
    this.#dashboard(config, names, functions);
    people(this, names, storage, functions);
  }

  #alarms(names: Names, storage: Storage, functions: Functions): void {
    const notify = new SnsAction(storage.topic);
    const alarm = (name: string, alarmDescription: string, metric: IMetric, missing: TreatMissingData, evaluationPeriods = 1) => {
      const each = new Alarm(this, name, {
        alarmName: names.of(name),
        alarmDescription,
        metric,
        threshold: 0,
        comparisonOperator: ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluationPeriods,
        treatMissingData: missing,
      });
      each.addAlarmAction(notify);
      each.addOkAction(notify);
    };
    const { BREACHING, NOT_BREACHING } = TreatMissingData;
    // reconcile writes these at each run: without it nobody would notice a lost backup, so silence is an alarm.
    alarm("backups-overdue", "A cluster has no restore point younger than its overdue_hours, or reconcile does not run. RUNBOOK: backups-overdue", count(names, "OverdueBackups"), BREACHING, 2);
    alarm("drills-overdue", "A cluster has no passed drill younger than its overdue_days, or reconcile does not run. RUNBOOK: drills-overdue", count(names, "OverdueDrills"), BREACHING, 2);
    alarm("promotion-stuck", "A promotion and its roll-back failed: act now. RUNBOOK: promotion-stuck", count(names, "StuckPromotions"), NOT_BREACHING);
    alarm("backups-failed", "A backup ended without a restore point. RUNBOOK: backups-failed", count(names, "FailedBackups"), NOT_BREACHING);
    alarm("drills-failed", "A drill did not pass. RUNBOOK: drills-failed", executions(names, "drill", ["ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"]), NOT_BREACHING);
    alarm("function-errors", "A function ended with an error more than its callers retried away. RUNBOOK: function-errors", functionErrors(functions), NOT_BREACHING, 3);
    alarm("dead-letters", "An event was given up: look at it in the queue. RUNBOOK: dead-letters", storage.deadLetters.metricApproximateNumberOfMessagesVisible({ period: Duration.minutes(5), statistic: "max" }), NOT_BREACHING);
  }

  #dashboard(config: Config, names: Names, functions: Functions): void {
    const clusters = Object.keys(config.clusters);
    const perCluster = (metricName: string, statistic: string) =>
      clusters.map((cluster) => new Metric({ namespace: NAMESPACE, metricName, dimensionsMap: { deployment: names.deployment, cluster }, statistic, period: Duration.hours(1), label: cluster }));
    const graph = (title: string, left: IMetric[]) => new GraphWidget({ title, left, width: 12, height: 6 });
    new Dashboard(this, "Dashboard", {
      dashboardName: names.of("overview"),
      widgets: [
        [new TextWidget({ markdown: `# Highwater: ${names.deployment}\nA restore point is good when a drill has passed on it. Alarms go to the topic ${names.of("notifications")}.`, width: 24, height: 2 })],
        [graph("Age of the newest restore point, hours", perCluster("RestorePointAgeHours", "max")), graph("Age of the newest passed drill, days", perCluster("PassedDrillAgeDays", "max"))],
        [graph("Stored by a backup, bytes", perCluster("StoredBytes", "sum")), graph("Time of a backup, seconds", perCluster("BackupSeconds", "max"))],
        [graph("Time of a restore, seconds", perCluster("RestoreSeconds", "max")), graph("Overdue", [count(names, "OverdueBackups"), count(names, "OverdueDrills")])],
        [graph("Drill executions", ["ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"].map((m) => execution(names, "drill", m))), graph("Function errors", functions.all().map((f) => f.metricErrors({ period: Duration.hours(1) })))],
      ],
    });
  }
}

const count = (names: Names, metricName: string) =>
  new Metric({ namespace: NAMESPACE, metricName, dimensionsMap: { deployment: names.deployment }, statistic: "max", period: Duration.minutes(15) });

const execution = (names: Names, machine: MachineName, metricName: string) =>
  new Metric({ namespace: "AWS/States", metricName, dimensionsMap: { StateMachineArn: names.machine(machine) }, statistic: "sum", period: Duration.minutes(5) });

function sum(metrics: IMetric[], label: string): MathExpression {
  const usingMetrics = Object.fromEntries(metrics.map((metric, i) => [`m${i}`, metric]));
  return new MathExpression({ expression: Object.keys(usingMetrics).map((m) => `FILL(${m}, 0)`).join(" + "), usingMetrics, label, period: Duration.minutes(5) });
}

const executions = (names: Names, machine: MachineName, metrics: string[]) => sum(metrics.map((m) => execution(names, machine, m)), "Executions that did not succeed");

/** An alarm takes ten metrics at most in an expression: the functions that people wait for are watched by their workflows. */
function functionErrors(functions: Functions): MathExpression {
  const watchedByWorkflows = ["plan-restore", "launch-drill", "record-drill"];
  return sum(FUNCTIONS.filter((name) => !watchedByWorkflows.includes(name)).map((name) => functions.get(name).metricErrors({ period: Duration.minutes(5) })), "Errors");
}

/** People get these policies by their own roles. Requester and approver differ by what decide-approval checks, not by policy alone. */
function people(scope: Construct, names: Names, storage: Storage, functions: Functions): void {
  policyOf(scope, "Operator", {
    managedPolicyName: names.of("operator"),
    description: "Start drills, read catalog and reports, ask for promotions",
    grants: [
      { sid: "StartDrills", why: "By hand, in the console.", actions: ["states:StartExecution"], resources: MACHINES.map((m) => names.machine(m)) },
      {
        sid: "FollowExecutions",
        why: "What they started, and the others.",
        actions: ["states:DescribeExecution", "states:GetExecutionHistory", "states:StopExecution"],
        resources: MACHINES.map((m) => names.executions(m)),
      },
      { sid: "FindExecutions", why: "The machines and their executions.", actions: ["states:DescribeStateMachine", "states:ListExecutions"], resources: MACHINES.map((m) => names.machine(m)) },
      { sid: "ReadCatalog", why: "The operator's command reads it.", actions: ["dynamodb:GetItem", "dynamodb:Query"], resources: [storage.table.tableArn, `${storage.table.tableArn}/index/open`] },
      { sid: "SendDocuments", why: "Install or upgrade the helper of the deployed release, and ask its doctor.", actions: ["ssm:SendCommand"], resources: [names.document("install"), names.document("doctor")] },
      {
        sid: "SendToOurHosts",
        why: "Only to hosts that carry this deployment's tag.",
        actions: ["ssm:SendCommand"],
        resources: [names.arn("ec2", "instance", "*"), names.arn("ssm", "managed-instance", "*")],
        conditions: { StringEquals: { [`ssm:resourceTag/${TAG.deployment}`]: names.deployment } },
      },
      { sid: "ReadCommandResults", why: "What the host answered; these actions know no resource.", actions: ["ssm:GetCommandInvocation", "ssm:ListCommandInvocations"], resources: ["*"] },
      { sid: "ReadClusters", why: "The clusters' configuration: hosts, schedules, keep rules.", actions: ["ssm:GetParameter", "ssm:GetParametersByPath"], resources: [names.parameterArn, `${names.parameterArn}/*`] },
    ],
  });
  const decide = functions.get("decide-approval").functionArn;
  policyOf(scope, "Approver", {
    managedPolicyName: names.of("approver"),
    description: "Ask for promotions and decide on those of others, by the function URL alone",
    grants: [
      { sid: "CallUrl", why: "IAM vouches for the caller of the URL.", actions: ["lambda:InvokeFunctionUrl"], resources: [decide], conditions: { StringEquals: { "lambda:FunctionUrlAuthType": "AWS_IAM" } } },
      {
        sid: "InvokeByUrlOnly",
        why: "A direct call could name any caller: it is not allowed.",
        actions: ["lambda:InvokeFunction"],
        resources: [decide],
        conditions: { Bool: { "lambda:InvokedViaFunctionUrl": "true" } },
      },
    ],
  });
}
