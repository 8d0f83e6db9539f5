"""tools/deployment/quantize_onnx.py writes files in 8-bit integers, or says why not."""

import config_checks
import pytest
import torch
from tool_runner import run_tool

from biformer_mm.deployment.onnx_export import FeaturePath, export_onnx
from biformer_mm.utils.errors import UsageError

TOOL = 'deployment/quantize_onnx.py'


@pytest.fixture
def cfg(healthy):
    """The classifier's demo, on pictures of its size."""
    cfg = config_checks.load('biformer_demo')
    for split in 'train', 'test':
        cfg[f'{split}_dataloader'].dataset.data_root = str(healthy['imagenet'])
    return cfg


def test_pictures_are_prepared_as_in_testing(tool, cfg, healthy):
    images = list(tool.images_of(cfg, (1, 3, 64, 64), 3))
    assert [tuple(x.shape) for x in images] == [(1, 3, 64, 64)] * 3
    # normalised, and without the training's flips: the same each time
    assert images[0].abs().max() < 3 and images[0].min() < 0
    for again, image in zip(tool.images_of(cfg, (1, 3, 64, 64), 3), images):
        assert torch.equal(again, image)
    assert len(list(tool.images_of(cfg, (1, 3, 64, 64), 100))) == 4  # all that there are


def test_pictures_of_another_size_are_refused(tool, cfg):
    with pytest.raises(UsageError, match='takes images of 1 x 3 x 32 x 32; .*export for this size'):
        list(tool.images_of(cfg, (1, 3, 32, 32), 1))


@pytest.mark.parametrize(
    'args, message',
    [
        (['gone.onnx'], 'there is no file gone.onnx; give one of tools/deployment/export_onnx.py'),
        (['junk.onnx'], r'junk.onnx must be an ONNX file \('),
        (['old.onnx'], 'old.onnx exists; add --force'),
        (['new.onnx', '--images', 0], '--images must be 1 or more; got 0'),
    ],
)
def test_refusals(args, message, draw, tmp_path):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    value = onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1, 3, 64, 64])
    graph = onnx.helper.make_graph([], 'empty', [value], [value])
    for name in 'old.onnx', 'new.onnx':
        onnx.save(onnx.helper.make_model(graph), tmp_path / name)
    (tmp_path / 'junk.onnx').write_bytes(b'junk')
    out = 'old.onnx' if args == ['old.onnx'] else 'int8.onnx'
    with pytest.raises(SystemExit, match=message) as error:
        draw(*args, '--out', out)
    assert '\n' not in error.value.code
    assert not (tmp_path / 'int8.onnx').exists()


@pytest.mark.slow
@pytest.mark.parametrize('static', [False, True])
def test_quantised_file_is_evaluated(static, healthy, tmp_path):
    for package in 'onnx', 'onnxscript', 'onnxruntime':
        pytest.importorskip(package)
    config = config_checks.CONFIGS / 'biformer_demo.py'
    model = config_checks.build(config_checks.load('biformer_demo')).eval()
    export_onnx(FeaturePath(model), str(tmp_path / 'fp32.onnx'), torch.randn(1, 3, 64, 64))
    options = ['--cfg-options']
    for split in 'train', 'test':
        options += [
            f'{split}_dataloader.dataset.data_root={healthy["imagenet"]}',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
    arguments = ['--static', config, '--images', 2, *options] if static else []
    printed = run_tool(TOOL, 'fp32.onnx', '--out', 'int8.onnx', *arguments, cwd=tmp_path)
    assert printed.splitlines()[-1].endswith(' MB  int8.onnx')
    before, after = ((tmp_path / f'{x}.onnx').stat().st_size for x in ('fp32', 'int8'))
    assert (3 if static else 1.5) * after < before  # dynamic leaves convolutions as they are
    printed = run_tool('deployment/test_onnx.py', config, 'int8.onnx', *options, cwd=tmp_path)
    assert 'accuracy/top1: ' in printed
