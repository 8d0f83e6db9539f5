"""Compare what two runs of MMEngine's runner left in their folders."""

import json
import pickle
import re
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np
import torch

# Our tools add these hooks, in the documentation's words (docs/faults.md,
# docs/distributed.md).
OUR_HOOKS = ('NonFiniteLossHook', 'GradientCheckHook', 'PreemptionHook', 'HangHook')
# They put these in place of MMEngine's.
OUR_VERSIONS = {'WholeCheckpointHook': 'CheckpointHook'}
_TIMES = ('time', 'data_time', 'memory')
_PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


def last_checkpoint(work: Path) -> Path:
    """Find a run's last checkpoint."""
    return Path((work / 'last_checkpoint').read_text())


def compare_hooks(theirs: Path, ours: Path) -> None:
    """Assert the same hooks in the same order, but for ours."""
    expected, found = _hooks(theirs), _hooks(ours)
    assert expected, f'no hooks in the log of {theirs}'
    found = [
        re.sub(r'\w+$', lambda name: OUR_VERSIONS.get(name[0], name[0]), line)
        for line in found
        if not line.endswith(OUR_HOOKS)
    ]
    _same(expected, found, 'hooks')


def compare_scalars(theirs: Path, ours: Path) -> None:
    """Assert equal losses, rates and metrics of all iterations."""
    expected, found = _scalars(theirs), _scalars(ours)
    assert any('loss' in line for line in expected)
    _same(expected, found, 'scalars')


def compare_metrics(theirs: Path, ours: Path) -> None:
    """Assert equal metrics of two tests, to the digit."""
    expected, found = _metrics(theirs), _metrics(ours)
    _same(expected, found, 'metrics')


def compare_checkpoints(theirs: Path, ours: Path) -> None:
    """Assert that all tensors of the last checkpoints are equal."""
    expected, found = map(last_checkpoint, (theirs, ours))
    assert found.name == expected.name
    expected, found = (torch.load(path, 'cpu', weights_only=False) for path in (expected, found))
    for part in _PARTS:
        _same(expected.get(part), found.get(part), part)
    for part in ('epoch', 'iter'):
        assert found['meta'][part] == expected['meta'][part], part


def compare_predictions(theirs: Path, ours: Path) -> None:
    """Assert that pickled predictions agree to 1e-4."""
    expected, found = (pickle.loads(path.read_bytes()) for path in (theirs, ours))
    assert expected
    for sample in expected:
        if 'pred_instances' in sample:
            assert len(sample['pred_instances']['scores']), 'nothing is found'
    _same(expected, found, 'predictions', tolerance=1e-4)


def compare_pictures(theirs: Path, ours: Path) -> None:
    """Assert equal maps of classes; theirs are pictures, counted from 1 where
    ADE20K does that."""
    found = pickle.loads(ours.read_bytes())
    names = sorted(path.stem for path in theirs.iterdir())
    assert names == sorted(Path(x['img_path']).stem for x in found)
    for sample in found:
        picture = cv2.imread(
            str(theirs / f'{Path(sample["img_path"]).stem}.png'), cv2.IMREAD_GRAYSCALE
        )
        labels = sample['pred_sem_seg']['data'][0].numpy()
        shift = 1 if sample.get('reduce_zero_label') else 0
        np.testing.assert_array_equal(picture, labels + shift)


def _hooks(work: Path) -> List[str]:
    """Lines of the list that the runner logs, as 'stage: hook'."""
    (log,) = (path for path in sorted(work.glob('*/*.log'))[-1:])
    text = log.read_text().partition('Hooks will be executed')[2]
    hooks, stage = [], ''
    for line in text.splitlines()[1:]:
        line = line.strip()
        if re.fullmatch(r'\w+:', line):
            stage = line
        elif re.match(r'\(\w+ *\) \w+$', line):
            hooks.append(f'{stage} {line}')
        elif line.strip('- '):
            break
    return hooks


def _scalars(work: Path) -> List[Dict]:
    """What the last run logged, without times."""
    path = sorted(work.glob('*/vis_data/scalars.json'))[-1]
    return [_untimed(json.loads(line)) for line in path.read_text().splitlines()]


def _metrics(work: Path) -> Dict:
    path = sorted(work.glob('*/2*.json'))[-1]
    # MMEngine has each rank write it: the end of a longer one may be left.
    return _untimed(json.JSONDecoder().raw_decode(path.read_text())[0])


def _untimed(scalars: Dict) -> Dict:
    return {k: v for k, v in scalars.items() if k not in _TIMES}


def _same(expected: Any, found: Any, where: str, tolerance: float = 0) -> None:
    """Assert that nested values are the same."""
    if isinstance(expected, dict):
        assert sorted(map(str, found)) == sorted(map(str, expected)), where
        for key, value in expected.items():
            _same(value, found[key], f'{where}.{key}', tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(expected, found)):
            _same(*pair, f'{where}[{i}]', tolerance)
    elif isinstance(expected, (torch.Tensor, np.ndarray)):
        assert type(found) is type(expected), where
        torch.testing.assert_close(
            torch.as_tensor(found),
            torch.as_tensor(expected),
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda text: f'{where}: {text}',
        )
    elif isinstance(expected, float):
        assert (
            found == expected
            or abs(found - expected) <= tolerance
            or (found != found and expected != expected)
        ), f'{where}: theirs {expected}, ours {found}'
    else:
        assert found == expected, f'{where}: theirs {expected}, ours {found}'
