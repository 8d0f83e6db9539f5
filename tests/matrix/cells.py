"""The columns of the matrix: how each tool is called, and what it promises."""

import json
import pickle
import re
from functools import partial
from pathlib import Path
from typing import List, NamedTuple

import cv2
from matrix.data import VAL
from matrix.shrink import LONGER, unit_of
from mmengine.config import Config
from tool_runner import TRUST

from biformer_mm.utils.config_types import type_name


class Recipe(NamedTuple):
    """A shrunken config among its data; paths are from there."""

    path: str
    cfg: Config

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def work_dir(self) -> Path:
        return Path('work_dirs') / self.name

    @property
    def outputs(self) -> Path:
        return Path('outputs') / self.name

    @property
    def pictures(self) -> List[str]:
        """Those to test on."""
        dataset = self.cfg.test_dataloader.dataset
        prefix = dataset.get('data_prefix') or dataset.split
        if not isinstance(prefix, str):
            prefix = prefix.get('img') or prefix.img_path
        found = (Path(dataset.data_root) / prefix).rglob('*.jpg')
        return sorted(map(str, found))

    @property
    def checkpoint(self) -> str:
        """The last of the training."""
        last = self.work_dir / 'last_checkpoint'
        return last.read_text() if last.exists() else 'none.pth'


# What a user types, after `python tools/`, in the folder that holds data/.
COMMANDS = {
    'check_dataset': 'misc/check_dataset.py {config}',
    'train': 'train.py {config} {launcher}',
    'resume': 'train.py {config} {launcher} --resume {trust} --cfg-options {longer}',
    'test': 'test.py {config} {checkpoint} {trust} --show-dir {out}/pictures '
    '--out {out}/predictions.pkl',
    'tta': 'test.py {config} {checkpoint} {trust} --tta',
    'infer': 'infer.py {picture} --config {config} --checkpoint {checkpoint} {trust} '
    '--out {out}/infer',
    'routing': 'analysis_tools/visualize_routing.py {pictures} --config {config} '
    '--checkpoint {checkpoint} {trust} --out {out}/routing',
    'routing --html': 'analysis_tools/visualize_routing.py {picture} --config {config} '
    '--checkpoint {checkpoint} {trust} --html {out}/page.html',
    'get_flops': 'analysis_tools/get_flops.py {config} --shape 256 256',
    'export_onnx': 'deployment/export_onnx.py {config} {checkpoint} {trust} --shape 64 64 '
    '--out {out}/whole.onnx',
    'export_onnx --backbone': 'deployment/export_onnx.py {config} {checkpoint} {trust} '
    '--shape 64 64 --out {out}/backbone.onnx --backbone',
    'plot_logs': 'analysis_tools/plot_logs.py {work_dir} --out {out}/curves.png',
}
COLUMNS = tuple(COMMANDS)


def to_arguments(column: str, recipe: Recipe) -> List[str]:
    """A tool's path below tools/, and its arguments."""
    unit = unit_of(recipe.cfg)
    # Sharded training needs a launcher; DeepSpeed unpickles what it resumes from.
    strategy = type_name(recipe.cfg.get('strategy'))
    unpickles = strategy == 'DeepSpeedStrategy' and column == 'resume'
    trust = TRUST or (['--trust'] if unpickles else [])
    return (
        COMMANDS[column]
        .format(
            config=recipe.path,
            work_dir=recipe.work_dir,
            checkpoint=recipe.checkpoint,
            out=recipe.outputs,
            picture=recipe.pictures[0],
            pictures=' '.join(recipe.pictures),
            longer=f'train_cfg.{unit}={LONGER[unit]}',
            launcher='--launcher pytorch' if strategy else '',
            trust=' '.join(trust),
        )
        .split()
    )


def check_promise(column: str, recipe: Recipe, said: str) -> None:
    """Check what a tool that succeeded has left.

    Raises:
        AssertionError: It is not what the tool promises.
    """
    _PROMISES[column](recipe, said)


def _check_dataset(recipe: Recipe, said: str) -> None:
    # Of ImageNet's classes most have no picture, which are warnings.
    assert re.search(r'^\d+ images read, ', said, re.M), said[-500:]
    assert not re.search('^error ', said, re.M), said[-500:]


def _train(recipe: Recipe, said: str) -> None:
    # A detector that is hardly trained finds nothing.
    if 'The testing results of the whole dataset is empty' not in said:
        _has_metrics(recipe, said)
    assert Path(recipe.checkpoint).exists(), recipe.checkpoint


def _resume(recipe: Recipe, said: str) -> None:
    _has_metrics(recipe, said)
    unit = unit_of(recipe.cfg)
    kind = dict(max_epochs='epoch', max_iters='iter')[unit]
    name = f'{kind}_{LONGER[unit]}.pth'
    assert Path(recipe.checkpoint).name == name, recipe.checkpoint


def _test(recipe: Recipe, said: str) -> None:
    _has_metrics(recipe, said)
    with open(recipe.outputs / 'predictions.pkl', 'rb') as file:
        assert len(pickle.load(file)) == VAL
    _are_pictures(recipe.outputs / 'pictures', VAL)


def _has_metrics(recipe: Recipe, said: str) -> None:
    """In what it printed; a detector that finds no box has none."""
    name = dict(mmdet='coco/bbox_mAP', mmseg='mIoU', mmpretrain='accuracy/top1')[
        recipe.cfg.default_scope
    ]
    assert re.search(rf'\b{name}: \d', said), f'no {name}'


def _infer(recipe: Recipe, said: str) -> None:
    folder = recipe.outputs / 'infer'
    name = Path(recipe.pictures[0]).name
    content = json.loads((folder / f'{name}.json').read_text())
    assert content['source'] == recipe.pictures[0]
    _are_pictures(folder, 1, f'{name}.overlay.jpg')


def _routing(recipe: Recipe, said: str) -> None:
    _are_pictures(recipe.outputs / 'routing', VAL)


def _html(recipe: Recipe, said: str) -> None:
    page = (recipe.outputs / 'page.html').read_text()
    data = json.loads(re.search('<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])
    assert data['title'] == Path(recipe.pictures[0]).name
    assert data['stages'] and all(x['routings'] for x in data['stages'])


def _flops(recipe: Recipe, said: str) -> None:
    (line,) = re.findall(r'^\| total .*', said, re.M)
    numbers = [int(x.replace(',', '')) for x in re.findall(r'[\d,]+', line)]
    assert len(numbers) == 3 and min(numbers) > 0, line


def _export(recipe: Recipe, said: str, name: str) -> None:
    import onnx  # which old versions of PyTorch do without

    path = recipe.outputs / f'{name}.onnx'
    assert onnx.load(path).graph.output, path
    path.unlink()  # it is large


def _plot_logs(recipe: Recipe, said: str) -> None:
    _are_pictures(recipe.outputs, 1, 'curves.png')
    assert 'loss' in said


def _are_pictures(folder: Path, count: int, pattern: str = '*') -> None:
    found = [path for path in folder.rglob(pattern) if path.suffix in ('.png', '.jpg')]
    assert len(found) == count, f'{len(found)} pictures in {folder}'
    for path in found:
        picture = cv2.imread(str(path))
        assert picture is not None and picture.std() > 0, path


_PROMISES = {
    'check_dataset': _check_dataset,
    'train': _train,
    'resume': _resume,
    'test': _test,
    'tta': _has_metrics,
    'infer': _infer,
    'routing': _routing,
    'routing --html': _html,
    'get_flops': _flops,
    'export_onnx': partial(_export, name='whole'),
    'export_onnx --backbone': partial(_export, name='backbone'),
    'plot_logs': _plot_logs,
}
