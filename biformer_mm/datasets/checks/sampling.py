"""Look at a few pictures of a data set before a run."""

import random
from typing import Any, Dict, Iterator, Sequence

from .pictures import describe, picture_loading, read_picture
from .problems import Problem

_PICTURES = 5
# What matters if all pictures have it. Others change them a little, or stop the run.
_KINDS = ('dark', 'exif-turned')


def check_sample(dataset: Any, pipeline: Sequence[Dict], annotated: bool) -> Iterator[Problem]:
    """Yield what is wrong with all of a few pictures, the same in each run.

    Args:
        dataset: A data set that was built.
        pipeline: The configs of its steps.
        annotated: Whether boxes or a map belong to the pixels.
    """
    loading = picture_loading(pipeline)
    count = min(len(dataset), _PICTURES)
    found = []
    for index in random.Random(0).sample(range(len(dataset)), count):
        path = dataset.get_data_info(index)['img_path']
        picture = read_picture(path, loading)
        if picture.pixels is None:  # training names it
            return
        problems = describe(path, picture, loading, annotated=annotated)
        found.append({problem.kind: problem for problem in problems})
    for kind in _KINDS:
        if found and all(kind in problems for problems in found):
            problem = found[0][kind]
            said = f'{problem.detail} (so are all of {count} pictures that were looked at)'
            yield problem._replace(detail=said)
