#!/bin/bash
# Says whether an instance's files are there; analyses nothing: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
set -euo pipefail

if [ "${1:-}" != v1 ] || [ $# -lt 4 ]; then
    echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2
    exit 1
fi
case $3 in
    "["*) ;; # a list of networks
    *) [ -e "$3" ] || [ -e "$3.gz" ] || { echo "prepare_instance.sh: there is no $3" >&2; exit 1; } ;;
esac
[ -e "$4" ] || [ -e "$4.gz" ] || { echo "prepare_instance.sh: there is no $4" >&2; exit 1; }
"${PYTHON:-python3}" -c 'from bourn.cli import main; main()' --version > /dev/null
