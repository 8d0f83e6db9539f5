#!/usr/bin/env bash
# Check the attention op on a GPU, in fp64, fp32, fp16 and bf16, against a loop
# over queries. Needs torch and pytest alone; a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
PYTHONPATH=. "$python" -m pytest tests/test_ops
