#!/usr/bin/env bash
# Usage: torchrun.sh GPUS SCRIPT [its arguments]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
gpus=$1
shift
case $gpus in
    [1-9]*|auto|cpu|gpu) ;;
    *) echo "GPUS must be the number of processes; got $gpus" >&2; exit 2 ;;
esac

if [[ -n ${NNODES:-}${PORT:-} ]]; then
    rendezvous=(
        --nnodes="${NNODES:-1}"
        --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}"
    )
else  # one machine, maybe with other runs: any free port
    rendezvous=(--standalone --local_addr=127.0.0.1)
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" \
    --nproc_per_node="$gpus" "$@" --launcher pytorch
