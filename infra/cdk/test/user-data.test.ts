// The drill instance's script, run for real with fakes of what it calls: how it answers, and that it always shuts down.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const template = readFileSync(new URL("../../drill/user-data.sh", import.meta.url), "utf8");
const VALUES: Record<string, string> = {
  REGION: "eu-west-1",
  DRILL_URI: "s3://bucket/v1/orders/drills/d1",
  PLAN_SHA256: "ab".repeat(32),
  BOOT_MINUTES: "1",
  MAX_MINUTES: "480",
  HEARTBEAT_SECONDS: "3",
  DRILL_ID: "d1",
};

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "highwater-user-data-"));
  mkdirSync(join(directory, "bin"));
});
afterEach(() => rmSync(directory, { recursive: true }));

/** Runs the script; each fake writes its arguments to a log and does what `fakes` says, in bash. */
function boot(fakes: Record<string, string>): { status: number | null; calls: string[] } {
  const log = join(directory, "log");
  const all: Record<string, string> = { aws: AWS, "highwater-host": "exit 0", shutdown: "", logger: "", curl: 'case "$*" in *instance-id*) echo i-0abc;; *) echo t;; esac', sleep: "exec /bin/sleep 0.02", mktemp: `mkdir -p ${directory}/made && echo ${directory}/made`, ...fakes };
  for (const [name, body] of Object.entries(all)) {
    const path = join(directory, "bin", name);
    const quiet = ["sleep", "logger", "mktemp"].includes(name) ? "" : `printf '%s\\n' "${name} $*" >>'${log}'\n`;
    writeFileSync(path, `#!/bin/bash\n${quiet}${body}\n`);
    chmodSync(path, 0o755);
  }
  const script = template.replace(/@(\w+)@/g, (whole, key: string) => VALUES[key] ?? whole);
  const run = spawnSync("bash", ["-c", script], { env: { PATH: `${join(directory, "bin")}:/usr/bin:/bin` }, encoding: "utf8", timeout: 30_000 });
  return { status: run.status, calls: readFileSync(log, "utf8").trim().split("\n") };
}

/** The CLI, when everything is there and everyone waits. */
const AWS = `case "$*" in
  *drills/d1/task-token*) printf 'secret-token' >"\${@: -1}";;
  *drills/d1/host.toml*) printf 'cluster = "orders"\\n' >"\${@: -1}";;
esac`;
const answers = (calls: string[]) => calls.filter((c) => /send-task-(success|failure)/.test(c));

describe("a drill's instance", () => {
  it("has no secret in its script, and exactly the stated places to fill in", () => {
    const places = [...new Set([...template.matchAll(/@(\w+)@/g)].map((m) => m[1]!))].filter((p) => p !== "PLACEHOLDERS");
    expect(places.sort()).toEqual(Object.keys(VALUES).sort());
    expect(template).not.toMatch(/AKIA|aws_secret|password|token='[^']/i);
    expect(template.length).toBeLessThan(16_384);
  });
  it("drills the pinned plan and tells the execution that it ended", () => {
    const { calls, status } = boot({});
    expect(status).toBe(0);
    expect(calls).toContain(
      `highwater-host --config ${directory}/made/host.toml --json drill --plan s3://bucket/v1/orders/drills/d1/plan.json --sha256 ${"ab".repeat(32)} --work ${directory}/made/data --report s3://bucket/v1/orders/drills/d1/report.json`,
    );
    expect(answers(calls)).toEqual(['aws stepfunctions send-task-success --task-token secret-token --task-output {"exit_code":0}']);
    expect(calls[0]).toBe("shutdown -h +480");
    expect(calls.at(-1)).toBe("shutdown -h now");
    expect(readFileSync(join(directory, "made/host.toml"), "utf8")).toBe('host_id = "i-0abc"\ncluster = "orders"\n');
  });
  it("lets the isolated server's user through its directory, and nobody else at what lies there", () => {
    boot({});
    const mode = (path: string) => (statSync(join(directory, path)).mode & 0o777).toString(8);
    expect([mode("made"), mode("made/task-token"), mode("made/host.toml")]).toEqual(["711", "600", "600"]);
  });
  it("leaves a failed check to the report", () => {
    expect(answers(boot({ "highwater-host": "exit 18" }).calls)[0]).toContain('send-task-success --task-token secret-token --task-output {"exit_code":18}');
  });
  it("says why the helper failed, and shuts down", () => {
    const { calls } = boot({ "highwater-host": `echo '{"error":"Damaged"}'; exit 14` });
    expect(answers(calls)[0]).toContain('send-task-failure --task-token secret-token --error DrillHelper --cause highwater-host drill exited with 14: {"error":"Damaged"}');
    expect(calls.at(-1)).toBe("shutdown -h now");
  });
  it("sends heartbeats while the helper works", () => {
    const { calls } = boot({ "highwater-host": "/bin/sleep 0.7" });
    expect(calls.filter((c) => c.includes("send-task-heartbeat")).length).toBeGreaterThan(2);
  });
  it("ends the helper when nobody waits any more", () => {
    const aws = `${AWS}\ncase "$*" in *heartbeat*) exit 254;; esac`;
    const { calls } = boot({ aws, "highwater-host": `trap 'echo "helper ended" >>"${directory}/log"; exit 44' TERM; for ((i = 0; i < 500; i++)); do /bin/sleep 0.05; done` });
    expect(calls).toContain("helper ended");
    expect(answers(calls)).toEqual([]);
    expect(calls.at(-1)).toBe("shutdown -h now");
  });
  it("shuts down when its task never comes, or it cannot tell who it is", () => {
    const lost = boot({ aws: "exit 1" });
    expect(lost.status).toBe(1);
    expect(lost.calls.at(-1)).toBe("shutdown -h now");
    expect(lost.calls.filter((c) => c.startsWith("highwater-host"))).toEqual([]);
    const nameless = boot({ curl: "exit 22" });
    expect(answers(nameless.calls)[0]).toContain("send-task-failure");
    expect(nameless.calls.at(-1)).toBe("shutdown -h now");
  });
  it("asks again when the answer is lost", () => {
    const aws = `${AWS}\ncase "$*" in *send-task-success*) [[ $(grep -c send-task-success '${directory}/log') -ge 3 ]] || exit 255;; esac`;
    expect(answers(boot({ aws }).calls)).toHaveLength(3);
  });
});
