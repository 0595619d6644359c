// The SSM documents call the helper that exists, and no parameter can become more than one word of its command line.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { commandDocument, installDocument } from "../lib/documents.ts";
import { DOCUMENTS, type DocumentName } from "../lib/names.ts";

const HOST = new URL("../../../host-helper/src/", import.meta.url);
const SHA = "0123456789abcdef".repeat(4);
const URI = "s3://highwater-111122223333-eu-west-1/v1/orders/requests/20261122T020000Z-full-4f7c.json";

/** A value that each pattern must take. */
const good = (parameter: string): string =>
  ({ bucket: "my-bucket.eu", cluster: "orders", directory: "/opt/highwater/bin", config: "/etc/highwater/host.toml", executionTimeout: "43200" })[parameter] ?? (/Sha256$/.test(parameter) ? SHA : URI);
const SHELL = ["'", '"', "`", "$(id)", "$HOME", ";", "&", "|", ">", "<", "\\", " ", "\n", "*", "?", "!", "#", "(", "{", "~", "é"];

/** The document's script with these parameters, as the agent would write it. */
function script(name: DocumentName, values: Record<string, string>): string {
  return commandDocument(name).mainSteps[0]!.inputs.runCommand.join("\n").replace(/\{\{ *(\w+) *\}\}/g, (_, key: string) => values[key] ?? "");
}

describe.each(DOCUMENTS)("the document %s", (name) => {
  const document = commandDocument(name);
  const parameters = Object.entries(document.parameters);

  it("is a Command document of one step with a bounded time", () => {
    expect(document.schemaVersion).toBe("2.2");
    expect(document.mainSteps).toHaveLength(1);
    expect(document.mainSteps[0]?.inputs.timeoutSeconds).toBe("{{ executionTimeout }}");
  });
  it("has a pattern for each parameter that takes the good and refuses the shell's characters", () => {
    for (const [key, { allowedPattern, type }] of parameters) {
      expect(type).toBe("String");
      const pattern = new RegExp(allowedPattern);
      expect(allowedPattern, key).toMatch(/^\^.*\$$/);
      expect(pattern.test(good(key)), key).toBe(true);
      for (const bad of SHELL) {
        for (const text of [bad, good(key) + bad, bad + good(key), good(key).slice(0, 30) + bad + good(key).slice(30)]) expect(pattern.test(text), `${key}: ${JSON.stringify(text)}`).toBe(false);
      }
    }
  });
  it("runs for 48 hours at most", () => {
    const { allowedPattern, default: preset = "" } = document.parameters.executionTimeout!;
    const pattern = new RegExp(allowedPattern);
    for (const seconds of ["1", "3600", "99999", "100000", "169999", "171999", "172799", "172800", preset]) expect(pattern.test(seconds), seconds).toBe(true);
    for (const seconds of ["0", "-1", "172801", "172900", "173000", "180000", "200000", "999999", "1000000", ""]) expect(pattern.test(seconds), seconds).toBe(false);
  });
});

describe.each(DOCUMENTS.filter((name) => name !== "install"))("the document %s", (name) => {
  const parameters = Object.entries(commandDocument(name).parameters);

  it("gives the shell one command whose words are the parameters' values", () => {
    const values = Object.fromEntries(parameters.map(([key]) => [key, good(key)]));
    const probe = `highwater-host() { printf '%s\\n' "$@"; }\n${script(name, values).replace(/^exec /m, "")}`;
    const run = spawnSync("bash", ["-c", probe], { encoding: "utf8" });
    expect(run.stderr).toBe("");
    const words = run.stdout.trim().split("\n");
    expect(words.slice(0, 2)).toEqual(["--json", name === "resume" ? "promote" : name]);
    const passed = words.filter((word, i) => words[i - 1]?.startsWith("--") && !word.startsWith("--") && i > 1);
    expect(passed).toEqual(parameters.filter(([key]) => key !== "executionTimeout").map(([key]) => good(key)));
  });
  it("uses only arguments that the helper has", () => {
    const source = readFileSync(new URL(`${{ resume: "promote", rollback: "promote" }[name as string] ?? name}.rs`, HOST), "utf8");
    const flags = [...script(name, {}).matchAll(/--([a-z0-9-]+)/g)].map((m) => m[1]!).filter((flag) => flag !== "json");
    for (const flag of flags) expect(source, `--${flag}`).toMatch(new RegExp(`#\\[arg\\(long.*\\)\\]\\s+pub ${flag.replaceAll("-", "_")}:`));
  });
});

describe("the document install", () => {
  const values = { artifact: "s3://assets/0123456789abcdef", sha256: SHA, bucket: "my-bucket.eu", settings: "/highwater/hosts" };
  const lines = installDocument(values).mainSteps[0]!.inputs.runCommand.join("\n");

  it("is filled in by the deployment: what a host runs as root, and from where, is no parameter", () => {
    expect(lines).not.toMatch(/@[A-Z0-9]+@/);
    for (const value of Object.values(values)) expect(lines).toContain(value);
    expect(Object.keys(commandDocument("install").parameters).sort()).toEqual(["cluster", "config", "directory", "executionTimeout"]);
  });
  it("puts a parameter into nothing but a variable, inside single quotes", () => {
    const uses = lines.split("\n").filter((line) => line.includes("{{"));
    expect(uses).toEqual(["directory='{{ directory }}' config='{{ config }}' cluster='{{ cluster }}'"]);
  });
  it("is a script that a shell can read, and uses only what the helper has", () => {
    expect(spawnSync("sh", ["-n"], { input: lines, encoding: "utf8" }).stderr).toBe("");
    const doctor = readFileSync(new URL("doctor.rs", HOST), "utf8");
    expect(lines).toContain(`doctor --bucket 'my-bucket.eu'`);
    expect(doctor).toMatch(/#\[arg\(long\)\]\s+pub bucket:/);
  });
});
