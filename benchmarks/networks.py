"""BiFormer and the networks beside it, ready to be timed."""

import ast
import re
from typing import Callable, Dict, List, Tuple

import torch
from measure import DTYPES
from torch import Tensor, nn


class Maps(nn.Module):
    """A timm network's four maps as detectors want them: normed, NCHW."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in model.feature_info.channels())

    def forward(self, x: Tensor) -> List[Tensor]:
        # mmdet's Swin pads within, timm's insists on whole patches.
        x = nn.functional.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        maps = []
        for y, norm in zip(self.model(x), self.norms):
            if y.shape[-1] != norm.normalized_shape[0]:
                y = y.permute(0, 2, 3, 1)
            maps.append(norm(y).permute(0, 3, 1, 2).contiguous())
        return maps


class Classifier(nn.Module):
    """A backbone's last map -> its mean -> 1000 logits."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> List[Tensor]:
        return [self.head(self.backbone(x)[-1].mean(dim=(2, 3)))]


def build(spec: str, preset: str, size: Tuple[int, int]) -> nn.Module:
    """Build LIBRARY:NAME[,KEY=VALUE...], e.g. ``mmdet:ResNet,depth=50``.

    Stochastic depth is off.

    Args:
        spec: The library is 'biformer', 'mmdet' or 'timm'.
        preset: 'detection' gives four maps, others 1000 logits.
        size: Of the images, (H, W).

    Raises:
        SystemExit: The library or the name is unknown.
    """
    name, *pairs = re.split(r',(?=\w+=)', spec)
    library, _, name = name.partition(':')
    options = dict(pair.split('=', 1) for pair in pairs)
    options = {key: _literal(value) for key, value in options.items()}
    if library == 'timm':
        model = _build_timm(name, preset, size, options)
    else:
        model = _build_registered(library, name, preset, options)
    for module in model.modules():
        if type(module).__name__ == 'DropPath':
            # Ours, or mmcv's and timm's.
            key = 'rate' if hasattr(module, 'rate') else 'drop_prob'
            setattr(module, key, 0.0)
    return model


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _build_timm(name: str, preset: str, size: Tuple[int, int], options: Dict) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise SystemExit(f'error: timm has no model named {name!r}')
    if preset != 'detection':
        return _AsList(timm.create_model(name, **options))
    if 'swin' in name:  # its masks are made for one size
        options.setdefault('img_size', tuple(x + -x % 4 for x in size))
    return Maps(timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3), **options))


class _AsList(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> List[Tensor]:
        return [self.model(x)]


def _build_registered(library: str, name: str, preset: str, options: Dict) -> nn.Module:
    detection = preset == 'detection'
    options.setdefault('out_indices', (0, 1, 2, 3) if detection else (3,))
    if library == 'biformer':
        from biformer_mm.models import BiFormer
        from biformer_mm.models.backbones.arch import ARCHS, parse_arch

        options.setdefault('out_norm', 'LN' if detection else 'BN')
        options.setdefault('arch', name)
        if 'attention' in options:
            arch = ARCHS[name] if options['arch'] == name else options['arch']
            options['arch'] = dict(arch, attention=options.pop('attention'))
        backbone = BiFormer(**options)
        # It may run only on a GPU, and is not there yet.
        channels = parse_arch(options['arch'])['embed_dims'][-1]
    else:
        import mmdet.models.backbones as backbones

        if not hasattr(backbones, name):
            raise SystemExit(
                f'error: mmdet has no backbone {name!r}; it has {", ".join(backbones.__all__)}'
            )
        backbone = getattr(backbones, name)(**options)
        if not detection:
            with torch.no_grad():
                backbone.eval()
                channels = backbone(torch.zeros(1, 3, 64, 64))[-1].shape[1]
    return backbone if detection else Classifier(backbone, channels)


def make_step(
    model: nn.Module, mode: str, images: Tensor, dtype: str, compile: bool = False
) -> Callable[[], None]:
    """The function to be timed.

    Args:
        model: Returns a list of tensors.
        mode: 'inference' or 'training'.
        images: (N, 3, H, W), on the model's device.
        dtype: Of autocast; 'fp32' is none.
        compile: Whether torch.compile comes first.
    """
    model.train(mode == 'training')
    run = torch.compile(model) if compile else model
    autocast = dict(
        device_type=images.device.type,
        dtype=None if dtype == 'fp32' else DTYPES[dtype],
        enabled=dtype != 'fp32',
    )

    def infer() -> None:
        with torch.no_grad(), torch.autocast(**autocast):
            run(images)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(**autocast):
            maps = run(images)
        if not gradients:
            gradients.extend(torch.randn_like(x) / x.numel() for x in maps)
        torch.autograd.backward(maps, gradients)

    gradients = []
    return train if mode == 'training' else infer
