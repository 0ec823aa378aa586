#!/usr/bin/env bash
# Runs one experiment in P processes of D CPU devices on this machine, as P hosts would:
#   launch/local.sh 2 1 rmdnet train --config digits:quick --workdir runs/two
# Run here, by tests/test_launch.py and tests/test_multihost.py. Needs bash 4.3, Python, Linux.
#
# It ends with the status of the process that failed first; the others are asked to stop by then,
# and killed 45 seconds later. SIGTERM, SIGINT and SIGHUP go to all processes, once each: they save
# at the end of the epoch, and their status is that of this script. A second signal ends at once.
set -euo pipefail
wrong() {
  echo "launch/local.sh: $1, as in: launch/local.sh 2 1 rmdnet train --config digits:quick ..." >&2
  exit 2
}
[ $# -ge 3 ] || wrong "give the processes, the CPU devices of each, and a command"
[[ $1 =~ ^[1-9][0-9]*$ ]] || wrong "processes must be a number above 0, got '$1'"
[[ $2 =~ ^[1-9][0-9]*$ ]] || wrong "devices must be a number above 0, got '$2'"
command -v "$3" >/dev/null || wrong "there is no command '$3'"

# The port stays bound by a socket that this script and its children inherit. So no other program
# takes it before process 0 listens there, which may share it.
if [[ ${RMDNET_PORT-} != "$$":* ]]; then
  exec python3 -c '
import os, socket, sys
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
held.bind(("", 0))
held.set_inheritable(True)
os.environ["RMDNET_PORT"] = f"{os.getpid()}:{held.getsockname()[1]}"
os.execvp("bash", ["bash", *sys.argv[1:]])' "$0" "$@"
fi

processes=$1 devices=$2
shift 2
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
export JAX_COORDINATOR_ADDRESS=localhost:${RMDNET_PORT#*:} JAX_NUM_PROCESSES=$processes
export no_proxy=localhost${no_proxy:+,$no_proxy} # else they would meet through a proxy
unset RMDNET_PORT

pids=() told=
tell() { # sends a signal to those that still run
  told=$1
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}
for name in TERM INT HUP; do
  # shellcheck disable=SC2064  # the name as it is now
  trap "tell $name" "$name"
done
set -m # each in a process group of its own: a signal to this script's group reaches it once
for ((i = 0; i < processes; i++)); do
  JAX_PROCESS_ID=$i "$@" --multihost </dev/null &
  pids+=($!)
done
set +m

exec {never}<> <(:)
status=0 limit=0
while [ ${#pids[@]} -gt 0 ]; do
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    code=0
    wait "${pids[i]}" || code=$?
    unset "pids[i]"
    [ "$code" = 0 ] || [ "$status" != 0 ] || status=$code
    if [ "$code" != 0 ] && [ -z "$told" ]; then
      tell TERM
      limit=$((SECONDS + 45))
    fi
  done
  if [ "$limit" != 0 ] && [ "$SECONDS" -ge "$limit" ]; then tell KILL; fi
  read -rt 0.1 -u "$never" || true # a pause that no signal to the group kills
done
exit "$status"
