#!/usr/bin/env bash
# Check and measure everything on one GPU, in under 8 minutes:
#
#     OUT=FOLDER bash benchmarks/run_gpu.sh
#
# Needs torch, triton, timm and pytest. With --dry it runs on a CPU, with tiny
# sizes, to show that it works.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=benchmarks:.${PYTHONPATH:+:$PYTHONPATH}
exec timeout -k 5 475 "${PYTHON:-python3}" -m gpu "$@"
