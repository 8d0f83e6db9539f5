"""DDP finds gradients in the layout that it has prepared for them."""

import subprocess
import sys

from process_runner import free_port

STEP = """
import sys, warnings
import torch
from torch import distributed
from biformer_mm.models import BiFormer

warnings.simplefilter('error')
port, rank = sys.argv[1:]
distributed.init_process_group(
    'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=int(rank), world_size=2
)
arch = dict(base='stl', embed_dims=(16, 32, 64, 96), depths=(1, 1, 1, 1), head_dim=16)
model = torch.nn.parallel.DistributedDataParallel(BiFormer(arch))
for _ in range(2):
    model.zero_grad()
    sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64))).backward()
distributed.destroy_process_group()
"""


def test_ddp_does_not_warn(tmp_path):
    script, port = tmp_path / 'step.py', free_port()
    script.write_text(STEP)
    command = [sys.executable, str(script), str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(rank)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and 'Grad strides' not in output, output
