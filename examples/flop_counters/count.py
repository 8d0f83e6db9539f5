"""Multiply-adds of BiFormer by eight counters, as a table. Needs timm and the counters."""

import contextlib
import io

import fvcore.nn
import ptflops
import thop
import timm
import torch
import torchinfo
from lightning_fabric.utilities.throughput import measure_flops
from torch.utils.flop_counter import FlopCounterMode

import biformer_mm.timm  # noqa: F401  (registers the models)
from biformer_mm.analysis.cost import make_counter
from biformer_mm.ops import set_default_backend

SHAPE = (3, 224, 224)


def by_mode(make_mode):
    """Count with a mode of PyTorch, for which a multiplication and an addition are two."""

    def count(model, images):
        with torch.no_grad(), make_mode() as mode:
            model(images)
        return mode.get_total_flops() // 2

    return count


def by_lightning(model, images):
    """Count as Lightning's throughput monitor does."""
    with torch.no_grad():
        return measure_flops(model, lambda: model(images)) // 2


def by_fvcore(model, images):
    """Count the ops of a traced graph."""
    analysis = fvcore.nn.FlopCountAnalysis(model, images)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.total()


def by_ptflops(backend):
    """Count layers and functions ('pytorch') or ops ('aten')."""

    def count(model, images):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it ignores
            counted, _ = ptflops.get_model_complexity_info(
                model, SHAPE, as_strings=False, print_per_layer_stat=False, backend=backend
            )
        return counted

    return count


def by_thop(model, images):
    """Count layers and functions."""
    return int(thop.profile(model, (images,), verbose=False)[0])


def by_torchinfo(model, images):
    """Count layers."""
    return torchinfo.summary(model, input_data=images, verbose=0).total_mult_adds


COUNTERS = {
    'biformer_mm `make_counter`': by_mode(make_counter),
    'torch `FlopCounterMode`': by_mode(lambda: FlopCounterMode(display=False)),
    'Lightning `measure_flops`': by_lightning,
    'fvcore `FlopCountAnalysis`': by_fvcore,
    "ptflops `backend='aten'`": by_ptflops('aten'),
    'thop `profile`': by_thop,
    "ptflops `backend='pytorch'`": by_ptflops('pytorch'),
    'torchinfo `summary`': by_torchinfo,
}


def count(name, counter, backend=None):
    """Return a counter's multiply-adds of a timm model for one image.

    Args:
        name: Name of the model.
        counter: A key of COUNTERS.
        backend: Backend of the attention; None for the default.
    """
    set_default_backend(backend)
    try:
        return COUNTERS[counter](timm.create_model(name).eval(), torch.zeros(1, *SHAPE))
    finally:
        set_default_backend(None)


if __name__ == '__main__':
    print("| multiply-adds, G | biformer_tiny | 'reference' | biformer_stl | 'reference' |")
    print('|---|---|---|---|---|')
    for counter in COUNTERS:
        counted = [
            count(name, counter, backend)
            for name in ('biformer_tiny', 'biformer_stl')
            for backend in (None, 'reference')
        ]
        print(f'| {counter} |', *(f'{number / 1e9:.3f} |' for number in counted))
