#!/usr/bin/env bash
# Check and measure everything on one GPU, in under 10 minutes:
#
#     OUT=benchmarks/results bash benchmarks/run_gpu.sh
#
# Needs torch, triton and pytest; the networks also MMEngine and timm. What
# fails is named at the end, after the table of goals, and the rest still runs.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
failed=()

# Runs a command for so many seconds at most.
part() {
    local seconds=$1
    shift
    echo "== $*"
    timeout "$seconds" "$python" "$@" || failed+=("$*")
}

if ! "$python" -c '
import torch
print(torch.__version__, torch.cuda.get_device_name())' 2>/dev/null; then
    echo "error: $python has no PyTorch that sees a GPU; name one by PYTHON=" >&2
    exit 1
fi

part 150 -m pytest -q tests/test_ops --ignore tests/test_ops/test_triton_aot.py
for dtype in bf16 fp16 fp32; do
    part 60 benchmarks/bench_attention.py --dtype $dtype --out "$out" \
        --backend triton sdpa --repeats 5
done
part 60 benchmarks/bench_attention.py --growth --dtype bf16 --out "$out" \
    --backend triton --repeats 5 --limit 1

missing=$("$python" -c '
from importlib.util import find_spec
print(*[x for x in ("mmengine", "timm") if not find_spec(x)])')
if [ -n "$missing" ]; then
    echo "== The networks are skipped. Missing: $missing; cure: pip install $missing"
else
    common=(--others timm:swin_tiny_patch4_window7_224 --backend triton sdpa
        --dtype bf16 --out "$out")
    part 90 benchmarks/bench_backbone.py --preset classification --batch 128 \
        "${common[@]}"
    part 90 benchmarks/bench_backbone.py --preset detection "${common[@]}"
fi

"$python" benchmarks/goals.py "$out"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
