// Every path of the three state machines, on their own definitions: what runs, what is never run, and how it ends.

import validate from "asl-validator";
import { describe, expect, it } from "vitest";
import { type Config, loadConfig } from "../lib/config.ts";
import { MACHINES, type MachineName } from "../lib/names.ts";
import { definition, type State } from "../lib/workflows.ts";
import { EXAMPLE, named, synthesise } from "./fixture.ts";
import { type Outcome, run, TaskFailure } from "./interpreter.ts";

const config = loadConfig(EXAMPLE);
const { template } = synthesise();
/** The machine as it is deployed: from the template, with its substitutions made. */
const deployed = Object.fromEntries(
  MACHINES.map((machine) => {
    const { DefinitionString, DefinitionSubstitutions } = named(template, "AWS::StepFunctions::StateMachine", "StateMachineName", `highwater-${machine}`).Properties;
    const text = (DefinitionString as string).replace(/\$\{(\w+)\}/g, (_, key: string) => {
      if (!(key in DefinitionSubstitutions)) throw new Error(`${machine}: nothing stands for ${key}`);
      return DefinitionSubstitutions[key];
    });
    return [machine, JSON.parse(text)];
  }),
) as Record<MachineName, any>;

const states = (machine: MachineName): [string, State][] => {
  const of = (all: Record<string, State>): [string, State][] => Object.entries(all).flatMap(([name, state]) => [[name, state] as [string, State], ...(state.ItemProcessor ? of(state.ItemProcessor.States) : [])]);
  return of(deployed[machine].States);
};

describe.each(MACHINES)("the machine %s", (machine) => {
  it("is valid Amazon States Language once substituted", () => {
    const { isValid, errorsText } = validate(structuredClone(deployed[machine]), { checkPaths: true, checkArn: true });
    expect(isValid, errorsText()).toBe(true);
  });
  it("bounds each task and the whole, and catches whatever a task can throw", () => {
    expect(deployed[machine].TimeoutSeconds).toBeGreaterThan(0);
    for (const [name, state] of states(machine)) {
      if (state.Type !== "Task") continue;
      expect(state.TimeoutSeconds, name).toBeGreaterThan(0);
      expect((state.Catch as { ErrorEquals: string[] }[]).at(-1)?.ErrorEquals, name).toEqual(["States.ALL"]);
      expect(state.TimeoutSeconds, name).toBeLessThan(deployed[machine].TimeoutSeconds);
    }
  });
  it("retries only what may pass, but for the two calls that end an instance", () => {
    for (const [name, state] of states(machine)) {
      const retried = ((state.Retry ?? []) as { ErrorEquals: string[] }[]).flatMap((r) => r.ErrorEquals);
      if (retried.includes("States.ALL")) expect(["FindInstance", "Terminate"]).toContain(name);
      expect(retried).not.toContain("States.TaskFailed");
      expect(retried).not.toContain("States.Timeout");
    }
  });
});

describe("time-outs", () => {
  it("come from the configuration; a machine outlives its parts", () => {
    const longer: Config = structuredClone(config);
    longer.clusters.orders!.drill.timeout_hours = 48;
    longer.clusters.orders!.promotion.timeout_hours = 48;
    longer.approval.expires_hours = 100;
    const drill = definition("drill", longer);
    const primary = definition("restore-primary", longer);
    expect(drill.States.Drill?.TimeoutSeconds).toBe(48 * 3600);
    expect(primary.States.Ask?.TimeoutSeconds).toBe(100 * 3600);
    expect(primary.States.Promote?.TimeoutSeconds).toBeGreaterThan(48 * 3600);
    expect(primary.States.Drill?.TimeoutSeconds).toBeGreaterThan(drill.TimeoutSeconds);
    expect(primary.TimeoutSeconds).toBeGreaterThan(["Drill", "Ask", "Promote"].reduce((sum, s) => sum + (primary.States[s]?.TimeoutSeconds ?? 0), 0));
  });
});

/** Scripted answers by state name: a value, or a failure. What is not scripted fails the test. */
type Script = Record<string, unknown>;
async function play(machine: MachineName, input: unknown, script: Script): Promise<Outcome & { calls: Record<string, any[]> }> {
  const calls: Record<string, any[]> = {};
  const outcome = await run(deployed[machine], input, (state, args) => {
    (calls[state] ??= []).push(args);
    if (!(state in script)) throw new Error(`${state} was not expected`);
    const answer = script[state];
    const now = typeof answer === "function" ? answer(calls[state].length, args) : answer;
    if (now instanceof TaskFailure) throw now;
    return now;
  });
  return { ...outcome, calls };
}
const failure = (error: string, cause = "why") => new TaskFailure(error, cause);

describe("drill", () => {
  const plan = { Payload: { drill_id: "d1", cluster: "orders" } };
  const instance = { Reservations: [{ Instances: [{ InstanceId: "i-1" }] }] };
  const passing: Script = { Plan: plan, Drill: { exit_code: 0 }, FindInstance: instance, Terminate: {}, Record: { Payload: { outcome: "passed", cluster: "orders" } } };
  const drill = (change: Script = {}, input: unknown = { cluster: "orders" }) => play("drill", input, { ...passing, ...change });

  it("passes: planned, drilled, terminated, recorded", async () => {
    const { status, output, calls, path } = await drill();
    expect(status).toBe("SUCCEEDED");
    expect(output).toEqual({ outcome: "passed", cluster: "orders" });
    expect(path).toEqual(["Plan", "IsRefused", "Drill", "FindInstance", "IsAnyInstanceLeft", "Terminate", "Record", "HasPassed", "Passed"]);
    expect(calls.Plan?.[0].Payload).toEqual({ input: { cluster: "orders" }, execution: "arn:execution", started: "2026-11-22T02:00:00.123Z" });
    expect(calls.Drill?.[0].Payload).toEqual({ drill: plan.Payload, token: "token" });
    expect(calls.Terminate?.[0]).toEqual({ InstanceIds: ["i-1"] });
    expect(calls.Record?.[0].Payload).toEqual({ drill: plan.Payload, failure: null });
  });
  it("records what cannot be restored as failed, and launches nothing", async () => {
    const refused = { Payload: { ...plan.Payload, refused: { Error: "Damaged", Cause: "data-0000.zst is gone" } } };
    const { status, error, cause, path, calls } = await drill({ Plan: refused, Record: { Payload: { outcome: "failed", reason: "no" } } });
    expect([status, error, cause, path]).toEqual(["FAILED", "DrillFailed", "no", ["Plan", "IsRefused", "Record", "HasPassed", "Failed"]]);
    expect(calls.Record?.[0].Payload).toEqual({ drill: refused.Payload, failure: refused.Payload.refused });
  });
  it("looks for its instance by this drill's tag, in this deployment only", async () => {
    const { calls } = await drill();
    expect(calls.FindInstance?.[0].Filters.slice(0, 2)).toEqual([
      { Name: "tag:highwater:deployment", Values: ["highwater"] },
      { Name: "tag:highwater:drill", Values: ["d1"] },
    ]);
  });
  it.each([["an empty input", {}], ["a word", "orders"], ["a list", ["orders"]], ["nothing", null]])("hands %s to plan-restore and shows its refusal", async (_, input) => {
    const { status, error, cause, path } = await drill({ Plan: failure("BadInput", 'expected {"cluster":"orders"}') }, input);
    expect([status, error, cause, path]).toEqual(["FAILED", "BadInput", 'expected {"cluster":"orders"}', ["Plan", "NoPlan"]]);
  });
  it.each(["States.HeartbeatTimeout", "States.Timeout", "DrillHelper", "InsufficientCapacity", "States.TaskFailed"])("terminates and records when the drill ends with %s", async (error) => {
    const { status, path, calls } = await drill({ Drill: failure(error), Record: { Payload: { outcome: "failed", reason: "no" } } });
    expect(status).toBe("FAILED");
    expect(path).toEqual(["Plan", "IsRefused", "Drill", "LetLaunchSettle", "FindInstance", "IsAnyInstanceLeft", "Terminate", "Record", "HasPassed", "Failed"]);
    expect(calls.Record?.[0].Payload.failure).toEqual({ Error: error, Cause: "why" });
  });
  it("terminates before it records, so that no failure to record keeps an instance", async () => {
    const { status, error, path } = await drill({ Record: failure("Permanent") });
    expect([status, error]).toEqual(["FAILED", "NotRecorded"]);
    expect(path.indexOf("Terminate")).toBeLessThan(path.indexOf("Record"));
  });
  it("records when nothing is left to terminate, or it cannot be", async () => {
    expect((await drill({ FindInstance: { Reservations: [] } })).path).not.toContain("Terminate");
    const two = { Reservations: [{ Instances: [{ InstanceId: "i-1" }] }, { Instances: [{ InstanceId: "i-2" }] }] };
    expect((await drill({ FindInstance: two })).calls.Terminate?.[0]).toEqual({ InstanceIds: ["i-1", "i-2"] });
    for (const state of ["FindInstance", "Terminate"]) {
      const { path, calls } = await drill({ [state]: failure("Ec2.Ec2Exception") });
      expect(path).toContain("Record");
      expect(calls[state]).toHaveLength(9);
      expect(calls.Record?.[0].Payload.failure.Error).toBe("Ec2.Ec2Exception");
    }
  });
  it.each([{ outcome: "failed" }, { outcome: "skipped" }, {}, null])("I5: fails when what was recorded is %j", async (Payload) => {
    expect((await drill({ Record: { Payload } })).status).toBe("FAILED");
  });
  it("retries what passes, a bounded number of times, and nothing else", async () => {
    const twice = (n: number) => (n < 3 ? failure("Transient") : plan);
    expect((await drill({ Plan: twice })).calls.Plan).toHaveLength(3);
    expect((await drill({ Plan: failure("Transient") })).calls.Plan).toHaveLength(6);
    expect((await drill({ Plan: failure("Permanent") })).calls.Plan).toHaveLength(1);
  });
});

describe("restore-primary", () => {
  const proven = { cluster: "orders", drill_id: "d1", outcome: "passed" };
  const approved = { decision: "approved", approval: { uri: "s3://b/v1/orders/promotions/p1/approval.json", sha256: "00" } };
  const passing: Script = { Drill: { Output: proven }, Ask: approved, Promote: { outcome: "promoted", incarnation: "20261122T030000Z-0001" }, ForceFull: { Payload: {} } };
  const promote = (change: Script = {}, input: unknown = { cluster: "orders" }) => play("restore-primary", input, { ...passing, ...change });

  it("drills, asks, promotes, and forces a full in the new incarnation", async () => {
    const { status, path, calls, output } = await promote({}, { cluster: "orders", target: "latest", request_id: "r1" });
    expect(status).toBe("SUCCEEDED");
    expect(output.outcome).toBe("promoted");
    expect(path).toEqual(["Drill", "Ask", "IsApproved", "Promote", "HowDidItEnd", "ForceFull", "Promoted"]);
    expect(calls.Drill?.[0].Input).toMatchObject({ cluster: "orders", target: "latest" });
    expect(calls.Ask?.[0].Payload).toEqual({ drill: proven, request_id: "r1", execution: "arn:execution", started: "2026-11-22T02:00:00.123Z", token: "token" });
    expect(calls.Promote?.[0].Payload).toEqual({ drill: proven, approval: approved.approval, execution: "arn:execution", token: "token" });
    expect(calls.ForceFull?.[0].Payload).toEqual({ cluster: "orders", force: "new-incarnation", once: expect.any(String) });
  });
  it("takes the short input, with no requester in it", async () => {
    const { calls } = await promote();
    expect(calls.Drill?.[0].Input).toEqual({ cluster: "orders", AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID: "arn:execution" });
    expect(calls.Ask?.[0].Payload.request_id).toBeNull();
  });
  it.each([
    ["denied", { Ask: { decision: "denied" } }, "Denied"],
    ["expired", { Ask: failure("States.Timeout") }, "Expired"],
    ["answered with something else", { Ask: { decision: "Approved" } }, "Denied"],
    ["answered with nothing", { Ask: {} }, "Denied"],
    ["never asked for", { Ask: failure("Permanent") }, "NotAsked"],
    ["without a passed drill", { Drill: failure("States.TaskFailed", "the drill did not pass") }, "DrillFailed"],
  ])("changes nothing on the host when the approval is %s", async (_, change, error) => {
    const outcome = await promote(change);
    expect([outcome.status, outcome.error]).toEqual(["FAILED", error]);
    for (const state of ["Promote", "Settle", "ForceFull"]) expect(outcome.path).not.toContain(state);
  });
  it.each([
    ["rolled-back", "RolledBack"],
    ["stuck", "Stuck"],
    ["refused", "Refused"],
    ["something", "Unknown"],
  ])("ends with its own name and no backup when the promotion is %s", async (outcome, error) => {
    for (const change of [{ Promote: { outcome } }, { Promote: failure("Permanent"), Settle: { Payload: { outcome } } }]) {
      const end = await promote(change);
      expect([end.status, end.error]).toEqual(["FAILED", error]);
      expect(end.path).not.toContain("ForceFull");
    }
  });
  it("asks what became of a silent promotion, and goes on when it had succeeded", async () => {
    const { path, status, calls } = await promote({ Promote: failure("States.Timeout"), Settle: { Payload: { outcome: "promoted" } } });
    expect(status).toBe("SUCCEEDED");
    expect(path).toContain("ForceFull");
    expect(calls.Settle?.[0].Payload).toEqual({ settle: "arn:execution", cluster: "orders", approval: approved.approval, failure: { Error: "States.Timeout", Cause: "why" } });
    expect((await promote({ Promote: failure("States.Timeout"), Settle: failure("Permanent") })).error).toBe("Unknown");
  });
  it("shows who denied it, and why", async () => {
    expect((await promote({ Ask: { decision: "denied", reason: "denied by bob: not tonight" } })).cause).toBe("denied by bob: not tonight");
  });
  it("waits for a running backup before the promotion, and for nothing else", async () => {
    const late = (n: number) => (n < 4 ? failure("LeaseHeld") : { outcome: "promoted" });
    expect((await promote({ Promote: late })).status).toBe("SUCCEEDED");
    const { calls } = await promote({ Promote: failure("Permanent"), Settle: { Payload: { outcome: "refused" } } });
    expect(calls.Promote).toHaveLength(1);
  });
  it("waits for the lease before the forced full, and says so if none could start", async () => {
    const late = (n: number) => (n < 4 ? failure("LeaseHeld") : { Payload: {} });
    expect((await promote({ ForceFull: late })).status).toBe("SUCCEEDED");
    expect((await promote({ ForceFull: failure("LeaseHeld") })).error).toBe("PromotedWithoutFull");
  });
});

describe("drill-fleet", () => {
  const passed = { Output: { outcome: "passed" } };
  const fleet = (input: unknown, Drill: unknown = passed) => play("drill-fleet", input, { Drill });
  const drilled = (outcome: { calls: Record<string, any[]> }) => (outcome.calls.Drill ?? []).map((c) => c.Input.cluster);

  it("drills every cluster", async () => {
    const outcome = await fleet({});
    expect(outcome.status).toBe("SUCCEEDED");
    expect(drilled(outcome)).toEqual(["orders", "billing-eu"]);
    expect(outcome.output).toEqual([{ cluster: "orders", outcome: "passed" }, { cluster: "billing-eu", outcome: "passed" }]);
  });
  it("drills those named, once each, and a sample of any size", async () => {
    expect(drilled(await fleet({ clusters: ["orders"] }))).toEqual(["orders"]);
    expect(drilled(await fleet({ clusters: ["orders", "orders"] }))).toEqual(["orders"]);
    expect(drilled(await fleet({ clusters: ["billing-eu", "orders"] }))).toEqual(["billing-eu", "orders"]);
    expect(drilled(await fleet({ sample: 1 }))).toHaveLength(1);
    expect(drilled(await fleet({ sample: 2 })).sort()).toEqual(["billing-eu", "orders"]);
    expect(drilled(await fleet({ sample: 9 })).sort()).toEqual(["billing-eu", "orders"]);
  });
  it.each(["orders", [], null, { cluster: "orders" }, { sample: 0 }, { sample: 1.5 }, { sample: "3" }, { clusters: [] }, { clusters: "orders" }, { clusters: [1] }, { clusters: ["a"], sample: 1 }])("refuses %j and shows the accepted forms", async (input) => {
    const { status, error, cause, calls } = await fleet(input);
    expect([status, error]).toEqual(["FAILED", "BadInput"]);
    expect(cause).toContain('{"sample":3}');
    expect(calls).toEqual({});
  });
  it("goes on after a failed drill, and names it at the end", async () => {
    const outcome = await fleet({}, (_: number, args: any) => (args.Input.cluster === "orders" ? failure("States.TaskFailed") : passed));
    expect(drilled(outcome)).toEqual(["orders", "billing-eu"]);
    expect([outcome.status, outcome.error, outcome.cause]).toEqual(["FAILED", "DrillsFailed", "these clusters did not pass their drill: orders"]);
  });
  it("is as wide as configured", () => {
    expect(deployed["drill-fleet"].States.Drills.MaxConcurrency).toBe(config.fleet_drill.concurrency);
  });
});
