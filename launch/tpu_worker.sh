#!/usr/bin/env bash
# One worker's part of tpu_vm.sh, which copies it to each TPU VM and calls it there.
# Run here: run, logs and stop; install, where a Python 3.12 was there. mount is only checked against
# docs.cloud.google.com/storage/docs/cloud-storage-fuse/install and gcsfuse-cli (November 2026).
set -euo pipefail
cd # relative workdirs lie in the home folder
step=$1
shift
case $step in
install) # a wheel that lies here, or git+https://...; the image's Python is too old, uv brings one
  package=$1
  if [ -f "$package" ]; then package=file://$PWD/$package; fi
  python3 -m pip install --quiet --user uv
  ~/.local/bin/uv venv --quiet --clear --python 3.12 rmdnet
  ~/.local/bin/uv pip install --quiet --python rmdnet/bin/python "rmdnet_jax[tpu] @ $package"
  rmdnet/bin/rmdnet --version
  ;;
mount) # a bucket, as ~/runs; without a cache, for each worker reads what another one wrote
  if mountpoint -q runs; then exit; fi
  key=/usr/share/keyrings/cloud.google.asc from=https://packages.cloud.google.com/apt
  curl -fsS "$from/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $from gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list
  sudo apt-get update -qq
  sudo apt-get install -y -qq gcsfuse
  mkdir -p runs
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$1" runs
  ;;
run) # starts what outlives the connection
  if [ -e rmdnet.pid ] && kill -0 "$(cat rmdnet.pid)" 2>/dev/null; then
    echo "launch/tpu_worker.sh: a run goes on here: see its logs, or stop it" >&2
    exit 2
  fi
  rm -f rmdnet.pid rmdnet.status
  nohup bash "$0" train "$@" >rmdnet.log 2>&1 </dev/null &
  while [ ! -e rmdnet.pid ]; do sleep 0.1; done
  ;;
train) # and notes how it ends
  rmdnet/bin/rmdnet train "$@" --multihost &
  echo $! >rmdnet.pid
  status=0
  wait $! || status=$?
  echo "$status" >rmdnet.status
  ;;
logs) # to the end of the run, with its status
  tail -n +1 -F --pid="$(cat rmdnet.pid)" rmdnet.log
  while [ ! -e rmdnet.status ]; do sleep 0.1; done
  exit "$(cat rmdnet.status)"
  ;;
stop) kill -TERM "$(cat rmdnet.pid)" ;;
*)
  echo "launch/tpu_worker.sh: there is no step '$step'" >&2
  exit 2
  ;;
esac
