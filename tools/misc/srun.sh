#!/usr/bin/env bash
# Usage: srun.sh PARTITION JOB_NAME SCRIPT [its arguments]
# Variables: GPUS in all (8), GPUS_PER_NODE (8 or fewer), CPUS_PER_TASK (5),
# PORT, PYTHON, and further options of srun in SRUN_ARGS.
set -euo pipefail
partition=$1 job_name=$2
shift 2

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$(( gpus < 8 ? gpus : 8 ))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # as torchrun does
if [[ -n ${PORT:-} ]]; then
    export MASTER_PORT=$PORT
fi

# SRUN_ARGS come last and are split at spaces: they override what is set here.
# shellcheck disable=SC2086
exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --gres="gpu:$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$@" --launcher slurm
