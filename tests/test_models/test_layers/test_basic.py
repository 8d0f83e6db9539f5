import pytest
import torch
from torch import nn

from biformer_mm.models.layers.basic import MLP, DepthwiseConv


@pytest.mark.parametrize('size', [1, 3, 5, 7])
def test_depthwise_conv_is_the_convolution_and_its_gradients(size):
    torch.manual_seed(0)
    conv = DepthwiseConv(4, size).double()
    expected = nn.Conv2d(4, 4, size, padding=size // 2, groups=4).double()
    expected.load_state_dict(conv.state_dict())
    x = torch.randn(2, 4, 5, 6, dtype=torch.double, requires_grad=True)
    out = conv(x)
    assert type(out.grad_fn).__name__ == '_DepthwiseConvBackward'
    dout = torch.randn_like(out)
    torch.testing.assert_close(out, expected(x))
    found = torch.autograd.grad(out, (x, *conv.parameters()), dout)
    wanted = torch.autograd.grad(expected(x), (x, *expected.parameters()), dout)
    for grad, right in zip(found, wanted):
        torch.testing.assert_close(grad, right)


@pytest.mark.parametrize(
    'layer, shape', [(DepthwiseConv(4, 5), (2, 4, 5, 6)), (MLP(4, 6), (2, 3, 4))]
)
def test_gradients_have_gradients(layer, shape):
    """As a penalty of gradients wants, whose loss need not be a function of
    the output: a backward pass that cannot must not pass for one."""
    torch.manual_seed(0)
    layer.double()
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)

    def gradient(x, *weights):
        return torch.autograd.grad(layer(x).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(gradient, (x, *layer.parameters()))


def test_depthwise_conv_under_autocast():
    """Computed in half precision; gradients have their tensors' dtypes."""
    torch.manual_seed(0)
    conv, x = DepthwiseConv(4, 5), torch.randn(2, 4, 5, 6, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    found = [x.grad, conv.weight.grad, conv.bias.grad]
    assert all(grad.dtype == torch.float32 for grad in found)
    wanted = torch.autograd.grad(nn.Conv2d.forward(conv, x).square().sum(), (x, *conv.parameters()))
    for grad, right in zip(found, wanted):
        assert (grad - right).norm() < 0.02 * right.norm()


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('autocast', [False, True])
def test_gradient_of_depthwise_conv_has_the_layout_of_the_weight(memory_format, autocast):
    """Also in the axis of size 1, which DDP compares."""
    conv = DepthwiseConv(4, 5).to(memory_format=memory_format)
    x = torch.randn(2, 5, 6, 4).permute(0, 3, 1, 2)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        out = conv(x)
    out.float().sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()


def test_depthwise_conv_gives_what_is_asked_for():
    conv, x = DepthwiseConv(4, 5), torch.randn(2, 4, 5, 6, requires_grad=True)
    conv.requires_grad_(False)
    conv(x).sum().backward()
    assert x.grad is not None and conv.weight.grad is None
    conv.requires_grad_(True)
    conv(x.detach()).sum().backward()
    assert conv.weight.grad is not None


def test_trace_of_depthwise_conv_holds_a_plain_convolution():
    trace = torch.jit.trace(DepthwiseConv(4, 5), torch.randn(1, 4, 5, 6))
    kinds = {node.kind() for node in trace.inlined_graph.nodes()}
    assert 'aten::_convolution' in kinds and 'prim::PythonOp' not in kinds


def run_mlp(mlp, x, plain):
    """Output and gradients; of each layer on its own, or together."""
    mlp.zero_grad()
    x = x.detach().requires_grad_()
    out = mlp.fc2(mlp.act(mlp.fc1(x))) if plain else mlp(x)
    (out.float() * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in mlp.parameters())]


def test_mlp_is_its_layers_and_their_gradients():
    torch.manual_seed(0)
    mlp, x = MLP(4, 12).double(), torch.randn(2, 3, 5, 4).double()
    for found, wanted in zip(run_mlp(mlp, x, plain=False), run_mlp(mlp, x, plain=True)):
        torch.testing.assert_close(found, wanted)


def test_mlp_under_autocast():
    torch.manual_seed(0)
    mlp, x = MLP(4, 12), torch.randn(2, 3, 5, 4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = run_mlp(mlp, x, plain=False)
        assert found[0].dtype == torch.bfloat16
    for grad, right in zip(found, run_mlp(mlp, x, plain=True)):
        assert (grad - right).norm() < 0.02 * right.norm()


def test_mlp_keeps_one_hidden_map():
    """GELU's output is not held for the backward pass."""
    mlp, kept = MLP(4, 12), set()

    def pack(x):
        if x.numel() == 2 * 3 * 5 * 12:
            kept.add(x.data_ptr())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        mlp(torch.randn(2, 3, 5, 4))
    assert len(kept) == 1


@pytest.mark.parametrize('name', ['fc2', 'act'])
@pytest.mark.parametrize(
    'hook', ['forward_hook', 'forward_pre_hook', 'full_backward_hook', 'full_backward_pre_hook']
)
def test_mlp_calls_hooks(name, hook):
    mlp, called = MLP(4, 12), []
    register = getattr(getattr(mlp, name), f'register_{hook}')
    register(lambda *_: called.append(name))
    mlp(torch.randn(2, 3, 5, 4)).sum().backward()
    assert called == [name]


@pytest.mark.parametrize(
    'name, layer',
    [
        ('fc2', nn.Sequential(nn.Linear(12, 4), nn.Tanh())),
        ('act', nn.ReLU()),
        ('act', nn.GELU(approximate='tanh')),
    ],
)
def test_mlp_calls_layers_that_were_replaced(name, layer):
    """Training and inference alike."""
    torch.manual_seed(0)
    mlp, x = MLP(4, 12).double(), 3 * torch.randn(2, 3, 5, 4).double()
    setattr(mlp, name, layer.double())
    for found, wanted in zip(run_mlp(mlp, x, plain=False), run_mlp(mlp, x, plain=True)):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
