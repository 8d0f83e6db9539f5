"""What a data set must have in common with the other parts of a run."""

import os.path as osp
import sys
from contextlib import contextmanager
from typing import Any, Callable, Dict, FrozenSet, Iterator, NamedTuple, Optional, Tuple

from .coco_objects import are_near

# Data sets whose way of loading is known, unless a subclass overrides one of the
# methods below.
_KNOWN = ('CocoDataset', 'BaseSegDataset', 'CustomDataset')
_METHODS = ('load_data_list', 'parse_data_info', '_find_samples')


class SplitFacts(NamedTuple):
    """What a data set must have in common with the other parts of a run.

    Attributes:
        option: Its place in the config, such as 'val_dataloader.dataset'.
        base: Name of the known class that loads its files.
        type_name: Name of its class.
        source: Its annotation file, or else its folder.
        classes: Names of the classes, in the config's order; None if names do
            not matter.
        numbering: Names in the order of the labels that the files give; None
            if they give none.
        numbered_by: 'categories' of an annotation file, 'folders', or None.
        images: File names by id, of all images of the annotation file. Only of
            COCO's format and for evaluation.
        image_ids: Ids of the images that the data set has, in its order. As above.
        boxes: Of the annotation file, see :func:`boxes_of`. As above.
        reduce_zero_label: Whether label 0 means no class (mmseg).
    """

    option: str
    base: str
    type_name: str
    source: str
    classes: Optional[Tuple[str, ...]]
    numbering: Optional[Tuple[str, ...]] = None
    numbered_by: Optional[str] = None
    images: Optional[Dict[Any, str]] = None
    image_ids: Optional[Tuple] = None
    boxes: Optional[FrozenSet] = None
    reduce_zero_label: Optional[bool] = None


def known_base(dataset: Any) -> Optional[str]:
    """Return the name of the known class that loads a data set's files, or None."""
    cls = type(dataset)
    for base in cls.__mro__:
        if base.__name__ in _KNOWN and all(
            getattr(cls, method, None) is getattr(base, method, None) for method in _METHODS
        ):
            return base.__name__
    return None


def facts_of(option: str, dataset: Any, content: Optional[Dict] = None) -> Optional[SplitFacts]:
    """Collect the facts of a data set, which may be built lazily.

    Args:
        option: Its place in the config.
        dataset: The data set, no wrapper.
        content: Of a ``CocoDataset``, the content of its annotation file.

    Returns:
        The facts, or None if the data set loads its files in a way of its own.
    """
    base = known_base(dataset)
    if base is None:
        return None
    classes = dataset.metainfo.get('classes')
    if getattr(dataset, 'return_classes', False):  # the classes are a prompt
        classes = None
    prefix = dataset.data_prefix or {}
    facts = SplitFacts(
        option,
        base,
        type(dataset).__name__,
        dataset.ann_file or prefix.get('img_path') or dataset.data_root or '',
        classes if classes is None else tuple(classes),
    )
    if base == 'CocoDataset':
        return facts if content is None else _with_categories(facts, dataset, content)
    if base == 'BaseSegDataset':
        return facts._replace(reduce_zero_label=dataset.reduce_zero_label)
    if dataset.with_label and not dataset.ann_file and osp.isdir(dataset.img_prefix):
        from mmpretrain.datasets.custom import find_folders  # only these data sets have it

        folders = tuple(find_folders(dataset.img_prefix)[0])
        facts = facts._replace(numbering=folders, numbered_by='folders')
    return facts


def _with_categories(facts: SplitFacts, dataset: Any, content: Dict) -> SplitFacts:
    wanted = dataset.metainfo.get('classes') or ()
    names = [c['name'] for c in content.get('categories', ())]
    facts = facts._replace(
        numbering=tuple(name for name in names if name in wanted), numbered_by='categories'
    )
    if facts.option.startswith('train'):  # nothing needs its images, of which there are many
        return facts
    images = {image['id']: image.get('file_name', '') for image in content.get('images', ())}
    ids = tuple(images)
    if dataset._fully_initialized and len(dataset) != len(images):  # some are filtered
        ids = tuple(dataset.get_data_info(i)['img_id'] for i in range(len(dataset)))
    return facts._replace(images=images, image_ids=ids, boxes=boxes_of(content))


def boxes_of(content: Dict) -> FrozenSet:
    """Return image and box, in whole pixels, of the annotations of a file in COCO's format."""
    return frozenset(
        (a.get('image_id'), *map(round, a['bbox']))
        for a in content.get('annotations', ())
        if are_near(a.get('bbox') or ())
    )


@contextmanager
def seeing_annotations(callback: Callable[[str, Dict], None]) -> Iterator[None]:
    """Call a function with each annotation file that a ``CocoDataset`` reads meanwhile.

    mmdet reads a file of gigabytes once and drops what it does not need. Data
    sets that read with an API of their own are passed over.

    Args:
        callback: Called with the file's path and its content, before the data
            set has looked at the content.
    """
    if 'mmdet' not in sys.modules:  # the run is of another framework
        yield
        return
    from mmdet.datasets.coco import CocoDataset

    original = vars(CocoDataset)['COCOAPI']
    load = CocoDataset.COCOAPI

    def read(path: str) -> Any:
        coco = load(path)
        callback(path, coco.dataset)
        return coco

    CocoDataset.COCOAPI = staticmethod(read)
    try:
        yield
    finally:
        CocoDataset.COCOAPI = original
