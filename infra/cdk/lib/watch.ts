// What a person looks at, and what calls one: alarms, dashboard, and the policies of operators and approvers.

import { Duration } from "aws-cdk-lib";
import { Alarm, AlarmStatusWidget, ComparisonOperator, Dashboard, GraphWidget, type IMetric, MathExpression, Metric, TextWidget, TreatMissingData } from "aws-cdk-lib/aws-cloudwatch";
import { SnsAction } from "aws-cdk-lib/aws-cloudwatch-actions";
import { Construct } from "constructs";
import type { Config } from "./config.ts";
import { FUNCTIONS, MACHINES, type MachineName, type Names, TAG } from "./names.ts";
import type { Functions } from "./functions.ts";
import { type Grant, keyGrant, policyOf } from "./permissions.ts";
import { type Storage, STATUS_PAGE } from "./storage.ts";

/** The functions write their metrics into this namespace, as EMF lines in their logs: no permission is needed for it. */
export const NAMESPACE = "Highwater";

/** Alarms, dashboard and people's policies. */
export class Watch extends Construct {
  constructor(scope: Construct, id: string, config: Config, names: Names, storage: Storage, functions: Functions) {
    super(scope, id);
    const alarms = this.#alarms(config, names, storage, functions);
    this.#dashboard(config, names, functions, alarms);
    people(this, names, storage, functions);
  }

  #alarms(config: Config, names: Names, storage: Storage, functions: Functions): Alarm[] {
    const alarms: Alarm[] = [];
    const notify = new SnsAction(storage.topic);
    const alarm = (name: string, alarmDescription: string, metric: IMetric, missing: TreatMissingData, evaluationPeriods = 1, threshold = 0) => {
      const each = new Alarm(this, name, {
        alarmName: names.of(name),
        alarmDescription,
        metric,
        threshold,
        comparisonOperator: ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluationPeriods,
        treatMissingData: missing,
      });
      each.addAlarmAction(notify);
      each.addOkAction(notify);
      alarms.push(each);
    };
    const { BREACHING, NOT_BREACHING } = TreatMissingData;
    // reconcile writes these at each run, zero included: without it nobody would notice a lost backup, so silence is an alarm, once.
    const counted = (name: string, what: string, metric: string, missing: TreatMissingData = NOT_BREACHING) =>
      alarm(name, `${what} RUNBOOK: ${name}`, count(names, metric), missing, missing === BREACHING ? 2 : 1);
    counted("backups-overdue", "A cluster has no restore point younger than its overdue_hours, or reconcile does not run.", "OverdueBackups", BREACHING);
    counted("drills-overdue", "A cluster has no passed drill younger than its overdue_days, or reconcile does not run.", "OverdueDrills", BREACHING);
    counted("promotion-stuck", "A promotion and its roll-back failed: act now.", "StuckPromotions");
    counted("chain-broken", "A cluster's newest restore point cannot be continued or restored.", "BrokenChains");
    counted("backups-failed", "A cluster's newest backup failed, and will fail again until something is mended.", "FailingBackups");
    counted("lease-stuck", "A cluster's lease is held beyond its time: nothing can be backed up.", "StuckLeases");
    counted("instance-leaked", "A drill's instance outlived its drill; reconcile ends it.", "LeakedInstances");
    counted("rto-over-target", "A restore is expected to take longer than rto_minutes, and a full would not mend that.", "RestoresOverTarget");
    if (config.cost.cap_per_month !== undefined) {
      alarm("cost-over-cap", `A month is estimated to cost more than cost.cap_per_month. RUNBOOK: cost-over-cap`, count(names, "EstimatedMonthlyCost"), NOT_BREACHING, 1, config.cost.cap_per_month);
    }
    alarm("drills-failed", "A drill did not pass. RUNBOOK: drills-failed", executions(names, "drill", ["ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"]), NOT_BREACHING);
    alarm("function-errors", "A function ended with an error more than its callers retried away. RUNBOOK: function-errors", functionErrors(functions), NOT_BREACHING, 3);
    alarm("dead-letters", "An event was given up: look at it in the queue. RUNBOOK: dead-letters", storage.deadLetters.metricApproximateNumberOfMessagesVisible({ period: Duration.minutes(5), statistic: "max" }), NOT_BREACHING);
    return alarms;
  }

  /** In the order in which one asks: is anything wrong, what would be lost, is it proven, how long would it take, and then why. */
  #dashboard(config: Config, names: Names, functions: Functions, alarms: Alarm[]): void {
    const clusters = Object.keys(config.clusters);
    const perCluster = (metricName: string, statistic: string, period: Duration = Duration.hours(1)) =>
      clusters.map((cluster) => new Metric({ namespace: NAMESPACE, metricName, dimensionsMap: { deployment: names.deployment, cluster }, statistic, period, label: cluster }));
    const graph = (title: string, left: IMetric[]) => new GraphWidget({ title, left, width: 12, height: 6, leftYAxis: { min: 0 } });
    new Dashboard(this, "Dashboard", {
      dashboardName: names.of("overview"),
      widgets: [
        [new TextWidget({ markdown: `# Highwater: ${names.deployment}\nA restore point is good when a drill has passed on it. The status page says the rest: \`aws s3 presign s3://${names.pages}/${STATUS_PAGE}\``, width: 24, height: 2 })],
        [new AlarmStatusWidget({ title: "Does anything need you?", alarms, width: 24, height: 4 })],
        [graph("What would be lost: age of the newest restore point, hours", perCluster("RestorePointAgeHours", "max")), graph("Is it proven: age of the newest passed drill, days", perCluster("PassedDrillAgeDays", "max"))],
        [graph("How long would it take: expected restore, seconds", perCluster("ExpectedRestoreSeconds", "max")), graph("What drills measured: restore, seconds", perCluster("RestoreSeconds", "max"))],
        [graph("Time of a backup, seconds", perCluster("BackupSeconds", "max")), graph("Stored by a backup, bytes", perCluster("StoredBytes", "sum"))],
        [graph("Kept after retention, bytes", perCluster("KeptBytes", "max", Duration.days(1))), graph("Freed by retention, bytes", perCluster("FreedBytes", "sum", Duration.days(1)))],
        [graph("Estimated cost of a month", [count(names, "EstimatedMonthlyCost")]), graph("Backups that failed", [count(names, "FailedBackups", "sum")])],
        [graph("Drill executions", ["ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"].map((m) => execution(names, "drill", m))), graph("Function errors", functions.all().map((f) => f.metricErrors({ period: Duration.hours(1) })))],
      ],
    });
  }
}

const count = (names: Names, metricName: string, statistic = "max") =>
  new Metric({ namespace: NAMESPACE, metricName, dimensionsMap: { deployment: names.deployment }, statistic, period: Duration.minutes(15) });

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
  const readPages: Grant = { sid: "ReadPages", why: "The status page and the reports; no key is needed for them.", actions: ["s3:GetObject", "s3:ListBucket"], resources: [names.pagesArn, `${names.pagesArn}/*`] };
  policyOf(scope, "Operator", {
    managedPolicyName: names.of("operator"),
    description: "The operator's command, but for the data itself: status, backups and drills now, reports and certificates",
    grants: [
      { sid: "FindDeployment", why: "What this deployment is: `highwater --deployment`.", actions: ["ssm:GetParameter"], resources: [names.deploymentParameterArn] },
      { sid: "ReadClusters", why: "The clusters' configuration: hosts, schedules, keep rules.", actions: ["ssm:GetParameter", "ssm:GetParametersByPath"], resources: [names.parameterArn, `${names.parameterArn}/*`] },
      { sid: "ReadCatalog", why: "The operator's command reads it.", actions: ["dynamodb:GetItem", "dynamodb:Query"], resources: [storage.table.tableArn, `${storage.table.tableArn}/index/open`] },
      { sid: "BackUpNow", why: "`highwater backup now`: the schedule's own function, whose rules hold.", actions: ["lambda:InvokeFunction"], resources: [names.function("start-backup")] },
      { sid: "StartDrills", why: "`highwater drill`, and by hand in the console.", actions: ["states:StartExecution"], resources: MACHINES.map((m) => names.machine(m)) },
      {
        sid: "FollowExecutions",
        why: "What they started, and the others.",
        actions: ["states:DescribeExecution", "states:GetExecutionHistory", "states:StopExecution"],
        resources: MACHINES.map((m) => names.executions(m)),
      },
      { sid: "FindExecutions", why: "The machines and their executions.", actions: ["states:DescribeStateMachine", "states:ListExecutions"], resources: MACHINES.map((m) => names.machine(m)) },
      { sid: "ReadDrills", why: "Reports, certificates and signatures; no data.", actions: ["s3:GetObject", "s3:GetObjectVersion"], resources: ["report.json", "report.html", "plan.json", "certificate.json", "certificate.sig"].map((name) => names.objects(`v1/*/drills/*/${name}`)) },
      keyGrant("UseDataKeyInS3", "Reports are encrypted.", storage.dataKey.keyArn, "s3", ["kms:Decrypt"]),
      { sid: "GetPublicKey", why: "The public half, which verifies certificates.", actions: ["kms:GetPublicKey"], resources: [storage.signingKey.keyArn] },
      { sid: "SendDocuments", why: "Install or upgrade the helper of the deployed release, and ask its doctor.", actions: ["ssm:SendCommand"], resources: [names.document("install"), names.document("doctor")] },
      {
        sid: "SendToOurHosts",
        why: "Only to hosts that carry this deployment's tag.",
        actions: ["ssm:SendCommand"],
        resources: [names.arn("ec2", "instance", "*"), names.arn("ssm", "managed-instance", "*")],
        conditions: { StringEquals: { [`ssm:resourceTag/${TAG.deployment}`]: names.deployment } },
      },
      { sid: "ReadCommandResults", why: "What the host answered; these actions know no resource.", actions: ["ssm:GetCommandInvocation", "ssm:ListCommandInvocations"], resources: ["*"] },
      readPages,
    ],
  });
  policyOf(scope, "Restorer", {
    managedPolicyName: names.of("restorer"),
    description: "Beside the operator's policy: read every backup, for fetch, plan, audit and a rebuild's dry run. Whoever has it can read the databases",
    grants: [
      { sid: "ReadBackups", why: "The data, its manifests and its locks.", actions: ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:GetObjectLegalHold"], resources: [names.objects("v1/*")] },
      { sid: "ListBackups", why: "Manifests are found by listing; retention looks at versions.", actions: ["s3:ListBucket", "s3:ListBucketVersions"], resources: [names.bucketArn], conditions: { StringLike: { "s3:prefix": "v1/*" } } },
      keyGrant("UseDataKeyInS3", "Backups are encrypted.", storage.dataKey.keyArn, "s3", ["kms:Decrypt"]),
    ],
  });
  const decide = functions.get("decide-approval").functionArn;
  policyOf(scope, "Approver", {
    managedPolicyName: names.of("approver"),
    description: "Ask for promotions and decide on those of others, by the function URL alone",
    grants: [
      { sid: "FindDeployment", why: "Where the URL is: `highwater --deployment`.", actions: ["ssm:GetParameter"], resources: [names.deploymentParameterArn] },
      { sid: "CallUrl", why: "IAM vouches for the caller of the URL.", actions: ["lambda:InvokeFunctionUrl"], resources: [decide], conditions: { StringEquals: { "lambda:FunctionUrlAuthType": "AWS_IAM" } } },
      {
        sid: "InvokeByUrlOnly",
        why: "A direct call could name any caller: it is not allowed.",
        actions: ["lambda:InvokeFunction"],
        resources: [decide],
        conditions: { Bool: { "lambda:InvokedViaFunctionUrl": "true" } },
      },
      readPages,
    ],
  });
}
