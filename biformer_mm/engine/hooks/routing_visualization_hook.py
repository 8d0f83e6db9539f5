"""Show routing during training, in any of MMEngine's visualisation backends."""

from copy import deepcopy
from typing import Any, Dict, Optional, Sequence

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from biformer_mm.models import BiLevelRoutingAttention
from biformer_mm.ops.validation import check_int
from biformer_mm.utils.errors import UsageError

from ...visualization.inputs import to_picture
from ...visualization.recording import find_backbone, record_routing
from ...visualization.routing_statistics import routing_statistics


@HOOKS.register_module()
class RoutingVisualizationHook(Hook):
    """Draw routing, and log its statistics, at each validation.

    For the last routed block of each stage and the first images of the
    validation set, the hook adds a picture, ``routing_stage3_image0``, with the
    query in the middle, and as scalars the means of :func:`routing_statistics`
    over these images, such as ``routing/stage3_entropy``. Both go to the
    runner's visualizer.

    Args:
        stages: Stages to show, from 1. None shows all stages that route.
        num_images: Number of images to show at each validation.
        interval: Number of validations between two that are shown.

    Raises:
        ValueError: ``num_images``, ``interval`` or an entry of ``stages`` is
            not an integer of at least 1.
    """

    def __init__(
        self, stages: Optional[Sequence[int]] = None, num_images: int = 1, interval: int = 1
    ) -> None:
        num_images = check_int('num_images', num_images)
        interval = check_int('interval', interval)
        if num_images < 1 or interval < 1:
            raise ValueError(
                f'num_images and interval must be at least 1; got {num_images=} and {interval=}'
            )
        if stages is not None:
            if not isinstance(stages, (list, tuple)) or not stages:
                raise ValueError(
                    f'stages must be a list of stages, or None for all that route; got {stages!r}'
                )
            stages = [check_int('stages', stage, 1) for stage in stages]
        self.stages = stages
        self.num_images = num_images
        self.interval = interval
        self._validations = 0

    def before_train(self, runner: Runner) -> None:
        """Check the stages before training starts.

        Raises:
            UsageError: The model has no BiFormer, or no such stage, or the
                stage does not route.
        """
        self._routed_stages(_unwrap(runner.model))

    def before_val_epoch(self, runner: Runner) -> None:
        """Reset the count of images and the statistics."""
        self._seen = 0
        self._figures: Dict[str, list] = {}

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show the images of a batch until ``num_images`` are shown."""
        if self._validations % self.interval or not is_main_process():
            return
        for image, sample in zip(data_batch['inputs'], data_batch['data_samples']):
            if self._seen == self.num_images:
                return
            # The preprocessor writes into the sample.
            data = dict(inputs=[image], data_samples=[deepcopy(sample)])
            self._look(runner, image, data)
            self._seen += 1

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict] = None) -> None:
        """Log the scalars."""
        self._validations += 1
        if self._figures:
            runner.visualizer.add_scalars(
                {name: float(np.mean(values)) for name, values in self._figures.items()},
                step=runner.iter,
            )

    def _look(self, runner: Runner, image, data: Dict) -> None:
        from ...visualization.routing_figures import draw_routing, to_array  # matplotlib, if used

        model = _unwrap(runner.model)
        inputs = model.data_preprocessor(data, False)['inputs']
        picture = to_picture(image)
        middle = picture.shape[1] // 2, picture.shape[0] // 2
        for stage in self._routed_stages(model):
            (routing,) = record_routing(find_backbone(model), inputs, stage)
            for name, value in routing_statistics(routing).items():
                self._figures.setdefault(f'routing/stage{stage}_{name}', []).append(value)
            runner.visualizer.add_image(
                f'routing_stage{stage}_image{self._seen}',
                to_array(draw_routing(picture, routing, [middle])),
                step=runner.iter,
            )

    def _routed_stages(self, model: nn.Module) -> Sequence[int]:
        stages = find_backbone(model).stages
        routed = [
            i + 1
            for i, blocks in enumerate(stages)
            if isinstance(blocks[-1].attn, BiLevelRoutingAttention)
        ]
        if not routed:
            raise UsageError(
                'RoutingVisualizationHook shows stages that route, and this model has none; '
                'remove the hook'
            )
        if self.stages is None:
            return routed
        if not set(self.stages) <= set(routed):
            raise UsageError(
                'RoutingVisualizationHook shows stages that route, of this '
                f'model {routed}; got stages={list(self.stages)}; name '
                'others'
            )
        return self.stages


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
