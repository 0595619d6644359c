#!/bin/bash
# The whole life of a drill's instance. launch-drill fills in the seven @PLACEHOLDERS@; no secret is among them.
# The instance ends with this script, whatever happens: its launch template terminates it when it shuts down.
# Beside the plan lie `host.toml` (the helper's configuration, without host_id) and `task-token`.
# The image provides highwater-host, the cluster's server and backup tool, the AWS CLI and curl.
set -uo pipefail

readonly region='@REGION@' drill='@DRILL_URI@' plan_sha256='@PLAN_SHA256@'
readonly boot_minutes='@BOOT_MINUTES@' max_minutes='@MAX_MINUTES@' heartbeat_seconds='@HEARTBEAT_SECONDS@' drill_id='@DRILL_ID@'
export AWS_REGION="$region" AWS_DEFAULT_REGION="$region" PATH="$PATH:/usr/local/bin"

# Two clocks of the instance's own: one for the script, and the system's for a script that hangs.
shutdown -h "+$max_minutes"
trap 'shutdown -h now' EXIT

log() { logger -t highwater-drill -- "$*"; echo "$*"; }
fetch() { aws s3api get-object --bucket "$bucket" --key "$prefix/$1" "$2" >/dev/null 2>&1; }

bucket=${drill#s3://}; prefix=${bucket#*/}; bucket=${bucket%%/*}
# The isolated server runs as another user: it must get through this directory, but not read what lies in it.
work=$(mktemp -d "${TMPDIR:-/var/tmp}/highwater-drill.XXXXXX") && chmod 0711 "$work" || exit 1
umask 077

token=''
for ((i = 0; i < boot_minutes * 12; i++)); do
  if fetch task-token "$work/task-token" && fetch host.toml "$work/host.part"; then token=$(<"$work/task-token"); break; fi
  sleep 5
done
if [[ -z $token ]]; then log "drill $drill_id: no task token or configuration beside the plan"; exit 1; fi

answer() { # answer success|failure, then the CLI's arguments
  local i said
  for ((i = 0; i < 10; i++)); do
    said=$(aws stepfunctions "send-task-$1" --task-token "$token" "${@:2}" 2>&1) && return 0
    log "$said"
    # It was told, and only the reply was lost; or nobody waits any more.
    [[ $said == *TaskTimedOut* || $said == *TaskDoesNotExist* ]] && return 1
    sleep $((2 + i * 3))
  done
  log "drill $drill_id: the execution could not be told"
  return 1
}

metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
imds=$(curl -sf --max-time 5 -X PUT "${metadata%/}/latest/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 300')
host_id=$(curl -sf --max-time 5 -H "X-aws-ec2-metadata-token: $imds" "${metadata%/}/latest/meta-data/instance-id")
if [[ ! $host_id =~ ^i-[0-9a-f]+$ ]]; then
  answer failure --error Precondition --cause 'the instance metadata names no instance'
  exit 1
fi
{ printf 'host_id = "%s"\n' "$host_id"; cat "$work/host.part"; } >"$work/host.toml"

(
  umask 022
  exec highwater-host --config "$work/host.toml" --json drill --plan "$drill/plan.json" --sha256 "$plan_sha256" \
    --work "$work/data" --report "$drill/report.json"
) >"$work/result.json" &
helper=$!

# A heartbeat that is refused means that nobody waits any more (time-out, abort): the drill ends too.
refused=0
while kill -0 "$helper" 2>/dev/null; do
  if aws stepfunctions send-task-heartbeat --task-token "$token"; then refused=0; else refused=$((refused + 1)); fi
  if ((refused >= 5)); then
    log "drill $drill_id: nobody waits for it"
    kill -TERM "$helper"
    wait "$helper"
    exit 1
  fi
  for ((i = 0; i < heartbeat_seconds; i++)); do kill -0 "$helper" 2>/dev/null || break; sleep 1; done
done
wait "$helper"
code=$?

# 0: it passed. 18 (ChecksFailed): it did not, and the report says why. record-drill reads the report in both cases.
case $code in
  0 | 18) answer success --task-output "{\"exit_code\":$code}" ;;
  *) answer failure --error DrillHelper --cause "highwater-host drill exited with $code: $(head -c 2000 "$work/result.json")" ;;
esac
