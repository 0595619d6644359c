// A cluster's settings in the words of its host's configuration (docs/host.toml). The host adds its own id.

import type { ClusterConfig } from "./config.ts";

/** host.toml, without `host_id`. */
export function hostToml(cluster: string, { engine, state_dir, server, promotion }: ClusterConfig): string {
  const { datadir, service } = promotion;
  return [
    line("cluster", cluster),
    line("state_dir", state_dir),
    "",
    "[server]",
    ...(engine ? [line("engine", engine)] : []),
    ...Object.entries(server).flatMap(([key, value]) => (value === undefined ? [] : [line(key, value)])),
    ...(service ? ["", "[promote]", line("datadir", datadir), `service = { ${Object.entries(service).map(([key, value]) => line(key, value)).join(", ")} }`] : []),
    "",
  ].join("\n");
}

/** JSON's strings and lists of them are TOML's too: no control character passes the configuration. */
function line(key: string, value: string | string[]): string {
  return `${key} = ${JSON.stringify(value)}`;
}
