// The configuration is refused with the line and what is accepted there.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { ConfigError, loadConfig, parseConfig } from "../lib/config.ts";
import { hostToml } from "../lib/host-toml.ts";
import { clusterParameter } from "../lib/triggers.ts";
import { EXAMPLE } from "./fixture.ts";

const text = readFileSync(EXAMPLE, "utf8");
/** The example with its first `from` replaced. */
const edited = (from: string, to: string) => {
  expect(text).toContain(from);
  return text.replace(from, to);
};
const lineOf = (fragment: string, within: string) => within.slice(0, within.indexOf(fragment)).split("\n").length;
const refusal = (yaml: string): string => {
  try {
    parseConfig(yaml, "highwater.yaml");
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error("it was accepted");
};

describe("the configuration", () => {
  it("of the example is accepted, with defaults for what it leaves out", () => {
    const config = loadConfig(EXAMPLE);
    expect(Object.keys(config.clusters)).toEqual(["orders", "billing-eu"]);
    expect(config.clusters["billing-eu"]).toMatchObject({
      backup: { timezone: "Europe/Berlin", window_minutes: 15, strategy: "differential", max_incrementals: 24, full_every_hours: 168, timeout_hours: 12 },
      keep: { chains: 2, daily: 7, weekly: 4, monthly: 6 },
      drill: { after_each_backup: false, timeout_hours: 8 },
      promotion: { timeout_hours: 24 },
    });
    expect(config.approval.expires_hours).toBe(24);
  });

  it.each([
    ["a value out of range", "timeout_hours: 12", "timeout_hours: 49", "clusters.orders.backup.timeout_hours: must be a whole number from 1 to 48"],
    ["an unknown key", "strategy: incremental", "stratgy: incremental", "clusters.orders.backup.stratgy: is not known here; known are schedule"],
    ["a wrong word", "strategy: incremental", "strategy: sometimes", "clusters.orders.backup.strategy: must be one of incremental, differential"],
    ["a bad cluster id", "  billing-eu:", "  Billing_EU:", "clusters.Billing_EU: is not a cluster id"],
    ["a tag of our own as a host's", "host: i-0123456789abcdef0", "host: {tag: highwater:cluster, value: orders}", "clusters.orders.host.tag: must be like"],
    ["a tag without a value", "host: i-0123456789abcdef0", "host: {tag: Name}", "clusters.orders.host.value: is missing"],
    ["an engine without its series", "host: i-0123456789abcdef0", "engine: mariadb\n    host: i-0123456789abcdef0", "clusters.orders.engine: must be like"],
    ["half a service", "host: i-0123456789abcdef0", "promotion: {service: {stop: [/bin/stop]}}\n    host: i-0123456789abcdef0", "clusters.orders.promotion.service.start: is missing"],
    ["a unit with more than a unit", "host: i-0123456789abcdef0", "promotion: {service: {unit: mariadb, stop: [/bin/stop]}}\n    host: i-0123456789abcdef0", "clusters.orders.promotion.service.stop: is not known here; known are unit"],
    ["approval by nobody", "network:", "approval: {approvers: 0}\nnetwork:", "approval.approvers: must be a whole number from 1 to 5"],
    ["a host that is a shell word", "host: i-0123456789abcdef0", "host: $(reboot)", "clusters.orders.host: must be like"],
    ["no schedule at all", "schedule: rate(1 hour)", "schedule: hourly", "clusters.orders.backup.schedule: must be like"],
    ["a time zone nobody knows", "timezone: Europe/Berlin", "timezone: Europe/Bonn", "clusters.billing-eu.backup.timezone: must be a time zone"],
    ["a text where a number belongs", "daily: 7", "daily: often", "clusters.orders.keep.daily: must be a whole number from 0 to 366"],
    ["an image that is none", "image: ami-0fedcba9876543210", "image: latest", "clusters.billing-eu.drill.image: must be like"],
    ["a target that no restore meets", "rto_minutes: 60", "rto_minutes: 0", "clusters.orders.rto_minutes: must be a whole number from 1 to 10080"],
    ["a price that is none", "  cap_per_month: 100", "  cap_per_month: cheap", "cost.cap_per_month: must be a number, zero or more"],
    ["a price of no instance type", "      m7i.large: 0.1124", "      large: 0.1124", "cost.prices.instance_hour.large: must be like"],
    ["a text where a mapping belongs", "object_lock:\n  mode: governance\n  days: 14", "object_lock: off", "object_lock: must be a mapping with mode, days"],
  ])("refuses %s with its line", (_, from, to, expected) => {
    const yaml = edited(from, to);
    expect(refusal(yaml)).toContain(`highwater.yaml:${lineOf(to.split("\n")[0] ?? to, yaml)}: ${expected}`);
  });

  it("adds prices to the list's and keeps the others", () => {
    const { cost } = parseConfig(edited("      m7i.large: 0.1124", "      x9.large: 1.5"), "highwater.yaml");
    expect(cost.prices.instance_hour).toMatchObject({ "x9.large": 1.5, "m6i.large": 0.107 });
    expect(cost).toMatchObject({ cap_per_month: 100, prices: { currency: "USD", storage_gb_month: 0.023 } });
    expect(parseConfig(text.replace(/^cost:\n( .*\n)*/m, ""), "highwater.yaml").cost.cap_per_month).toBeUndefined();
  });
  it("states every default price in the README", () => {
    const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
    const { instance_hour, currency, source, ...prices } = parseConfig(text.replace(/^cost:\n( .*\n)*/m, ""), "highwater.yaml").cost.prices;
    const all = Object.entries({ ...prices, ...instance_hour });
    expect(all.length).toBeGreaterThan(10);
    for (const [name, price] of all) expect(readme).toMatch(new RegExp(`\`${name}\` \\(${String(price)}[),:]`));
    expect([currency, source]).toEqual(["USD", expect.stringContaining("not checked")]);
  });
  it("names every problem in the order of the lines, of broken YAML the first, and a file that is not there", () => {
    const yaml = edited("schedule: rate(1 hour)", "schedule: hourly").replace("image: ami-0fedcba9876543210", "image: latest").replace("window_minutes: 15", "window: 15");
    const problems = refusal(yaml).split("\n");
    const at = problems.map((problem) => Number(problem.split(":")[1]));
    expect([at.length, at]).toEqual([3, [...at].sort((a, b) => a - b)]);
    expect(refusal(edited("    host: i-0123", "\thost: i-0123"))).toMatch(/^highwater.yaml:\d+: Tabs are not allowed as indentation$/);
    expect(() => loadConfig("/nonexistent/my.yaml")).toThrow(/^\/nonexistent\/my.yaml cannot be read: .*name the configuration with -c config=FILE/);
  });
  it("names what is missing", () => {
    expect(refusal(edited("    host: i-0123456789abcdef0\n", ""))).toContain("clusters.orders.host: is missing");
    expect(refusal(text.slice(0, text.indexOf("clusters:")))).toContain("clusters: is missing");
    expect(refusal("")).toContain("must be a mapping with name,");
  });
  it("reports every mistake at once", () => {
    expect(refusal(edited("daily: 7", "daily: x").replace("weekly: 4", "weekly: y")).split("\n")).toHaveLength(2);
  });
  it("is refused as YAML with the line, and keys given twice", () => {
    expect(refusal(edited("  orders:", "  orders: [").concat("\n"))).toMatch(/^highwater\.yaml:\d+: /);
    expect(refusal(edited("  billing-eu:", "  orders:"))).toMatch(/^highwater\.yaml:\d+: Map keys must be unique/);
  });
  it("gives no host to two clusters", () => {
    expect(refusal(edited("host: i-0fedcba9876543210", "host: i-0123456789abcdef0"))).toMatch(/^highwater.yaml:\d+: clusters.billing-eu.host: i-0123456789abcdef0 is already the host of orders$/);
  });
  it("gives no tag to two clusters", () => {
    const tag = "host: {tag: Name, value: db}";
    expect(refusal(edited("host: i-0fedcba9876543210", tag).replace("host: i-0123456789abcdef0", tag))).toContain("clusters.billing-eu.host: Name=db is already the host of orders");
  });
  it("says in TOML what a host's own configuration says of it", () => {
    const { clusters } = parseConfig(
      edited(
        "host: i-0123456789abcdef0",
        `host: {tag: Name, value: orders primary}
    engine: mariadb-10.11
    server: {defaults_file: /etc/highwater/backup.cnf}
    promotion: {service: {stop: [/opt/db, stop, "it's \\"that\\""], start: [/opt/db, start], status: [/opt/db, status]}}`,
      ),
      "highwater.yaml",
    );
    expect(hostToml("orders", clusters.orders!)).toBe(`cluster = "orders"
state_dir = "/var/lib/highwater"

[server]
engine = "mariadb-10.11"
socket = "/run/mysqld/mysqld.sock"
user = "root"
defaults_file = "/etc/highwater/backup.cnf"

[promote]
datadir = "/var/lib/mysql"
service = { stop = ["/opt/db","stop","it's \\"that\\""], start = ["/opt/db","start"], status = ["/opt/db","status"] }
`);
    // A host without service control takes backups, and refuses to promote.
    expect(hostToml("billing-eu", clusters["billing-eu"]!)).not.toContain("[promote]");
    expect(JSON.parse(clusterParameter("orders", clusters.orders!)).host).toEqual({ tag: "Name", value: "orders primary" });
  });
  it("is stored as one document for each cluster", () => {
    const { clusters } = loadConfig(EXAMPLE);
    const stored = JSON.parse(clusterParameter("orders", clusters.orders!));
    expect(stored).toMatchObject({ format: "highwater.cluster.v1", cluster: "orders", host: "i-0123456789abcdef0", keep: { chains: 2 } });
    expect(Object.keys(stored)).toEqual(["format", "cluster", "host", "rto_minutes", "backup", "keep", "drill", "promotion"]);
    expect(Object.keys(JSON.parse(clusterParameter("billing-eu", clusters["billing-eu"]!)))).not.toContain("rto_minutes");
  });
});
