"""Refuse data sets, evaluators, checkpoints and weights that a run must not use."""

from typing import Any, Collection, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.nn.parallel import DistributedDataParallel

from biformer_mm.datasets.checks.agreement import (
    compare_checkpoint,
    compare_evaluator,
    compare_splits,
)
from biformer_mm.datasets.checks.classification import folder_rules
from biformer_mm.datasets.checks.coco import coco_rules
from biformer_mm.datasets.checks.evaluators import repair
from biformer_mm.datasets.checks.facts import SplitFacts, facts_of
from biformer_mm.datasets.checks.paths import evaluators_of, leaves
from biformer_mm.datasets.checks.problems import Problem, enforce
from biformer_mm.datasets.checks.sampling import check_sample
from biformer_mm.datasets.checks.scanning import build_lazily, outputs_of
from biformer_mm.datasets.checks.segmentation import map_rules
from biformer_mm.engine.config_rules.limits import check_crowded
from biformer_mm.engine.config_rules.schedules import check_rates, counts_both
from biformer_mm.utils.errors import UsageError

from .checkpoint_config import compare_config
from .checkpoint_rules import LoadedWeights, check_averages
from .evaluation import check_metrics, warn_of_absent_classes
from .frozen import check_frozen
from .optimizer_rules import check_custom_keys, check_slow_averages
from .testing import finds_masks


class RunRules:
    """What the data sets, evaluators, checkpoint and weights of a run must fulfil.

    Args:
        cfg: The run's config.
        allowed: Kinds of problems that do not end it.
        logger: Takes warnings.
    """

    def __init__(self, cfg: Dict, allowed: Collection[str], logger: MMLogger) -> None:
        self.cfg, self.allowed, self.logger = cfg, allowed, logger
        self.model = cfg.get('model') or {}
        self.facts: List[SplitFacts] = []
        self._unknown: Set[str] = set()  # splits with data sets of other types

    def check_dataset(self, split: str, dataset: Any, annotations: Dict[str, Dict]) -> None:
        """Check a data set that was built, and remember what others must agree with.

        Args:
            split: 'train', 'val' or 'test'.
            dataset: The data set.
            annotations: Contents of annotation files by their paths.

        Raises:
            UsageError: A rule is broken.
        """
        self._enforce(self._of_leaves(split, dataset, annotations))

    def _of_leaves(self, split: str, dataset: Any, annotations: Dict) -> Iterator[Problem]:
        evaluated = split != 'train'
        loader = self.cfg.get(f'{split}_dataloader')
        config = loader.get('dataset') if isinstance(loader, dict) else None
        # The data set may be given built, and so may the loader.
        given = (
            dict(leaves(f'{split}_dataloader.dataset', config)) if isinstance(config, dict) else {}
        )
        for option, leaf in _leaves(f'{split}_dataloader.dataset', dataset):
            content = annotations.get(getattr(leaf, 'ann_file', None))
            facts = facts_of(option, leaf, content)
            if facts is None:
                self._unknown.add(split)
                continue
            self.facts.append(facts)
            pipeline = given.get(option, {}).get('pipeline') or ()
            yield from check_sample(leaf, pipeline, facts.base != 'CustomDataset')
            if facts.base == 'CustomDataset':
                yield from folder_rules(leaf, evaluated, outputs_of(self.model))
            elif facts.base == 'BaseSegDataset':
                yield from map_rules(leaf, self.model)
            elif content is not None:
                yield from coco_rules(
                    leaf.ann_file,
                    content,
                    leaf.metainfo.get('classes') or (),
                    evaluated,
                    pipeline,
                    leaf.filter_cfg,
                    finds_masks(self.model),
                )
                if evaluated:
                    yield from check_crowded(leaf.ann_file, content, self.cfg)

    def check_folders(self, split: str, dataloader: Dict) -> None:
        """Check the class folders of data sets that could not be built.

        Args:
            split: 'train', 'val' or 'test'.
            dataloader: The config of the loader.

        Raises:
            UsageError: A rule is broken.
        """
        for option, leaf in leaves(f'{split}_dataloader.dataset', dataloader['dataset']):
            try:
                dataset, base = build_lazily(option, leaf)
            except UsageError:  # it is said already that it cannot be built
                continue
            if base == 'CustomDataset':
                self._enforce(folder_rules(dataset, split != 'train', outputs_of(self.model)))

    def check_run(self, runner: Runner, meta: Optional[Dict]) -> None:
        """Compare data sets, evaluators and the checkpoint. Repair evaluators.

        Args:
            runner: Its loops are built.
            meta: Of the checkpoint that a test or a resumed training has loaded.

        Raises:
            UsageError: A rule is broken.
        """
        self._enforce(compare_splits(self.facts))
        for split in ('val', 'test'):
            given = list(evaluators_of(self.cfg, split))
            # More metrics than the config has may have been added.
            for (option, config), metric in zip(given, _metrics(runner, split)):
                self._check_metric(split, option, config, metric)
        if meta:
            path = runner._load_from
            self._enforce(compare_checkpoint(self.facts, path, meta.get('dataset_meta')))
            self._enforce(compare_config(path, meta.get('cfg'), self.cfg))

    def check_training(self, runner: Runner, checkpoint: Dict, missing: Set[str]) -> None:
        """Check what a training will change, and which weights it starts from.

        Args:
            runner: It has loaded its checkpoint.
            checkpoint: Of this, whether its weights are 'averaged', and their 'shapes'.
            missing: Names of the model's tensors that it lacks.

        Raises:
            UsageError: A rule is broken.
        """
        model, path, loaded = runner.model, runner._load_from, runner._has_loaded
        problems = list(check_frozen(model, runner.optim_wrapper, loaded))
        problems += check_custom_keys(model, self.cfg.get('optim_wrapper') or {})
        if counts_both(self.cfg) and isinstance(runner.train_loop, EpochBasedTrainLoop):
            problems += check_rates(self.cfg, ['train'], len(runner.train_loop.dataloader))
        if not loaded:
            problems += check_slow_averages(runner.hooks, runner.train_loop)
        elif runner._resume:
            problems += check_averages(path, checkpoint.get('averaged', False), runner.hooks)
        elif not is_model_wrapper(model) or isinstance(model, DistributedDataParallel):
            weights = LoadedWeights(path, model, checkpoint.get('shapes', {}), missing)
            self.logger.info(str(weights))
            problems += weights.check()
        self._enforce(problems)

    def check_metrics(self, runner: Runner, split: str, results: Dict) -> None:
        """Warn of an evaluation that has no figure."""
        self._enforce(check_metrics(f'{split}_evaluator', _metrics(runner, split), results))

    def _check_metric(self, split: str, option: str, config: Dict, metric: Any) -> None:
        """Compare a metric with the data sets of its split, and repair it."""
        facts = [fact for fact in self.facts if fact.option.startswith(split)]
        image_ids = None
        if split not in self._unknown:
            problems = list(compare_evaluator(facts, option, metric, config.get('ann_file', '')))
            self._enforce(problems)
            if not problems:
                image_ids = [i for fact in facts for i in fact.image_ids or ()]
        for line in repair(metric, image_ids):
            self.logger.info(f'{option}: {line}')
        warn_of_absent_classes(metric, self.logger)

    def _enforce(self, problems: Iterable[Problem]) -> None:
        enforce(problems, self.allowed, self.logger.warning)


def _metrics(runner: Runner, split: str) -> Sequence[BaseMetric]:
    """Return the metrics of a split; none if its loop has no evaluator."""
    evaluator = getattr(getattr(runner, f'_{split}_loop'), 'evaluator', None)
    return getattr(evaluator, 'metrics', [])


def _leaves(option: str, dataset: Any) -> Iterator[Tuple[str, Any]]:
    """Yield (config field, data set) of the data sets inside wrappers."""
    parts = getattr(dataset, 'datasets', None)
    if parts is not None:
        for number, part in enumerate(parts):
            yield from _leaves(f'{option}.datasets.{number}', part)
    elif getattr(dataset, 'dataset', None) is not None:
        yield from _leaves(f'{option}.dataset', dataset.dataset)
    else:
        yield option, dataset
