"""One training of learning.py, and the time of its steps; each in a process of its own."""

import copy
import json
import statistics
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from drift import Record, smooth
from learning_studies import Network
from measure import Timer, peak_memory, time_rows
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from biformer_mm.analysis.cost import model_cost
from biformer_mm.apis.model import build_network
from biformer_mm.utils import register_all_modules
from biformer_mm.utils.quiet import quiet_known_warnings

CONFIGS = Path(__file__).resolve().parents[1] / 'examples/cifar10'
SIZE = 64  # of pictures, as the configs resize them
LAST = 100  # steps whose mean is the final loss
POINTS = 50  # of a loss curve
AMP = dict(bf16='bfloat16', fp16='float16')


class Run(NamedTuple):
    """What one training depends on.

    Attributes:
        network: Config and options.
        data: Folder of train/CLASS/* and test/CLASS/*.
        classes: Number of classes.
        seed: Of weights and batches.
        rate: Learning rate.
        steps: Number of steps.
        evaluations: On the test pictures, at equal distances; the last at the end.
        batch: Pictures per step.
        dtype: 'fp32', or of autocast.
        workers: Processes that load pictures.
        device: 'cpu' or 'cuda'.
    """

    network: Network
    data: str
    classes: int
    seed: int
    rate: float
    steps: int
    evaluations: int
    batch: int
    dtype: str
    workers: int
    device: str


@TRANSFORMS.register_module()
class LoadOnce(LoadImageFromFile):
    """Loads a picture when it is asked for first, and keeps it, so that files are not measured."""

    pictures: Dict[str, Any] = {}

    def transform(self, results: Dict) -> Dict:
        path = results['img_path']
        if path not in self.pictures:
            self.pictures[path] = super().transform(dict(results))['img']
        image = self.pictures[path].copy()
        return dict(results, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


class Curves(Record):
    """Keeps the loss of each step, all accuracies, and the largest of the first weights."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracies: List[Tuple[int, float]] = []
        self.largest = 0.0

    def before_train(self, runner: Runner) -> None:
        # Norms start at 1, which says nothing.
        weights = [x for x in runner.model.parameters() if x.ndim > 1]
        self.largest = max(float(x.detach().abs().max()) for x in weights)

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict] = None) -> None:
        self.accuracies.append((runner.iter, metrics['accuracy/top1']))


def make_config(run: Run) -> Config:
    """The network's config with the run's budget, rate, seed and data."""
    register_all_modules()
    cfg = Config.fromfile(str(CONFIGS / f'{run.network.config}.py'))
    cfg.merge_from_dict(copy.deepcopy(run.network.options))
    cfg.model.head.num_classes = run.classes
    cfg.randomness = dict(seed=run.seed)
    cfg.optim_wrapper.optimizer.lr = run.rate
    if run.dtype != 'fp32':
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=AMP[run.dtype])
    # The suite's loop, as tools/train.py takes it: it starts workers after they are seeded.
    interval = max(1, run.steps // run.evaluations)
    cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=run.steps, val_interval=interval)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = run.data
        loader.dataset.pipeline[0] = dict(type='LoadOnce')
        loader.update(
            batch_size=run.batch, num_workers=run.workers, persistent_workers=run.workers > 0
        )
    for part in ('dataloader', 'evaluator', 'cfg'):
        cfg.pop(f'test_{part}')
    cfg.default_hooks.checkpoint = None
    cfg.visualizer = None
    cfg.log_level = 'ERROR'
    return cfg


def settings_of(run: Run) -> Dict:
    """All that a result depends on, as JSON has it: the whole config, and the device."""
    config = make_config(run).to_dict()
    device = torch.cuda.get_device_name() if run.device == 'cuda' else 'cpu'
    return json.loads(json.dumps(dict(device=device, config=config)))


def in_process(function: Callable, *args: Any) -> Any:
    """Call it in a new process, whose end, even by a signal, is an exception here."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


def train(run: Run, threads: int) -> Dict:
    """Train, and return what there is to report."""
    _set_up(threads)
    cfg = make_config(run)
    if run.workers:  # which inherit the pictures
        _load_all(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        cfg.experiment_name = Path(folder).name
        runner = Runner.from_cfg(cfg)
        curves = Curves()
        runner.register_hook(curves)
        runner.train()
    losses = curves.losses
    cfg.model.backbone.pop('attn_backend', None)  # costs are counted on a CPU, where not all run
    parameters, multiply_adds = model_cost(cfg, (SIZE, SIZE))
    return dict(
        seed=run.seed,
        steps=run.steps,
        loss=statistics.fmean(losses[-LAST:]),
        accuracy=curves.accuracies,
        curve=smooth(losses, POINTS),
        largest_first_weight=curves.largest,
        parameters=parameters,
        multiply_adds=multiply_adds,
    )


def _set_up(threads: int) -> None:
    torch.set_num_threads(threads)
    MMLogger.get_current_instance().setLevel('ERROR')  # what MMEngine says while it builds
    quiet_known_warnings()
    # Of MMEngine, whose workers are forked from this process, which was spawned.
    warnings.filterwarnings('ignore', 'Multi-processing start method')


def _load_all(cfg: Config) -> None:
    load = LoadOnce()
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        data = copy.deepcopy(loader.dataset)
        dataset = DATASETS.build(dict(data, _scope_='mmpretrain'))
        for i in range(len(dataset)):
            load(dataset.get_data_info(i))


def time_steps(runs: Dict[str, Run], threads: int, repeats: int) -> Dict[str, Dict]:
    """Time a training step of each, in turns, without loading.

    Returns:
        A spread of seconds, or an error, by name.
    """
    _set_up(threads)
    rows: Dict[str, Dict] = {name: dict(error=None) for name in runs}
    times = time_rows(rows, lambda name: Timer(_make_step(runs[name]), runs[name].device), repeats)
    return {name: dict(row, **times.get(name, {})) for name, row in rows.items()}


def step_memory(run: Run, threads: int) -> int:
    """Peak memory of a process that trains some steps on one batch, in bytes.

    That of a whole training says less: it grows by what the allocator scatters, on a CPU up to
    threefold.
    """
    _set_up(threads)
    step = _make_step(run)
    for _ in range(3):
        step()
    return peak_memory(run.device)


def _make_step(run: Run) -> Callable[[], Any]:
    """Forward, backward, clipping and the optimiser's step, on one batch."""
    cfg = make_config(run)
    torch.manual_seed(run.seed)
    model = build_network(cfg)
    model.init_weights()
    model.to(run.device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    labels = [DataSample().set_gt_label(i % run.classes) for i in range(run.batch)]
    data = dict(
        inputs=torch.randint(256, (run.batch, 3, SIZE, SIZE), dtype=torch.uint8).to(run.device),
        data_samples=[x.to(run.device) for x in labels],
    )
    return lambda: model.train_step(data, wrapper)
