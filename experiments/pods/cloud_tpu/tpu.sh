#!/usr/bin/env bash
# A run on Cloud TPU VMs by a queued resource: tpu.sh create | wait | install | train | log | delete.
# README.md in this folder says when to call which.
set -euo pipefail

NAME=${NAME:-sde-diffusion}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-16}               # v5e:4x4 of `sde-diffusion plan`
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SLICES=${SLICES:-1}
CONFIG=${CONFIG:-configs/ve/cifar10_ncsnpp_continuous.py}
FLAGS=${FLAGS---config.preset=tpu}       # FLAGS= trains the config as it is

usage() {
  sed -n '2,3s/^# //p' "$0" >&2
  exit 2
}

queued_resources() {
  local verb=$1
  shift
  gcloud compute tpus queued-resources "$verb" "$NAME" --zone="$ZONE" "$@"
}

on_all_hosts() {
  queued_resources ssh --node=all --worker=all --command="$1"
}

create() {
  local nodes=(--node-id="$NAME")
  if [ "$SLICES" -gt 1 ]; then
    nodes=(--node-count="$SLICES" --node-prefix="$NAME")
  fi
  queued_resources create --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
    "${nodes[@]}" --spot
}

# Returns when the TPU is active, and exits with an error when it will not become so.
wait_for_it() {
  local state
  while state=$(queued_resources describe --format='value(state.state)'); do
    echo "$(date +%T) $state"
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED) exit 1 ;;
    esac
    sleep "${SECONDS_BETWEEN_LOOKS:-30}"
  done
  exit 1
}

# Installs this commit and the data on every host. (The image's own Python is too old.)
install() {
  : "${DATA:?the data, as in gs://bucket/data}"
  local archive root
  archive=$(mktemp -d)/sde-diffusion.tar.gz
  # In a subfolder `git archive` would take that folder alone.
  root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
  git -C "$root" archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus queued-resources scp "$archive" "$NAME:sde-diffusion.tar.gz" \
    --zone="$ZONE" --node=all --worker=all
  on_all_hosts "set -e
    mkdir -p sde-diffusion && tar -xzf sde-diffusion.tar.gz -C sde-diffusion && cd sde-diffusion
    python3 -m pip install --user --quiet uv
    python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
    python3 -m uv pip install --quiet --python .venv/bin/python '.[train,tpu,gcs]'
    gcloud storage cp --recursive '${DATA}' ."
}

# The hosts find one another. The command outlives the connection; its output is in train.log.
train() {
  : "${WORKDIR:?the folder of the run, as in gs://bucket/runs/cifar10}"
  local command
  # $FLAGS is split into words, and each is quoted once more for the shell of the host.
  command=$(printf '%q ' "JAX_COMPILATION_CACHE_DIR=${WORKDIR%/}-cache" \
    .venv/bin/sde-diffusion train --config "$CONFIG" --workdir "$WORKDIR" $FLAGS "$@")
  # Without the braces all of `cd ... &&` would run in the background, with the connection's output.
  on_all_hosts "cd sde-diffusion && { nohup setsid env $command > train.log 2>&1 < /dev/null & }"
}

case ${1:-} in
  create) create ;;
  wait) wait_for_it ;;
  install) install ;;
  train) shift && train "$@" ;;
  log) queued_resources ssh --node=0 --worker=0 --command='tail -n 50 -f sde-diffusion/train.log' ;;
  delete) queued_resources delete --force --quiet ;;
  *) usage ;;
esac
