#!/bin/bash
# Installs bourn from the folder above: install_tool.sh v1
set -euo pipefail

if [ "${1:-}" != v1 ]; then
    echo "install_tool.sh: version ${1:-(none)} of the interface is not known; v1 is" >&2
    exit 1
fi
here=$(cd "$(dirname "$0")/.." && pwd)
"${PYTHON:-python3}" -m pip install -c "$here/constraints.txt" "$here"
"${PYTHON:-python3}" -c 'from bourn.cli import main; main()' --version
