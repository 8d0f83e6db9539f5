"""Implementations of the ops.

Backends of ``region_attention``, which ``dispatch.py`` chooses from:

- ``reference``: the specification, in fp32 or fp64.
- ``sdpa``: PyTorch's fused attention after a gather.
- ``portable``: a gather and products that every exporter and runtime knows, for traced graphs.
- ``cpu``: ``cpu_dense`` or ``cpu_chunked``, both on ``cpu_flash``.
- ``triton``: fused kernels for GPUs, in ``triton_kernels`` and ``triton_map``; ``triton_config``
  chooses their tiles.

Other ops of a block, which ``fused.py`` offers, have a reference in ``block_reference`` and
kernels in ``triton_depthwise``, ``triton_layer_norm``, ``triton_lce`` and ``triton_routing``;
``triton_block`` says where these run.
"""
