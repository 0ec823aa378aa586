#!/usr/bin/env bash
# Runs one experiment in P processes of D CPU devices on this machine, as P hosts would:
#   launch/local.sh 2 1 rmdnet train --config digits:quick --workdir runs/two
# Ends with the status of the first process that fails, after stopping the others.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
processes=$1 devices=$2
shift 2
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$processes
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((i = 0; i < processes; i++)); do
  JAX_PROCESS_ID=$i "$@" --multihost &
done
for ((i = 0; i < processes; i++)); do
  wait -n
done
