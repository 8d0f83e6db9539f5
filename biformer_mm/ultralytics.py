"""The attention in YOLO models of ultralytics: register it, then add it to a model file.

It needs ultralytics, which is licensed under AGPL-3.0, but not OpenMMLab.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Union

import torch
from torch import nn

from biformer_mm.models import BRAPlugin
from biformer_mm.models.layers.attention import BiLevelRoutingAttention
from biformer_mm.models.layers.basic import DepthwiseConv

if TYPE_CHECKING:
    from ultralytics import YOLO


def register() -> None:
    """Let ultralytics' model files name ``BRAPlugin`` as a layer.

    Call it once in each process, before it builds a model from such a file, resumes or trains on.
    Checkpoints load without it, except under ``ULTRALYTICS_SAFE_LOAD``.

    The row ``[-1, 1, BRAPlugin, [c2]]`` adds a layer with the channels of the row before it. In
    ultralytics' parser ``c2`` is this number, already scaled, so that the row fits every scale.
    More of the arguments of :class:`biformer_mm.models.BRAPlugin` may follow, in their order.

    Raises:
        ImportError: ultralytics is not installed.
    """
    from ultralytics.nn import tasks

    tasks.BRAPlugin = BRAPlugin
    if hasattr(torch.serialization, 'add_safe_globals'):  # PyTorch 2.4
        torch.serialization.add_safe_globals([BRAPlugin, BiLevelRoutingAttention, DepthwiseConv])


def add_attention(
    base: Union[str, Path],
    out: Union[str, Path],
    after: Dict[int, Union[int, str]],
    head_dim: int = 32,
    topk: int = 4,
) -> Path:
    """Write a model file: another one with attention after some of its rows.

    Later rows that read one of these rows read the attention's output instead. As with the files
    of ultralytics, the name to load contains the scale: ``yolo11n-bra.yaml`` and
    ``yolo11x-bra.yaml`` both read the file ``yolo11-bra.yaml``.

    Args:
        base: A model file of ultralytics, such as 'yolo11.yaml', or a path.
        out: File to write, such as 'yolo11-bra.yaml'.
        after: Rows to put attention after, and its number of regions per side, S, or 'auto'. Rows
            of backbone and head are counted on, from 0.
        head_dim: Channels per head.
        topk: Routed regions per region.

    Returns:
        The path of the file.

    Raises:
        ImportError: ultralytics is not installed.
        FileNotFoundError: There is no file ``base``.
        ValueError: A row does not exist, or is the last, which has no map as output.
    """
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    model = YAML.load(check_yaml(base))
    last = len(model['backbone'] + model['head']) - 1
    wrong = [row for row in after if row not in range(last)]
    if wrong:
        raise ValueError(f'{base} has rows 0 to {last - 1} to put attention after; got {wrong}')

    # The new number of each row's output: the attention's, if there is one.
    moved = [row + sum(other <= row for other in after) for row in range(last)]
    lines = []
    row = 0
    for name, value in model.items():  # written as JSON, which is YAML too
        if name not in ('backbone', 'head'):
            lines.append(f'{name}: {json.dumps(value)}')
            continue
        lines.append(f'{name}:')
        for source, *layer in value:
            if isinstance(source, list):
                source = [_move(index, row, moved) for index in source]
            else:
                source = _move(source, row, moved)
            lines.append(f'  - {json.dumps([source, *layer])}')
            if row in after:
                attention = [-1, 1, 'BRAPlugin', ['c2', head_dim, after[row], topk]]
                lines.append(f'  - {json.dumps(attention)}')
            row += 1
    Path(out).write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return Path(out)


def load_pretrained(yolo: 'YOLO', weights: Union[str, Path]) -> None:
    """Load the weights of the network without attention, which then computes the same as before.

    ``yolo.load(weights)`` goes by the numbers of the rows, which differ, and would leave most of
    the network as it was.

    Args:
        yolo: A model of a file by :func:`add_attention`.
        weights: Checkpoint of the same network without attention, such as 'yolo11n.pt'.

    Raises:
        ImportError: ultralytics is not installed.
        ValueError: The networks have different numbers of rows.
    """
    from ultralytics import YOLO

    trained = YOLO(weights).model
    others = iter(trained.model)
    is_attention = [isinstance(row, BRAPlugin) for row in yolo.model.model]
    expected = is_attention.count(False)
    if len(trained.model) != expected:
        raise ValueError(
            f'{weights} must hold the network without attention, which has {expected} rows; '
            f'got {len(trained.model)}'
        )
    rows = (nn.Identity() if is_added else next(others) for is_added in is_attention)
    trained.model = nn.Sequential(*rows)
    yolo.load(trained)


def _move(source: int, row: int, moved: List[int]) -> int:
    """Return the new number of a row's source; -1, the row before, stays."""
    if source == -1:
        return source
    return moved[source if source >= 0 else row + source]
