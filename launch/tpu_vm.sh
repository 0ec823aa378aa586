#!/usr/bin/env bash
# Run here: --dry-run, the errors, and all steps with a stand-in for gcloud. On no TPU so far.
# Checked against (November 2026): gcloud 528's own list of commands and flags; docs.cloud.google.com
# /tpu/docs: queued-resources, jax-pods, runtimes, spot; /storage/docs: cloud-storage-fuse.
#
# Google only mends this API: TPU7x and later need GKE (gke_jobset.yaml), as spot runs had better.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/tpu_vm.sh STEP --name NAME --zone ZONE [--type TYPE] [options] [-- what rmdnet train is given]

  launch/tpu_vm.sh all --name exp --zone us-west4-a --type v5litepod-16 --bucket my-runs --spot \
    -- --config cifar10_sym --workdir runs/sym

steps      all      create, wait, install, run, logs, delete; it keeps the TPU where a step fails
           create   ask for the TPU            wait     until it is there
           install  Python and rmdnet_jax      run      start on all workers, and return
           logs     of worker 0, to the end    stop     save at the end of the epoch, and end
           delete   the TPU; what it costs ends here
options    --type TYPE        as in v5litepod-16; for all and create
           --project ID       else gcloud's own
           --bucket BUCKET    mounted as ~/runs on all workers: workdirs go below runs/
           --spot             cheaper, and may be taken away at any time
           --runtime VERSION  else by TYPE
           --package WHAT     a wheel, or git+https://...; else a wheel of this clone
           --dry-run          prints every command, runs none

Taken away, the TPU is SUSPENDED: delete it, then the same `all` continues from the bucket.
TEXT
}
wrong() {
  echo "launch/tpu_vm.sh: $1; --help shows all" >&2
  exit 2
}

STEPS=" all create wait install run logs stop delete "
name='' zone='' type='' project='' bucket='' runtime='' package='' spot='' dry=''
step=${1-}
if [[ $step =~ ^(-h|--help)$ ]]; then usage && exit; fi
[[ $STEPS == *" $step "* ]] || wrong "there is no step '$step'; steps:${STEPS% }"
shift
while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --) break ;;
  -h | --help) usage && exit ;;
  --spot) spot=--spot ;;
  --dry-run) dry=1 ;;
  --name | --zone | --type | --project | --bucket | --runtime | --package)
    [[ -n ${1-} && $1 != --* ]] || wrong "$option needs a value"
    declare "${option#--}=$1"
    shift
    ;;
  *) wrong "unknown option '$option'" ;;
  esac
done
for need in name zone; do [ -n "${!need}" ] || wrong "--$need is needed"; done
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || wrong "--name must be like my-run-1, got '$name'"
if [ "$step" = all ] || [ "$step" = run ]; then
  [ $# -gt 0 ] || wrong "after -- must stand what rmdnet train is given"
fi
if [[ $step =~ ^(all|create)$ ]]; then
  case $type in # docs.cloud.google.com/tpu/docs/runtimes
  v6e-*) own=v2-alpha-tpuv6e ;;
  v5p-*) own=v2-alpha-tpuv5 ;;
  v5litepod-*) own=v2-alpha-tpuv5-lite ;;
  v[234]-*) own=tpu-ubuntu2204-base ;;
  *) own='' ;;
  esac
  [ -n "${runtime:=$own}" ] || wrong "--type must be like v5litepod-16, v5p-8 or v4-8, got '$type'"
  [ -n "$type" ] || wrong "--type is needed"
fi
[ -n "$dry" ] || command -v gcloud >/dev/null || wrong "there is no command gcloud: install it"

where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")
queue=(gcloud compute tpus queued-resources) vm=(gcloud compute tpus tpu-vm)

call() { # runs a command, or prints it
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
remote() { # a step of tpu_worker.sh on a worker, or on all
  local worker=$1 words
  shift
  words=$(printf '%q ' bash tpu_worker.sh "$@")
  call "${vm[@]}" ssh "$name" "${where[@]}" "--worker=$worker" --quiet "--command=${words% }"
}

create() {
  call "${queue[@]}" create "$name" "--node-id=$name" "${where[@]}" "--accelerator-type=$type" \
    "--runtime-version=$runtime" ${spot:+"$spot"} --quiet
}

wait_() {
  local show=("${queue[@]}" describe "$name" "${where[@]}" "--format=value(state.state)") state=''
  if [ -n "$dry" ]; then call "${show[@]}" && return; fi
  while :; do
    state=$("${show[@]}")
    echo "launch/tpu_vm.sh: $name is $state"
    case $state in
    ACTIVE) return ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING) wrong "$name will not come: delete it, and ask again" ;;
    esac
    sleep 30
  done
}

install() {
  local what=$package here
  here=$(dirname "$0")
  if [ -z "$what" ]; then # a wheel of this clone, named by its version
    call python3 -m pip wheel --quiet --no-deps --wheel-dir "$here/../dist" "$here/.."
    what=$(wheel "$here/..")
  fi
  local files=("$here/tpu_worker.sh")
  if [[ $what == *.whl ]]; then files+=("$what") what=${what##*/}; fi
  call "${vm[@]}" scp "${files[@]}" "$name:" "${where[@]}" --worker=all --quiet
  remote all install "$what"
  [ -z "$bucket" ] || remote all mount "$bucket"
}

wheel() {
  local version
  version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$1/rmdnet_jax/__init__.py")
  echo "$1/dist/rmdnet_jax-$version-py3-none-any.whl"
}

delete() { call "${queue[@]}" delete "$name" "${where[@]}" --force --quiet; }

case $step in
all)
  set -E
  trap 'echo "launch/tpu_vm.sh: $name may be there still, and cost: use delete" >&2' ERR
  create
  wait_
  install
  remote all run "$@"
  remote 0 logs
  delete
  ;;
create | install | delete) "$step" ;;
wait) wait_ ;;
run) remote all run "$@" ;;
logs) remote 0 logs ;;
stop) remote all stop ;;
esac
