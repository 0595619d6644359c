// A small evaluator of IAM policies: enough of the language to ask this template's policies questions. Whatever it does not
// know is an error, never an answer.

export interface Statement {
  Sid?: string;
  /** Looked at by tests of several accounts only. */
  Principal?: unknown;
  Effect: "Allow" | "Deny";
  /** Absent where there is a NotAction. */
  Action: string | string[];
  NotAction?: string | string[];
  Resource?: string | string[];
  NotResource?: string | string[];
  Condition?: Record<string, Record<string, string | string[]>>;
}

/** A request: its context holds condition keys, of the request and of the principal. */
export interface Request {
  action: string;
  resource: string;
  context?: Record<string, string>;
}

const many = <T>(value: T | T[] | undefined): T[] => (value === undefined ? [] : Array.isArray(value) ? value : [value]);

function glob(pattern: string, text: string): boolean {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp(`^${escaped}$`, "s").test(text);
}

/** A variable without a value matches nothing. */
function fill(text: string, context: Record<string, string>): string | undefined {
  let missing = false;
  const filled = text.replace(/\$\{([^}]+)\}/g, (_, key: string) => {
    const value = context[key];
    if (value === undefined) missing = true;
    return value ?? "";
  });
  return missing ? undefined : filled;
}

type Operator = (value: string | undefined, accepted: string[]) => boolean;
const positive = (test: (value: string, one: string) => boolean): Operator => (value, accepted) => value !== undefined && accepted.some((one) => test(value, one));
/** A negated operator also holds where the key is absent. */
const negative = (test: (value: string, one: string) => boolean): Operator => (value, accepted) => value === undefined || !accepted.some((one) => test(value, one));
const same = (value: string, one: string) => value === one;
const OPERATORS: Record<string, Operator> = {
  StringEquals: positive(same),
  Bool: positive(same),
  StringLike: positive((value, one) => glob(one, value)),
  ArnEquals: positive((value, one) => glob(one, value)),
  ArnNotEquals: negative((value, one) => glob(one, value)),
  StringNotEquals: negative(same),
  Null: (value, accepted) => accepted.includes(String(value === undefined)),
  NumericLessThan: positive((value, one) => Number(value) < Number(one)),
};

function holds(condition: Statement["Condition"], context: Record<string, string>): boolean {
  return Object.entries(condition ?? {}).every(([operator, keys]) => {
    const test = OPERATORS[operator];
    if (!test) throw new Error(`the evaluator does not know ${operator}`);
    return Object.entries(keys).every(([key, accepted]) => test(context[key], many(accepted).map(String)));
  });
}

function applies(statement: Statement, { action, resource, context = {} }: Request): boolean {
  const named = (patterns: string[]) => patterns.some((a) => glob(a.toLowerCase(), action.toLowerCase()));
  if (statement.Action === undefined ? named(many(statement.NotAction)) : !named(many(statement.Action))) return false;
  const covers = (patterns: string[]) => patterns.map((p) => fill(p, context)).some((p) => p !== undefined && glob(p, resource));
  const here = statement.Resource === undefined ? !covers(many(statement.NotResource)) : covers(many(statement.Resource));
  return here && holds(statement.Condition, context);
}

/** Whether identity and resource policies of one account together allow a request. */
export function allowed(statements: Statement[], request: Request): boolean {
  const hits = statements.filter((statement) => applies(statement, request));
  return hits.some((s) => s.Effect === "Allow") && hits.every((s) => s.Effect === "Allow");
}
