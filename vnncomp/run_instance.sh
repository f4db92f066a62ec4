#!/bin/bash
# Answers one instance: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT_FILE TIMEOUT
# The first line of RESULT_FILE is sat, unsat, unknown, timeout or error; a witness follows sat.
set -euo pipefail

if [ "${1:-}" != v1 ] || [ $# -lt 6 ]; then
    echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT_FILE TIMEOUT" >&2
    exit 1
fi
onnx=$3 vnnlib=$4 result=$5 timeout=$6
case $onnx in
    "["*) # a list of networks, which bourn does not take yet
        echo unknown > "$result"
        exit 0
        ;;
esac
if [ ! -e "$onnx" ] && [ -e "$onnx.gz" ]; then onnx=$onnx.gz; fi
if [ ! -e "$vnnlib" ] && [ -e "$vnnlib.gz" ]; then vnnlib=$vnnlib.gz; fi
# The process is killed at its time limit; it is to end by itself a little before.
limit=$(awk -v t="$timeout" 'BEGIN { m = t * 0.1; if (m > 1) m = 1; print t - m }')
exec "${PYTHON:-python3}" -c 'from bourn.cli import main; main()' verify "$onnx" "$vnnlib" \
    --timeout "$limit" --result "$result" --quiet
