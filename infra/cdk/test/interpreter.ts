// Runs a state machine's definition without a service: real JSONata, scripted tasks, no waiting. Only the fields that our
// definitions use are known; any other is an error, so that a definition cannot mean more here than it says.

import jsonata from "jsonata";

export class TaskFailure extends Error {
  readonly error: string;
  constructor(error: string, cause = "") {
    super(cause);
    this.error = error;
  }
}

/** What a task answers. Called with the state's name and its evaluated arguments; throws `TaskFailure` to fail. */
export type Tasks = (state: string, args: any) => unknown;

export interface Outcome {
  status: "SUCCEEDED" | "FAILED";
  output?: any;
  error?: string;
  cause?: string;
  /** Every state entered, in order. */
  path: string[];
}

interface Scope {
  variables: Record<string, unknown>;
  input: unknown;
  tasks: Tasks;
  path: string[];
  item?: unknown;
}

const KNOWN = ["Type", "Comment", "Resource", "Arguments", "TimeoutSeconds", "HeartbeatSeconds", "Retry", "Catch", "Assign", "Output", "Next", "End", "Choices", "Default", "Seconds", "Error", "Cause", "Items", "MaxConcurrency", "ItemSelector", "ItemProcessor"];

export async function run(definition: any, input: unknown, tasks: Tasks): Promise<Outcome> {
  return machine(definition, { variables: {}, input, tasks, path: [] });
}

async function machine(definition: any, scope: Scope): Promise<Outcome> {
  let name: string = definition.StartAt;
  for (let steps = 0; steps < 200; steps++) {
    const state = definition.States[name];
    const unknown = Object.keys(state).filter((field) => !KNOWN.includes(field));
    if (unknown.length > 0) throw new Error(`${name}: the interpreter does not know ${unknown.join(", ")}`);
    scope.path.push(name);
    if (state.Type === "Succeed") return { status: "SUCCEEDED", output: state.Output === undefined ? scope.input : await evaluate(state.Output, scope, {}), path: scope.path };
    if (state.Type === "Fail") return { status: "FAILED", error: await evaluate(state.Error, scope, {}), cause: await evaluate(state.Cause, scope, {}), path: scope.path };
    const next = await step(name, state, scope);
    if (next === undefined) return { status: "SUCCEEDED", output: scope.input, path: scope.path };
    name = next;
  }
  throw new Error(`it does not end: ${scope.path.slice(-5).join(", ")}`);
}

/** Runs one state and returns the next. The scope's input becomes the state's output. */
async function step(name: string, state: any, scope: Scope): Promise<string | undefined> {
  switch (state.Type) {
    case "Wait":
    case "Pass":
      await leave(state, scope, {}, scope.input);
      return state.Next;
    case "Choice":
      for (const choice of state.Choices) {
        const chosen = await evaluate(choice.Condition, scope, {});
        if (typeof chosen !== "boolean") throw new Error(`${name}: ${choice.Condition} gives ${JSON.stringify(chosen)}`);
        if (!chosen) continue;
        await leave(choice, scope, {}, scope.input);
        return choice.Next;
      }
      return state.Default;
    case "Map": {
      const items = await evaluate(state.Items, scope, {});
      if (!Array.isArray(items)) throw new Error(`${name}: Items gives ${JSON.stringify(items)}`);
      const result: unknown[] = [];
      for (const item of items) {
        const own: Scope = { ...scope, item, variables: { ...scope.variables } };
        own.input = await evaluate(state.ItemSelector, own, {});
        const outcome = await machine(state.ItemProcessor, own);
        if (outcome.status === "FAILED") throw new Error(`${name}: an iteration failed`);
        result.push(outcome.output);
      }
      await leave(state, scope, { result }, result);
      return state.Next;
    }
    case "Task":
      return task(name, state, scope);
    default:
      throw new Error(`the interpreter does not know states of type ${state.Type}`);
  }
}

async function task(name: string, state: any, scope: Scope): Promise<string | undefined> {
  const used = new Map<unknown, number>();
  const matching = (rules: any[] | undefined, error: string) => rules?.find(({ ErrorEquals: names }) => names.includes(error) || names.includes("States.ALL"));
  for (;;) {
    try {
      const args = await evaluate(state.Arguments, scope, {});
      // A task's result is JSON: what cannot be said in JSON cannot be answered.
      const result = JSON.parse(JSON.stringify(scope.tasks(name, args) ?? null));
      await leave(state, scope, { result }, result);
      return state.Next;
    } catch (failure) {
      if (!(failure instanceof TaskFailure)) throw failure;
      const retry = matching(state.Retry, failure.error);
      const attempts = used.get(retry) ?? 0;
      if (retry && attempts < retry.MaxAttempts) {
        used.set(retry, attempts + 1);
        continue;
      }
      const errorOutput = { Error: failure.error, Cause: failure.message };
      const caught = matching(state.Catch, failure.error);
      if (!caught) throw new Error(`${name}: nothing catches ${failure.error}`);
      await leave(caught, scope, { errorOutput }, errorOutput);
      return caught.Next;
    }
  }
}

async function leave(rule: any, scope: Scope, bound: object, output: unknown): Promise<void> {
  const assigned = rule.Assign === undefined ? {} : await evaluate(rule.Assign, scope, bound);
  scope.input = rule.Output === undefined ? output : await evaluate(rule.Output, scope, bound);
  scope.variables = { ...scope.variables, ...assigned };
}

/** Evaluates every `{% … %}` in a value. As in the service, an expression that gives nothing is an error. */
async function evaluate(value: unknown, scope: Scope, bound: object): Promise<any> {
  if (Array.isArray(value)) return Promise.all(value.map((v) => evaluate(v, scope, bound)));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(await Promise.all(Object.entries(value).map(async ([k, v]) => [k, await evaluate(v, scope, bound)])));
  }
  const source = typeof value === "string" ? /^\{%(.*)%\}$/s.exec(value)?.[1] : undefined;
  if (source === undefined) return value;
  const context = { Execution: { Id: "arn:execution", StartTime: "2026-11-22T02:00:00.123Z" }, Task: { Token: "token" }, Map: { Item: { Value: scope.item } } };
  const result = await jsonata(source).evaluate({}, { ...scope.variables, states: { input: scope.input, context, ...bound } });
  if (result === undefined) throw new Error(`${source.trim()} gives nothing`);
  return JSON.parse(JSON.stringify(result));
}
