"""Workers that load data, of runs within the tests' process."""

from torch.utils.data import DataLoader


def end_workers(loader: DataLoader) -> None:
    """End those that stay; garbage collection, which otherwise meets them in a
    runner's cycles, would wait 5 seconds for each."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
