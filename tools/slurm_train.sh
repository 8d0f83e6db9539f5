#!/usr/bin/env bash
# Usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py's options]
# Variables: GPUS, GPUS_PER_NODE, CPUS_PER_TASK, PORT, SRUN_ARGS.
set -euo pipefail
if (( $# < 3 )); then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
tools=$(dirname "$0")
exec "$tools/misc/srun.sh" "$1" "$2" "$tools/train.py" "${@:3}"
