#!/usr/bin/env bash
# Usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [test.py's options]
# Variables: GPUS, GPUS_PER_NODE, CPUS_PER_TASK, PORT, SRUN_ARGS.
set -euo pipefail
if (( $# < 4 )); then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
tools=$(dirname "$0")
exec "$tools/misc/srun.sh" "$1" "$2" "$tools/test.py" "${@:3}"
