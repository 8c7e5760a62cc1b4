#!/bin/sh
# Benchmarks itself on this board: this plan, then what it is compared with. Prints the results as JSON, also kept in results.json, which
#   mpqc bench OUT --results results.json  puts into the report. Options go to every program, for example  ./run.sh --threads 4 --cpus 4-7 --seconds 10
# MPQC_PYTHON: the Python whose ONNX Runtime and LiteRT are timed too (python3; "none": none). MPQC_LAUNCHER is put before mpqc's own programs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
machine=$(uname -m)
if [ -z "${MPQC_LAUNCHER:-}" ] && [ "$machine" != aarch64 ]; then
    echo "run.sh: this folder is for aarch64, this machine is $machine" >&2
    exit 1
fi
python=${MPQC_PYTHON:-python3}
results=$here/results
rm -rf "$results"
mkdir "$results"
set -- @OPTIONS@ "$@"

failed() { # NAME [CODE]: the last line of what was said, as JSON
    reason=$(tail -n 1 "$results/error.txt" | tr -cd '[:print:]' | tr '"\\' "'/")
    printf '{"error": "%s"}\n' "${reason:-no message}${2:+ (exit code $2)}" >"$results/$1.json"
}

own() { # NAME MODULE OPTIONS
    name=$1 module=$2
    shift 2
    echo "run.sh: $name" >&2
    ${MPQC_LAUNCHER:-} "$here/bin/mpqc-runner" --model "$module" --input "$here/inputs" --json "$@" >"$results/$name.json" 2>"$results/error.txt"
}

if ! own plan "$here/model.so" --profile --expected "$here/expected" --tolerance @TOLERANCE@ "$@"; then
    cat "$results/error.txt" >&2
    exit 1
fi
for module in "$here"/programs/*.so; do
    [ -f "$module" ] || continue
    name=$(basename "$module" .so)
    own "$name" "$module" "$@" || failed "$name" $?
done
for file in "$here"/engines/*; do
    [ -f "$file" ] || continue
    name=$(basename "${file%.*}")
    if [ "$python" = none ] || ! command -v "$python" >/dev/null; then
        [ "$python" = none ] && reason="MPQC_PYTHON is none" || reason="this board has no $python"
        echo "$reason" >"$results/error.txt"
        failed "$name"
        continue
    fi
    echo "run.sh: $name" >&2
    "$python" "$here/engines.py" "$file" --inputs "$here/inputs" "$@" >"$results/$name.json" 2>"$results/error.txt" || failed "$name" $?
done

{
    printf '{"schema_version": 1, "runs": {'
    first=1
    for file in "$results"/*.json; do
        [ "$first" ] || printf ', '
        first=""
        printf '"%s": ' "$(basename "$file" .json)"
        cat "$file"
    done
    printf '}}\n'
} >"$here/results.json"
cat "$here/results.json"
