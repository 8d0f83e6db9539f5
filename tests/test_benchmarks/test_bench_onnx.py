"""benchmarks/bench_onnx.py times exported files, if they compute what PyTorch computes."""

import json

import pytest

from biformer_mm.utils.errors import UsageError

YARDSTICK = 'biformer:tiny,num_regions=4,attn_backend=sdpa'
MODEL = 'biformer:tiny,num_regions=4'
WORDS = '--size 64 --repeats 2 --threads 1 --num-regions 4 --arch tiny --others'


@pytest.fixture
def bench(load, monkeypatch, tmp_path):
    """The script as a module, and a function that runs it and returns what it wrote."""
    for package in 'onnx', 'onnxscript', 'onnxruntime':
        pytest.importorskip(package)
    module = load('bench_onnx')
    words = ['bench_onnx.py', *WORDS.split(), YARDSTICK, '--out', str(tmp_path)]
    monkeypatch.setattr('sys.argv', words)

    def run(error=None):
        if error:
            with pytest.raises(SystemExit, match=error):
                module.main()
        else:
            module.main()
        (path,) = tmp_path.glob('*/*.json')
        return json.loads(path.read_text()), path.with_suffix('.md').read_text()

    return module, run


@pytest.mark.slow
def test_every_network_and_runtime_is_timed(bench):
    result, text = bench[1]()
    assert result['environment']['opset'] >= 17 and result['environment']['onnxruntime']
    assert [(row['model'], row['runtime']) for row in result['rows']] == [
        (model, runtime) for model in (YARDSTICK, MODEL) for runtime in ('eager', 'onnxruntime')
    ]
    for row in result['rows']:
        assert row['error'] is None and len(row['seconds']['values']) == 2
        first = result['rows'][row['runtime'] == 'onnxruntime']
        ratio = row['seconds']['median'] / first['seconds']['median']
        assert row['time_ratio'] == pytest.approx(ratio)
        assert f'| {row["model"]} | {row["runtime"]} |' in text


def test_a_wrong_file_gets_no_time(bench, monkeypatch):
    module, run = bench

    def differs(network, path, images, tolerance, runtime):
        raise UsageError('out0 differs')

    monkeypatch.setattr(module, 'compare', differs)
    monkeypatch.setattr(module, 'to_onnx', lambda *args: 'model')
    monkeypatch.setattr('onnx.save', lambda *args: None)
    result, text = run(error='UsageError: out0 differs')
    for row in result['rows']:
        assert 'seconds' not in row and row['error'] == 'UsageError: out0 differs'
    assert text.count('out0 differs') == 4
