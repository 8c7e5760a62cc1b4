#!/bin/sh
# Runs the model on this board and prints the result as JSON (also kept in result.json). Options go to bin/mpqc-runner, see its --help:
#   ./run.sh --threads 4 --repeat 100 --profile
# MPQC_CPUS=2-3 binds the run to these cores; MPQC_LAUNCHER is put before the command (an emulator, perf stat, ...).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
machine=$(uname -m)
if [ -z "${MPQC_LAUNCHER:-}" ] && [ "$machine" != aarch64 ]; then
    echo "run.sh: this bundle is for aarch64, this machine is $machine" >&2
    exit 1
fi
governor=/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
if [ -r "$governor" ] && [ "$(cat "$governor")" != performance ]; then
    echo "run.sh: the CPU governor is $(cat "$governor"); for steady times: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor" >&2
fi
bind=""
if [ -n "${MPQC_CPUS:-}" ] && command -v taskset >/dev/null; then
    bind="taskset -c $MPQC_CPUS"
fi
set -- --json "$@"
[ -d "$here/expected" ] && set -- --expected "$here/expected" --tolerance @TOLERANCE@ "$@"
[ -d "$here/inputs" ] && set -- --input "$here/inputs" "$@"
status=0
$bind ${MPQC_LAUNCHER:-} "$here/bin/mpqc-runner" --model "$here/model.so" "$@" >"$here/result.json" || status=$?
cat "$here/result.json"
exit "$status"
