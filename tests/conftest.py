import os

import torch

if not torch.cuda.is_available():
    # Triton reads it when the kernels are defined, on import of the ops.
    os.environ.setdefault('TRITON_INTERPRET', '1')
