"""Against plain PyTorch in fp64: natively on a GPU, through Triton's interpreter elsewhere."""

import pytest
import torch
from fused_cases import ATTENTIONS, DEVICE, DTYPES, assert_right, attention_case

pytest.importorskip('triton', minversion='3.0')


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', ATTENTIONS)
def test_attention_with_lce(case, dtype):
    if dtype == torch.bfloat16 and DEVICE == 'cpu':
        pytest.skip("Triton's interpreter has no bf16 products")
    assert_right('attention_with_lce', attention_case(ATTENTIONS[case]), dtype)
