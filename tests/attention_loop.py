"""Attention token by token, which the layers of biformer_mm.models.layers are held against."""

from itertools import product

import torch
from torch.testing import assert_close


def attend_by_loop(layer, x, sees, bias=None, value=None):
    """Project, attend and do not project the result.

    Args:
        layer: A layer with `qkv` and `num_heads`.
        x: Map, (N, H, W, C).
        sees: Whether a token, (row, column), attends to another.
        bias: What is added to the scores of a pair of tokens, (m,).
        value: What is summed instead of the projected values, (N, H, W, C).

    Returns:
        (N, H, W, C).
    """
    n, height, width, channels = x.shape
    query, key, projected = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1)).unbind(3)
    value = projected if value is None else value.view_as(projected)
    scale = (channels // layer.num_heads) ** -0.5
    rows = []
    tokens = list(product(range(height), range(width)))
    for at in tokens:
        seen = [to for to in tokens if sees(at, to)]
        keys = torch.stack([key[:, i, j] for i, j in seen], dim=1)  # (N, T, m, d)
        values = torch.stack([value[:, i, j] for i, j in seen], dim=1)
        scores = (query[:, at[0], at[1]][:, None] * keys).sum(-1) * scale  # (N, T, m)
        if bias is not None:
            scores = scores + torch.stack([bias(at, to) for to in seen])
        rows.append((scores.softmax(1)[..., None] * values).sum(1).flatten(1))
    return torch.stack(rows, dim=1).view(n, height, width, channels)


def assert_equal_with_gradients(layer, function, x):
    """Hold a layer's output and the gradients of input and parameters against a function."""
    results = []
    for f in (layer, function):
        x = x.detach().requires_grad_()
        layer.zero_grad()
        out = f(x)
        torch.manual_seed(1)
        out.backward(torch.randn_like(out))
        gradients = {name: p.grad for name, p in layer.named_parameters()}
        results.append((out.detach(), x.grad, gradients))
    assert_close(*results)
    assert all(g is not None for g in results[0][2].values())
