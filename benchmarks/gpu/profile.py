"""The kernels of a training step and of an inference: profile.txt."""

from collections import defaultdict
from typing import Dict, List

import torch
from networks import make_step
from report import table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu.backbones import build_model
from gpu.step import Step

PROFILED = (('stl', 'training'), ('small', 'inference'))
SHOWN = 20


def run(step: Step) -> None:
    device = step.sizes.device
    file = step.folder / 'profile.txt'
    file.write_text('')
    for name, mode in PROFILED:
        with step.case(network=name, mode=mode) as row:
            network = step.sizes.networks[name]
            batch = network.cases[mode][2]
            images = torch.randn(batch, 3, *network.size, device=device)
            model = build_model(network, 'triton').to(device)
            work = make_step(model, mode, images, step.sizes.dtype)
            for _ in range(2):
                work()
            kernels = profiled(work, device)
            row['launches'] = sum(k['calls'] for k in kernels)
            row['device_ms'] = sum(k['ms'] for k in kernels)
            row['kernels'] = kernels[:SHOWN]
            with file.open('a') as stream:
                stream.write(f'{name}, {mode}, batch {batch}\n\n' + describe(row) + '\n\n')


def profiled(work, device: str) -> List[Dict]:
    """Kernels, copies and fills of a call, by time; on a CPU its functions."""
    activity, kind = ProfilerActivity.CPU, DeviceType.CPU
    if device == 'cuda':
        activity, kind = ProfilerActivity.CUDA, DeviceType.CUDA
    with profile(activities=[ProfilerActivity.CPU, activity]) as found:
        work()
        if device == 'cuda':
            torch.cuda.synchronize()
    times = defaultdict(list)
    for event in found.events():
        if event.device_type == kind:
            times[event.name].append(event.time_range.elapsed_us() / 1e3)
    if not times:
        raise RuntimeError('the profiler saw no kernel')
    kernels = [dict(name=name, calls=len(values), ms=sum(values)) for name, values in times.items()]
    return sorted(kernels, key=lambda kernel: -kernel['ms'])


def describe(row: Dict) -> str:
    return f'launches: {row["launches"]}, {row["device_ms"]:.2f} ms\n' + table(
        ['kernel', 'calls', 'ms'],
        [[k['name'][:90].replace('|', '/'), k['calls'], f'{k["ms"]:.3f}'] for k in row['kernels']],
    )


def lines(rows: List[Dict]) -> List[str]:
    """How many launches; the kernels are in profile.txt."""
    return [
        f'{row["network"]}, {row["mode"]}: {row["launches"]} launches, '
        f'{row["device_ms"]:.2f} ms of kernels'
        for row in rows
        if not row['error']
    ]
