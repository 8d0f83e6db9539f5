"""Small backbones to export, and onnxruntime's results."""

import torch

from biformer_mm.models import BiFormer

ARCH = dict(
    embed_dims=(16, 32, 32, 32),
    depths=(1, 1, 1, 1),
    topks=(1, 2, 4, None),
    mlp_ratio=2,
    head_dim=16,
    stem='conv',
    pos_conv=True,
)


def make(num_regions=3, stages=4, **options):
    torch.manual_seed(0)
    arch = dict(ARCH, **{name: ARCH[name][-stages:] for name in ('embed_dims', 'depths', 'topks')})
    return BiFormer(arch, num_regions=num_regions, out_indices=range(stages), **options).eval()


def run_file(path, images):
    """onnxruntime's outputs, as tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return [torch.from_numpy(x) for x in session.run(None, {'image': images.numpy()})]
