"""What a run adds to the loaders that MMEngine builds."""
from typing import Any

from mmengine.runner import Runner
from torch.utils.data import DataLoader

from biformer_mm.datasets.guard import guard_data, naming_sources
from .preemption import protect_workers


def watch_loaders(runner: Runner) -> None:
    """Have a runner's loaders name the file that they fail on, and keep their
    workers through the signals that end a run.

    Args:
        runner: One that has not built its loops, whose loaders may start
            their workers.
    """
    build = runner.build_dataloader

    def build_watched(dataloader: Any, *args, **kwargs) -> DataLoader:
        with naming_sources(dataloader):
            loader = build(dataloader, *args, **kwargs)
        guard_data(loader.dataset, runner.cfg)
        protect_workers(loader)
        return loader

    runner.build_dataloader = build_watched
