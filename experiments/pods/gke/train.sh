#!/usr/bin/env bash
# `sde-diffusion train` in a Pod. One that SIGTERM ends has saved and left well, with exit code 0; for
# Kubernetes it must have failed, or the JobSet would not start the run again.
told=
# $! is the training as soon as there is one; `run=$!` below is a moment later.
trap 'told=yes; kill -TERM "$!"' TERM

sde-diffusion train "$@" &
run=$!
wait "$run"
code=$?
if [ -n "$told" ]; then
  wait "$run" # the first one was cut short
  exit 143
fi
exit "$code"
