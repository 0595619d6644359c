// The deployment's configuration: `highwater.yaml`, read into types. Every error names the line and what is accepted there.

import { readFileSync } from "node:fs";
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from "yaml";

/** Where the copies go. `kms_key` is an output of the vault's own stack, which is deployed first. */
export interface Vault {
  bucket: string;
  account: string;
  region: string;
  /** The account of this deployment: whom the vault lets replicate. */
  source_account: string;
  kms_key?: string;
  /** The lock that the vault gives to what comes without one. */
  lock_days: number;
  /** Copies are kept so long, locks permitting; absent: for ever. */
  keep_days?: number;
}

/** One deployment. Its `name` prefixes every physical name, so that several live side by side in an account. */
export interface Config {
  name: string;
  architecture: "x86_64" | "arm64";
  /** E-mail addresses that are told of failures and approvals. */
  notify: string[];
  log_retention_days: number;
  object_lock: { mode: "governance" | "compliance"; days: number };
  /** A second bucket, of another account or region, that every object is replicated to. */
  vault?: Vault;
  network: { vpc_id: string; subnet_ids: string[]; s3_prefix_list_id: string; endpoint_security_group_id: string };
  fleet_drill: { schedule?: string; timezone: string; concurrency: number };
  /** `approvers`: how many beside the requester. `named_sessions`: roles whose sessions an identity provider names, so that a name is a person. */
  approval: { expires_hours: number; approvers: number; named_sessions: string[] };
  /** The root device of the drills' images: its volume is made as large as the plan needs. */
  drill_root_device: string;
  reconcile_schedule: string;
  prune_schedule: string;
  cost: CostConfig;
  clusters: Record<string, ClusterConfig>;
}

/** What `highwater cost` and the metric EstimatedMonthlyCost reckon with. */
export interface CostConfig {
  cap_per_month?: number;
  prices: { currency: string; source: string; instance_hour: Record<string, number> } & Record<keyof typeof EXAMPLE_PRICES, number>;
}

/** Stops, starts and asks for the database service: a unit of systemd, or commands (words, no shell). */
export type Service = { unit: string } | { stop: string[]; start: string[]; status: string[] };

/** One cluster. What the functions need of it is the SSM parameter `/<name>/clusters/<cluster>`, what its host needs `/<name>/hosts/<cluster>`. */
export interface ClusterConfig {
  /**
   * The primary: an EC2 instance id, or a hybrid node's; or a tag that exactly one running instance of this deployment carries
   * when a command is sent. Promotions are approved for the instance, never for the tag.
   */
  host: string | { tag: string; value: string };
  /** What a restore may take: when more is expected, the next backup is a full. */
  rto_minutes?: number;
  /** What the server has to be, like mariadb-10.11: the host's doctor says when it is another. */
  engine?: string;
  /** Where the host's helper keeps journals, locks and stamps. */
  state_dir: string;
  /** How it reaches the server. */
  server: { socket: string; user: string; defaults_file?: string };
  backup: {
    schedule: string;
    timezone: string;
    window_minutes: number;
    strategy: "incremental" | "differential";
    max_incrementals: number;
    full_every_hours: number;
    timeout_hours: number;
    overdue_hours: number;
  };
  keep: { chains: number; daily: number; weekly: number; monthly: number };
  drill: {
    schedule?: string;
    timezone: string;
    window_minutes: number;
    after_each_backup: boolean;
    timeout_hours: number;
    overdue_days: number;
    image: string;
    instance_types: string[];
    /** TOML for the helper's `[drill]` section, given to the drill's instance as it is. */
    checks: string;
  };
  /** Without a service the host refuses to promote. */
  promotion: { timeout_hours: number; datadir: string; service?: Service };
}

/** A configuration that cannot be used; the message has a line for each thing to mend. */
export class ConfigError extends Error {}

/** Run Command ends a script after at most 48 hours, whatever is asked for. */
export const MAX_COMMAND_HOURS = 48;

/** Reads and checks `path`. */
export function loadConfig(path: string): Config {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new ConfigError(`${path} cannot be read: ${(error as Error).message}; name the configuration with -c config=FILE, from infra/cdk`);
  }
  return parseConfig(text, path);
}

/** Checks the text of a configuration; `path` is for the messages, one for each problem in the order of the lines. */
export function parseConfig(text: string, path: string): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true });
  const problems: { line: number; text: string }[] = [];
  const refuse = () => new ConfigError(problems.sort((a, b) => a.line - b.line).map(({ line, text }) => `${path}:${line}: ${text}`).join("\n"));
  const lineOf = (offset: number) => lines.linePos(offset).line;
  // What follows the first error of the syntax is said of text that was taken for something else.
  const [error] = document.errors;
  if (error) {
    problems.push({ line: lineOf(error.pos[0]), text: error.message.split(" at line ")[0] ?? error.message });
    throw refuse();
  }
  const report: Report = (node, key, reason) => problems.push({ line: lineOf(node?.range?.[0] ?? 0), text: `${key}: ${reason}` });
  const value = deployment(document.contents, "", report) as Config;
  if (problems.length === 0) checkTogether(value, (...keys) => document.getIn(keys, true) as Node | null, report);
  if (problems.length > 0) throw refuse();
  return value;
}

/** Rules between keys. */
function checkTogether(config: Config, at: (...keys: string[]) => Node | null, report: Report): void {
  const hosts = new Map<string, string>();
  for (const [cluster, settings] of Object.entries(config.clusters)) {
    const host = typeof settings.host === "string" ? settings.host : `${settings.host.tag}=${settings.host.value}`;
    const other = hosts.get(host);
    if (other !== undefined) report(at("clusters", cluster, "host"), `clusters.${cluster}.host`, `${host} is already the host of ${other}`);
    hosts.set(host, cluster);
  }
  const { vault } = config;
  if (vault?.kms_key && !vault.kms_key.includes(`:${vault.region}:${vault.account}:`))
    report(at("vault", "kms_key"), "vault.kms_key", `is not a key of account ${vault.account} in ${vault.region}`);
}

type Report = (node: Node | null, key: string, reason: string) => void;
/** Reads one value, or reports why it cannot be read; what it returns after a report is never used. */
type Reader = (node: Node | null, key: string, report: Report) => unknown;
/** A key of a mapping: how its value is read, and what stands for it when it is absent (nothing: it must be there). */
interface Field {
  read: Reader;
  absent?: { value: unknown };
}

const must = (read: Reader): Field => ({ read });
const may = (read: Reader, value: unknown): Field => ({ read, absent: { value } });

/** A mapping of exactly these keys. Absent as a whole, it has the defaults of its keys. */
function mapping(fields: Record<string, Field>): Reader {
  return (node, key, report) => {
    if (!isMap(node)) return report(node, key || "the file", `must be a mapping with ${Object.keys(fields).join(", ")}`);
    const result: Record<string, unknown> = {};
    for (const pair of node.items) {
      const name = isScalar(pair.key) ? String(pair.key.value) : "";
      if (!(name in fields)) report(pair.key as Node, path(key, name), `is not known here; known are ${Object.keys(fields).join(", ")}`);
    }
    for (const [name, field] of Object.entries(fields)) {
      const child = node.get(name, true) as Node | undefined;
      if (child !== undefined) result[name] = field.read(child, path(key, name), report);
      else if (field.absent) result[name] = field.absent.value;
      else report(node, path(key, name), "is missing");
    }
    return result;
  };
}

const path = (parent: string, name: string) => (parent ? `${parent}.${name}` : name);

/** The values that a mapping has when nothing is written: every field of it must have a default. */
function defaults(fields: Record<string, Field>): unknown {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.absent?.value]));
}

function text(pattern: RegExp, example: string): Reader {
  return (node, key, report) => {
    if (isScalar(node) && typeof node.value === "string" && pattern.test(node.value)) return node.value;
    return report(node, key, `must be like ${example} (${pattern.source})`);
  };
}

function integer(min: number, max: number): Reader {
  return (node, key, report) => {
    const value = isScalar(node) ? node.value : undefined;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    return report(node, key, `must be a whole number from ${min} to ${max}`);
  };
}

function amount(node: Node | null, key: string, report: Report): unknown {
  const value = isScalar(node) ? node.value : undefined;
  if (typeof value === "number" && Number.isFinite(value) && value >= 0) return value;
  return report(node, key, "must be a number, zero or more");
}

/** A mapping from names to amounts, added to those that are known. */
function amounts(name: RegExp, example: string, known: Record<string, number>): Reader {
  return (node, key, report) => {
    if (!isMap(node)) return report(node, key, `must be a mapping from names to amounts, like ${example}: 0.1`);
    const result = { ...known };
    for (const pair of node.items) {
      const id = isScalar(pair.key) ? String(pair.key.value) : "";
      if (!name.test(id)) report(pair.key as Node, path(key, id), `must be like ${example} (${name.source})`);
      result[id] = amount(pair.value as Node | null, path(key, id), report) as number;
    }
    return result;
  };
}

function oneOf(...accepted: (string | number | boolean)[]): Reader {
  return (node, key, report) => {
    if (isScalar(node) && accepted.includes(node.value as string)) return node.value;
    return report(node, key, `must be one of ${accepted.join(", ")}`);
  };
}

function list(item: Reader, min: number, max: number): Reader {
  return (node, key, report) => {
    if (!isSeq(node) || node.items.length < min || node.items.length > max) return report(node, key, `must be a list of ${min} to ${max}`);
    return node.items.map((child, i) => item(child as Node, `${key}[${i}]`, report));
  };
}

/** One of two mappings: the first where it has this key. */
function either(name: string, first: Reader, second: Reader): Reader {
  return (node, key, report) => (isMap(node) && node.has(name) ? first : second)(node, key, report);
}

function timezone(node: Node | null, key: string, report: Report): unknown {
  const value = isScalar(node) ? node.value : undefined;
  try {
    if (typeof value === "string") {
      new Intl.DateTimeFormat("en", { timeZone: value });
      return value;
    }
  } catch {
    // Not a zone: reported below.
  }
  return report(node, key, "must be a time zone, like UTC or Europe/Berlin");
}

/** An EventBridge schedule. Its fields are checked by the service; here, that it is one of the two forms. */
const schedule = text(/^(rate\([1-9][0-9]* (minute|hour|day)s?\)|cron\([^()\s]+( [^()\s]+){5}\))$/, "rate(1 hour) or cron(0 3 ? * SUN *)");
const commandHours = integer(1, MAX_COMMAND_HOURS);

const INSTANCE_TYPE = /^[a-z][a-z0-9-]*\.[a-z0-9-]+$/;

const backup = {
  schedule: must(schedule),
  timezone: may(timezone, "UTC"),
  window_minutes: may(integer(1, 1440), 15),
  strategy: may(oneOf("incremental", "differential"), "incremental"),
  max_incrementals: may(integer(0, 1000), 24),
  full_every_hours: may(integer(1, 24 * 366), 7 * 24),
  timeout_hours: may(commandHours, 12),
  overdue_hours: may(integer(1, 24 * 366), 26),
};
const keep = { chains: may(integer(1, 1000), 2), daily: may(integer(0, 366), 7), weekly: may(integer(0, 520), 4), monthly: may(integer(0, 240), 6) };
const drill = {
  schedule: may(schedule, undefined),
  timezone: may(timezone, "UTC"),
  window_minutes: may(integer(1, 1440), 60),
  after_each_backup: may(oneOf(true, false), false),
  timeout_hours: may(commandHours, 8),
  overdue_days: may(integer(1, 366), 35),
  image: must(text(/^ami-[0-9a-f]{8,17}$/, "ami-0123456789abcdef0")),
  instance_types: may(list(text(INSTANCE_TYPE, "m7i.large"), 1, 10), ["m7i.large", "m6i.large"]),
  checks: may(text(/^[^]{0,3000}$/, "[[drill.assert]] tables in TOML"), ""),
};
const absolutePath = text(/^(\/[A-Za-z0-9._-]+)+$/, "/var/lib/mysql");
const words = list(text(/^[^\u0000-\u001f\u007f]{1,200}$/, "/usr/local/bin/db-stop"), 1, 20);
const unitOrCommands = either("unit", mapping({ unit: must(text(/^[A-Za-z0-9:_.@-]{1,100}$/, "mariadb")) }), mapping({ stop: must(words), start: must(words), status: must(words) }));
const promotion = { timeout_hours: may(commandHours, 24), datadir: may(absolutePath, "/var/lib/mysql"), service: may(unitOrCommands, undefined) };
const server = { socket: may(absolutePath, "/run/mysqld/mysqld.sock"), user: may(text(/^[A-Za-z0-9_.-]{1,80}$/, "root"), "root"), defaults_file: may(absolutePath, undefined) };

const hostId = text(/^(i|mi)-[0-9a-f]{8,17}$/, "i-0123456789abcdef0, or {tag: Name, value: orders-primary}");
const hostTag = mapping({
  // The characters of AWS's tags, without our own keys: those say what an instance is for, not which one it is.
  tag: must(text(/^(?!aws:|highwater:)[A-Za-z0-9 _.:/=+@-]{1,128}$/, "Name")),
  value: must(text(/^[A-Za-z0-9 _.:/=+@-]{1,256}$/, "orders-primary")),
});
/** An id, or a mapping with a tag. */
const host: Reader = (node, key, report) => (isMap(node) ? hostTag : hostId)(node, key, report);

const cluster = mapping({
  host: must(host),
  rto_minutes: may(integer(1, 60 * 24 * 7), undefined),
  engine: may(text(/^(mariadb|mysql)-[0-9]{1,2}\.[0-9]{1,2}$/, "mariadb-10.11"), undefined),
  state_dir: may(absolutePath, "/var/lib/highwater"),
  server: may(mapping(server), defaults(server)),
  backup: must(mapping(backup)),
  keep: may(mapping(keep), defaults(keep)),
  drill: must(mapping(drill)),
  promotion: may(mapping(promotion), defaults(promotion)),
});

const CLUSTER_ID = /^[a-z][a-z0-9-]{0,39}$/;

function clusters(node: Node | null, key: string, report: Report): unknown {
  if (!isMap(node) || node.items.length === 0) return report(node, key, "must be a mapping from cluster ids to clusters, with at least one");
  const result: Record<string, unknown> = {};
  for (const pair of node.items) {
    const id = isScalar(pair.key) ? String(pair.key.value) : "";
    if (!CLUSTER_ID.test(id)) report(pair.key as Node, path(key, id), `is not a cluster id: it must match ${CLUSTER_ID.source}`);
    result[id] = cluster(pair.value as Node | null, path(key, id), report);
  }
  return result;
}

const objectLock = { mode: may(oneOf("governance", "compliance"), "governance"), days: may(integer(1, 3650), 14) };
const fleetDrill = { schedule: may(schedule, undefined), timezone: may(timezone, "UTC"), concurrency: may(integer(1, 40), 4) };
const approval = { expires_hours: may(integer(1, 24 * 14), 24), approvers: may(integer(1, 5), 1), named_sessions: may(list(text(/^[\w+=.@-]{1,64}$/, "dba-oncall"), 0, 20), []) };

const account = text(/^[0-9]{12}$/, '"111122223333", in quotation marks');
const vault = mapping({
  bucket: must(text(/^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/, "highwater-vault-444455556666")),
  account: must(account),
  region: must(text(/^[a-z]{2}(-[a-z]+)+-[0-9]$/, "eu-central-1")),
  source_account: must(account),
  kms_key: may(text(/^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key\/[0-9a-f-]{36}$/, "the output VaultKey of the vault's stack"), undefined),
  lock_days: may(integer(1, 3650), 30),
  keep_days: may(integer(1, 36500), undefined),
});

/**
 * Examples, in USD without tax, after the list prices of eu-west-1 in 2025; ../README.md#prices says how far they were checked.
 * `crates/core/src/cost.rs` says what each is for.
 */
const EXAMPLE_PRICES = {
  storage_gb_month: 0.023,
  put_per_1000: 0.005,
  get_per_1000: 0.0004,
  volume_gb_month: 0.088,
  write_per_million: 0.705,
  read_per_million: 0.141,
  function_gb_second: 0.0000166667,
  transition_per_1000: 0.025,
  fixed_per_month: 6,
};
const EXAMPLE_HOURS = { "m6i.large": 0.107, "m6i.xlarge": 0.214, "m7i.large": 0.1124, "m7i.xlarge": 0.2247 };

const prices = {
  currency: may(text(/^[A-Z]{3}$/, "USD"), "USD"),
  source: may(text(/^.{1,200}$/, "our contract of 2026"), "examples after eu-west-1's list of 2025, not checked: put yours into cost.prices"),
  ...Object.fromEntries(Object.entries(EXAMPLE_PRICES).map(([name, price]) => [name, may(amount, price)])),
  instance_hour: may(amounts(INSTANCE_TYPE, "m7i.large", EXAMPLE_HOURS), EXAMPLE_HOURS),
};
const cost = { cap_per_month: may(amount, undefined), prices: may(mapping(prices), defaults(prices)) };

const deployment = mapping({
  // 16 characters, so that the longest role name, <name>-drill-<cluster>, fits IAM's 64.
  name: may(text(/^[a-z][a-z0-9-]{0,15}$/, "highwater"), "highwater"),
  architecture: may(oneOf("x86_64", "arm64"), "x86_64"),
  notify: may(list(text(/^[^\s@]+@[^\s@]+$/, "dba@example.com"), 0, 20), []),
  log_retention_days: may(oneOf(7, 14, 30, 60, 90, 180, 365, 731, 1827, 3653), 90),
  object_lock: may(mapping(objectLock), defaults(objectLock)),
  vault: may(vault, undefined),
  network: must(
    mapping({
      vpc_id: must(text(/^vpc-[0-9a-f]{8,17}$/, "vpc-0123456789abcdef0")),
      subnet_ids: must(list(text(/^subnet-[0-9a-f]{8,17}$/, "subnet-0123456789abcdef0"), 1, 10)),
      s3_prefix_list_id: must(text(/^pl-[0-9a-f]{8,17}$/, "pl-6da54004")),
      endpoint_security_group_id: must(text(/^sg-[0-9a-f]{8,17}$/, "sg-0123456789abcdef0")),
    }),
  ),
  fleet_drill: may(mapping(fleetDrill), defaults(fleetDrill)),
  approval: may(mapping(approval), defaults(approval)),
  drill_root_device: may(text(/^\/dev\/[a-z0-9]+$/, "/dev/xvda"), "/dev/xvda"),
  reconcile_schedule: may(schedule, "rate(5 minutes)"),
  prune_schedule: may(schedule, "rate(1 day)"),
  cost: may(mapping(cost), defaults(cost)),
  clusters: must(clusters),
});
