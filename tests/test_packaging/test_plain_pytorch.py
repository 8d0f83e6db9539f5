"""The models where nothing of OpenMMLab is installed."""

import golden
import torch
from plain_runner import run_without_openmmlab

from biformer_mm.models import BiFormer, BRAPlugin


def test_hidden_means_hidden(tmp_path):
    output = run_without_openmmlab(
        """
try:
    import mmengine
except ModuleNotFoundError as error:
    print(error)
""",
        cwd=tmp_path,
    )
    assert output == "No module named 'mmengine'\n"


def test_layer_is_the_authors(tmp_path):
    """Released weights, by the released names, give the released outputs."""
    arrays = golden.load('bra_padded')
    torch.save(
        dict(
            x=arrays['x'],
            state=golden.section(arrays, 'state'),
            settings=[arrays[k].item() for k in ('num_heads', 'n_win', 'topk')],
        ),
        tmp_path / 'layer.pth',
    )
    run_without_openmmlab(
        """
from biformer_mm.checkpoint import convert_state_dict
from biformer_mm.models.layers.attention import BiLevelRoutingAttention
given = torch.load('layer.pth')
x = given['x'].requires_grad_()
layer = BiLevelRoutingAttention(x.shape[3], *given['settings'])
layer.load_state_dict(convert_state_dict(given['state']))
out = layer(x)
weights = torch.sin(
    0.37 * torch.arange(out.numel(), dtype=torch.float64)).float()
(out * weights.view(out.shape)).sum().backward()
torch.save((out.detach(), x.grad), 'out.pth')
""",
        cwd=tmp_path,
    )
    out, grad = torch.load(tmp_path / 'out.pth')
    golden.assert_close(out, arrays['out'], golden.OUT_RTOL, 'out')
    golden.assert_close(grad, arrays['grad_x'], golden.GRAD_RTOL, 'grad_x')


def test_network_is_the_registered_one(tmp_path):
    """The same weights from the same seed, the same outputs."""
    output = run_without_openmmlab(
        """
import biformer_mm
from biformer_mm.models import BRAPlugin, BiFormer
torch.manual_seed(0)
model = torch.nn.Sequential(BRAPlugin(3, head_dim=1), BiFormer('tiny')).eval()
x = torch.randn(1, 3, 64, 96)
torch.save((model.state_dict(), x, model(x)), 'out.pth')
model[1].init_weights()
print(biformer_mm.__version__)
""",
        cwd=tmp_path,
    )
    assert output.strip()
    state, x, outs = torch.load(tmp_path / 'out.pth')
    torch.manual_seed(0)
    model = torch.nn.Sequential(BRAPlugin(3, head_dim=1), BiFormer('tiny')).eval()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
    for found, expected in zip(outs, model(x)):
        torch.testing.assert_close(found, expected)


def test_what_needs_mmengine_says_so(tmp_path):
    output = run_without_openmmlab(
        """
import biformer_mm
from biformer_mm.models import BiFormer
try:
    BiFormer(init_cfg=dict(type='Pretrained', checkpoint='x.pth'))
except ModuleNotFoundError as error:
    print(error)
try:
    import biformer_mm.utils.packages
except ModuleNotFoundError as error:
    print(error)
""",
        cwd=tmp_path,
    )
    init, engine = output.splitlines()
    assert init == (
        'init_cfg is carried out by MMEngine, which is not installed: install '
        'it, or leave init_cfg out and use load_state_dict; got '
        "init_cfg={'type': 'Pretrained', 'checkpoint': 'x.pth'}"
    )
    assert engine == "No module named 'mmengine'"
