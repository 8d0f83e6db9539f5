"""BiFormer, or other attentions in its place, beside timm's Swin-T: time and memory.

Swin's attention is not fused by default; 'swin fused' has it fused, as timm's
TIMM_FUSED_ATTN=2 does.
"""

from typing import Callable, Dict, List

import torch
from measure import (
    RotatingTimer,
    memory_in_use,
    peak_memory,
    recorded,
    reset_peak_memory,
    time_rows,
)
from networks import build, make_step
from report import table
from torch import nn

from biformer_mm.models.layers import ATTENTIONS, ROUTING
from gpu.sizes import Network
from gpu.step import Step

BACKENDS = ('swin', 'swin fused', 'triton', 'sdpa')
MODELS = dict(stl=BACKENDS, small=BACKENDS, attention=('swin fused', ROUTING, *ATTENTIONS))


def run(step: Step, name: str) -> None:
    network, device = step.sizes.networks[name], step.sizes.device
    built = {model: dict(error=None) for model in MODELS[name]}
    models = {}
    for model, row in built.items():
        with recorded(row):
            models[model] = build_model(network, model).to(device)
    for case, (mode, graph, batch) in network.cases.items():
        rows = {
            model: dict(
                network=name,
                case=case,
                mode=mode,
                batch=batch,
                model=model,
                dtype=step.sizes.dtype,
                error=row['error'],
            )
            for model, row in built.items()
        }
        images = torch.randn(batch, 3, *network.size, device=device)

        def make_timer(model: str) -> RotatingTimer:
            work = make_step(models[model], mode, images, step.sizes.dtype)
            rows[model]['peak_memory'] = memory(models[model], work, device)
            return RotatingTimer([work], device, graph, step.sizes.seconds)

        for model, seconds in time_rows(rows, make_timer, step.sizes.repeats).items():
            rows[model].update(seconds=seconds, images_per_second=batch / seconds['median'])
        compare(rows)
        step.add(*rows.values())
        for model in models.values():
            model.zero_grad(set_to_none=True)


def build_model(network: Network, model: str) -> nn.Module:
    """One of a network's :data:`MODELS`, on the CPU."""
    if model.startswith('swin'):
        from timm.layers import set_fused_attn

        set_fused_attn(True, experimental=model == 'swin fused')
        spec = network.swin
    else:
        option = 'attn_backend' if model in BACKENDS else 'attention'
        spec = f'{network.biformer},{option}={model}'
    torch.manual_seed(0)
    return build(spec, network.preset, network.size)


def memory(model: nn.Module, work: Callable[[], None], device: str) -> int:
    """Bytes of the weights, and of what a step needs at most besides."""
    work()  # what libraries keep for good is not counted
    model.zero_grad(set_to_none=True)
    reset_peak_memory(device)
    before = memory_in_use(device)
    work()
    weights = sum(x.numel() * x.element_size() for x in model.parameters())
    return weights + max(0, peak_memory(device) - before)


def compare(rows: Dict[str, Dict]) -> None:
    """Add ratios over Swin-T and over the gather, where they are among the models."""
    for key, yardstick, quantity in (
        ('time_over_swin', 'swin', 'seconds'),
        ('time_over_fused_swin', 'swin fused', 'seconds'),
        ('memory_over_gather', 'sdpa', 'peak_memory'),
    ):
        for model, row in rows.items():
            pair = row, rows.get(yardstick, dict(error='not in this step'))
            if not model.startswith('swin') and not any(x['error'] for x in pair):
                mine, other = (x[quantity] for x in pair)
                if quantity == 'seconds':
                    mine, other = mine['median'], other['median']
                row[key] = mine / other


def lines(rows: List[Dict]) -> List[str]:
    """Time, images per second and memory of every model."""
    found = []
    for row in rows:
        name = f'{row["network"]}, {row["case"]}, {row["batch"]}: ' + (row['model'])
        if row['error']:
            found.append([name, *['-'] * 5])
            continue
        found.append(
            [
                name,
                f'{row["seconds"]["median"] * 1e3:.2f}',
                f'{row["images_per_second"]:.0f}',
                f'{row["peak_memory"] / 1e9:.2f}',
                *(
                    f'{row[key]:.2f}' if key in row else '-'
                    for key in ('time_over_swin', 'time_over_fused_swin')
                ),
            ]
        )
    return (
        [table(['network', 'ms', 'images/s', 'GB', 'time / swin', '/ fused'], found)]
        if found
        else []
    )
