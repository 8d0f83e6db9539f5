#!/usr/bin/env bash
# Usage: tools/dist_train.sh CONFIG GPUS [train.py's options]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
if (( $# < 2 )); then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
tools=$(dirname "$0")
exec "$tools/misc/torchrun.sh" "$2" "$tools/train.py" "$1" "${@:3}"
