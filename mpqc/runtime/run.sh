#!/bin/sh
# Runs the model on this board and prints the result as JSON (also kept in result.json). Options go to bin/mpqc-runner, see its --help:
#   ./run.sh --threads 4 --repeat 100 --profile
#   ./run.sh --input mine.npy --output y.npy
# Without --input it runs the inputs that lie here, and compares with the outputs that lie here; with --input only with what --expected names.
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
given="" expected=""
for word; do
    case $word in
        --input) given=1 ;;
        --expected) expected=1 ;;
    esac
done
if [ -z "$given" ] && [ -d "$here/inputs" ]; then
    [ -z "$expected" ] && [ -d "$here/expected" ] && set -- --expected "$here/expected" "$@"
    set -- --input "$here/inputs" "$@"
fi
[ -n "${MPQC_CPUS:-}" ] && set -- --cpus "$MPQC_CPUS" "$@"
set -- --json --tolerance @TOLERANCE@ "$@"
status=0
${MPQC_LAUNCHER:-} "$here/bin/mpqc-runner" --model "$here/model.so" "$@" >"$here/result.json" || status=$?
cat "$here/result.json"
exit "$status"
