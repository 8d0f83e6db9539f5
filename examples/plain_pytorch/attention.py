"""The attention as a layer, and the op beneath it. Needs PyTorch and einops."""

import torch

from biformer_mm.models import BiLevelRoutingAttention
from biformer_mm.ops import merge, partition, region_attention, routing_index

x = torch.randn(2, 56, 56, 64)  # (N, H, W, C)

# A layer. 'masked' ignores what pads a map that num_regions does not divide.
layer = BiLevelRoutingAttention(embed_dims=64, num_heads=2, num_regions=7, topk=4, padding='masked')
out = layer(x)
print('layer', tuple(out.shape))

# The op, for a layer of your own: cut maps of queries, keys and values into
# regions, choose each region's k others, attend, put the map together.
query, key, value = torch.nn.Linear(64, 3 * 64)(x).chunk(3, dim=-1)
query, key, value = (partition(map, 7) for map in (query, key, value))
index = routing_index(query, key, topk=4)
out = region_attention(query, key, value, index, num_heads=2, scale=32**-0.5)
print('op', tuple(merge(out).shape))
