#!/usr/bin/env bash
# `sde-diffusion train` in a Pod. One that SIGTERM ends has saved and left well, with exit code 0; for
# Kubernetes it must have failed, or the JobSet would not start the run again.
told=
trap 'told=yes; kill -TERM "$run"' TERM

sde-diffusion train "$@" &
run=$!
wait "$run"
code=$?
if [ -n "$told" ]; then
  wait "$run" # the first one was cut short
  exit 143
fi
exit "$code"
