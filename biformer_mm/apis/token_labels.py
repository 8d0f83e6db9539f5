"""Make the label maps of token labelling with a trained classifier.

Shapes: N batch, C channels, K classes, h x w map of the last stage.
"""

import os.path as osp
import sys
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import torch
from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.dataset import Compose
from mmengine.utils import ProgressBar
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from biformer_mm.datasets.checks.guard import GuardedPipeline
from biformer_mm.datasets.token_labels import label_path, read_token_labels, write_token_labels
from biformer_mm.utils.errors import UsageError

# As mmpretrain's data sets have it.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def make_token_labels(
    model: nn.Module,
    image_root: str,
    label_root: str,
    shape: Tuple[int, int],
    batch_size: int = 32,
    workers: int = 2,
    progress: bool = False,
) -> Tuple[int, int]:
    """Write the label map of each image below a folder that has none yet.

    An image is resized to ``shape``, whatever its aspect ratio, so that the map covers all of it.

    Args:
        model: Classifier of mmpretrain, in evaluation mode; see :func:`find_classifier`.
        image_root: Folder of the images.
        label_root: Folder of the label maps; see
            :func:`biformer_mm.datasets.token_labels.label_path`.
        shape: Height and width to resize images to, in pixels. A stride of 32 makes an 18 x 18
            map of 576 x 576.
        batch_size: Images to classify at once.
        workers: Processes that read images.
        progress: Show a bar on the standard error.

    Returns:
        How many maps were written, and how many were there.

    Raises:
        UsageError: The model cannot make label maps, an image cannot be read or shares its map
            with another, maps of another grid are there, or a map cannot be written.
    """
    classifier = find_classifier(model)
    paths = list_images(image_root, label_root)
    todo = [(image, path) for image, path in paths.items() if not osp.isfile(path)]
    done = [path for path in paths.values() if osp.isfile(path)]
    loader = DataLoader(
        _Images([image for image, _ in todo], shape), batch_size, num_workers=workers
    )
    targets = iter(path for _, path in todo)
    bar = ProgressBar(len(todo), file=sys.stderr) if progress else None
    for inputs in loader:
        logits = dense_logits(model, classifier, inputs)
        if done:  # one is enough: all are of one run, or of runs that passed this check
            read_token_labels(done.pop(), logits.shape[1], logits.shape[2:])
            done.clear()
        for image_logits, path in zip(logits, targets):
            try:
                write_token_labels(path, image_logits)
            except OSError as error:
                raise UsageError(
                    f'{path} cannot be written: {error}; free its disk or give another label_root'
                ) from error
        if bar:
            bar.update(len(inputs))
    if bar:
        print(file=sys.stderr)
    return len(todo), len(paths) - len(todo)


def find_classifier(model: nn.Module) -> nn.Linear:
    """Return the linear layer of a classifier that can classify each position of its last map.

    It is that of the tokens of a ``TokenLabelHead``, or that of mmpretrain's ``LinearClsHead``
    behind ``GlobalAveragePooling``: the mean of its logits is the classifier's result.

    Raises:
        UsageError: The model has neither.
    """
    head, neck = getattr(model, 'head', None), getattr(model, 'neck', None)
    if hasattr(head, 'aux_head'):
        return head.aux_head
    if type(head) is LinearClsHead and type(neck) is GlobalAveragePooling:
        return head.fc
    raise UsageError(
        'label maps are made by classifiers of mmpretrain with TokenLabelHead, or with '
        f'GlobalAveragePooling and LinearClsHead; this one has {type(neck).__name__} and '
        f'{type(head).__name__}; give another'
    )


@torch.no_grad()
def dense_logits(model: nn.Module, classifier: nn.Linear, images: Tensor) -> Tensor:
    """Classify each position of the last map.

    Args:
        model: Classifier of mmpretrain.
        classifier: Its linear layer.
        images: (N, 3, H, W) uint8, BGR.

    Returns:
        (N, K, h, w).

    Raises:
        UsageError: The last output of the backbone is not a map of the layer's channels.
    """
    inputs = model.data_preprocessor(dict(inputs=images))['inputs']
    maps = model.extract_feat(inputs, stage='backbone')[-1]
    if maps.dim() != 4 or maps.shape[1] != classifier.in_features:
        raise UsageError(
            'label maps are made from a last map (N, C, h, w) with C = '
            f'{classifier.in_features}; the backbone returns {tuple(maps.shape)}; give another '
            'classifier'
        )
    return classifier(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def list_images(image_root: str, label_root: str) -> Dict[str, str]:
    """List the images below a folder in order, each with the path of its label map.

    Hidden files are left out.

    Raises:
        UsageError: There is none, or two have the same label map.
    """
    found = sorted(
        str(path)
        for path in Path(image_root).rglob('*')
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith('.')
    )
    if not found:
        raise UsageError(f'{image_root} must be a folder with images below it; it has none')
    paths: Dict[str, str] = {}
    owners: Dict[str, str] = {}
    for image in found:
        path = label_path(image, image_root, label_root)
        if path in owners:
            raise UsageError(
                f'{owners[path]} and {image} would share the label map {path}; rename one'
            )
        paths[image], owners[path] = path, image
    return paths


class _Images(Dataset):
    """Images resized to one shape, (3, H, W) uint8; errors name the file."""

    def __init__(self, paths: List[str], shape: Sequence[int]) -> None:
        resize = Resize(scale=tuple(shape[::-1]), interpolation='bicubic', backend='pillow')
        self.paths = paths
        self.load = GuardedPipeline(Compose([LoadImageFromFile(), resize, PackInputs()]), {})

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.load(dict(img_path=self.paths[index]))['inputs']
