#!/usr/bin/env bash
# Usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [test.py's options]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
if (( $# < 3 )); then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
tools=$(dirname "$0")
exec "$tools/misc/torchrun.sh" "$3" "$tools/test.py" "$1" "$2" "${@:4}"
