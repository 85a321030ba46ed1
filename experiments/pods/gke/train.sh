#!/usr/bin/env bash
# `sde-diffusion train` in a Pod. After SIGTERM the training saves and exits with code 0, but the Pod
# must count as failed, or the JobSet would not start the run again.
terminated=
# $! is the training as soon as it has started; `run=$!` below is set a moment later.
trap 'terminated=yes; kill -TERM "$!"' TERM

sde-diffusion train "$@" &
run=$!
wait "$run"
code=$?
if [ -n "$terminated" ]; then
  wait "$run" # the signal ended the first wait
  exit 143
fi
exit "$code"
