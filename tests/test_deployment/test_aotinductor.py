"""A package of AOTInductor computes what the network does, without this package."""

import subprocess
import sys

import pytest
import torch
from mmengine.utils import digit_version
from onnx_models import make

RUN = """
import sys

import torch

run = torch._inductor.aoti_load_package(sys.argv[1])
batches = torch.load(sys.argv[2])
torch.save([run(images) for images in batches], sys.argv[3])
assert not [name for name in sys.modules if name.startswith('biformer_mm')]
"""


@pytest.mark.slow
@pytest.mark.skipif(
    digit_version('2.6') > digit_version(torch.__version__), reason='PyTorch before 2.6'
)
def test_package_runs_in_another_process_with_any_batch(tmp_path):
    model = make(stages=2)
    batch = torch.export.Dim('batch', min=1)
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.randn(2, 3, 40, 56),), dynamic_shapes={'x': {0: batch}}
        )
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / 'model.pt2')
        )
    batches = [torch.randn(n, 3, 40, 56) for n in (1, 3)]
    given, found = tmp_path / 'given.pt', tmp_path / 'found.pt'
    torch.save(batches, given)
    subprocess.run([sys.executable, '-c', RUN, package, given, found], cwd=tmp_path, check=True)
    for outputs, images in zip(torch.load(found), batches):
        with torch.no_grad():
            expected = model(images)
        assert len(outputs) == len(expected) == 2
        for out, value in zip(outputs, expected):
            torch.testing.assert_close(out, value, rtol=1e-4, atol=1e-5)
