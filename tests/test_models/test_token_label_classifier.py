"""MixToken in the classifier: what is exchanged, and what stays as it was."""

import copy

import numpy as np
import pytest
import torch
from config_checks import build, load
from mmengine.utils import digit_version
from mmpretrain.structures import DataSample

SIDE, GRID = 128, 4


def model(**options):
    cfg = load('biformer_token_label_demo')
    cfg.model.backbone.update(options)
    return build(cfg)


def batch(n=4):
    torch.manual_seed(2)
    samples = []
    for label in range(n):
        sample = DataSample().set_gt_label(label % 4)
        scores = torch.randn(4, GRID, GRID).softmax(0)
        sample.set_field(scores, 'gt_token_scores', dtype=torch.Tensor)
        samples.append(sample)
    return torch.randn(n, 3, SIDE, SIDE), samples


def fix_box(monkeypatch, classifier, box):
    """Let the classifier draw this box of the last map."""
    top, bottom, left, right = box
    share = 1 - (bottom - top) * (right - left) / GRID**2
    monkeypatch.setattr(
        classifier._boxes, 'cutmix_bbox_and_lam', lambda grid, lam: (box, share), raising=True
    )
    return share


def gradients(classifier):
    return {name: x.grad.clone() for name, x in classifier.named_parameters() if x.grad is not None}


def step(classifier, inputs, samples):
    classifier.zero_grad()
    losses = classifier.loss(inputs, copy.deepcopy(samples))
    sum(losses.values()).backward()
    return {name: x.detach() for name, x in losses.items()}, gradients(classifier)


def test_embedded_tokens_in_the_box_come_from_the_other_image(monkeypatch):
    """The first block sees what the stem gives, with eight of its tokens to one of the last."""
    classifier = model()
    inputs, samples = batch()
    fix_box(monkeypatch, classifier, (1, 3, 0, 2))
    seen = []
    classifier.backbone.stages[0][0].register_forward_pre_hook(
        lambda block, args: seen.append(args[0])
    )
    classifier.loss(inputs, samples)
    tokens = classifier.backbone.stem(inputs).permute(0, 2, 3, 1)
    assert seen[0].shape[1:3] == (GRID * 8, GRID * 8)
    for n in range(len(inputs)):
        for i in range(GRID * 8):
            for j in range(GRID * 8):
                inside = 8 <= i < 24 and 0 <= j < 16
                source = tokens[len(inputs) - 1 - n if inside else n]
                torch.testing.assert_close(seen[0][n, i, j], source[i, j])


def test_whole_box_exchanges_the_images(monkeypatch):
    """All tokens are exchanged, and put back: the loss of the other order of images."""
    classifier = model()
    inputs, samples = batch()
    fix_box(monkeypatch, classifier, (0, GRID, 0, GRID))
    found, grads = step(classifier, inputs, samples)
    classifier.mix_token = False
    expected, plain = step(classifier, inputs, samples)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    for name in plain:
        torch.testing.assert_close(grads[name], plain[name], rtol=1e-3, atol=1e-5)


def test_empty_box_changes_nothing(monkeypatch):
    classifier = model()
    inputs, samples = batch()
    fix_box(monkeypatch, classifier, (2, 2, 1, 1))
    found, _ = step(classifier, inputs, samples)
    classifier.mix_token = False
    expected, _ = step(classifier, inputs, samples)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_boxes_are_drawn_as_cutmix_draws_them(monkeypatch):
    """On the grid of the labels; the share is that of the tokens outside, from a uniform one."""
    classifier, given = model(), []
    monkeypatch.setattr(classifier, 'extract_feat', lambda inputs: None)
    monkeypatch.setattr(
        classifier.head, 'loss', lambda feats, samples, box, share: given.append((box, share))
    )
    sample = DataSample()
    sample.set_field(torch.zeros(4, 14, 20), 'gt_token_scores', dtype=torch.Tensor)
    np.random.seed(0)
    for _ in range(300):
        classifier.loss(torch.zeros(1), [sample])
    shares = np.array([share for _, share in given])
    assert shares.min() < 0.3 and shares.max() == 1
    for (top, bottom, left, right), share in given:
        assert 0 <= top <= bottom <= 14 and 0 <= left <= right <= 20
        assert share == pytest.approx(1 - (bottom - top) * (right - left) / (14 * 20))


def test_mixing_ends_with_the_loss():
    classifier = model()
    inputs, samples = batch()
    classifier.loss(inputs, samples)
    assert not classifier.backbone.stem._forward_hooks
    with pytest.raises(ValueError):  # in the forward pass
        classifier.loss(inputs[:, :1], samples)
    assert not classifier.backbone.stem._forward_hooks


def test_recomputed_activations_have_the_same_gradients(monkeypatch):
    inputs, samples = batch()
    results = []
    for with_cp in (False, True):
        classifier = model(with_cp=with_cp)
        fix_box(monkeypatch, classifier, (0, 2, 1, 3))
        results.append(step(classifier, inputs, samples))
    for plain, recomputed in zip(*results):
        for name in plain:
            torch.testing.assert_close(recomputed[name], plain[name], rtol=1e-4, atol=1e-6)


def test_frozen_stages_stay_frozen():
    classifier = model(frozen_stages=1)
    before = copy.deepcopy(classifier.backbone.stem.state_dict())
    _, grads = step(classifier.train(), *batch())
    frozen = ('backbone.stem.', 'backbone.stages.0.')
    assert grads and not any(name.startswith(frozen) for name in grads)
    for name, value in classifier.backbone.stem.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'), reason='compiling needs PyTorch 2.6'
)
@pytest.mark.parametrize('whole', [False, True])
def test_compiled_models_mix_too(whole, monkeypatch):
    inputs, samples = batch()
    box = (1, 4, 0, 2)
    classifier = model()
    fix_box(monkeypatch, classifier, box)
    expected, _ = step(classifier, inputs, samples)
    compiled = model()
    fix_box(monkeypatch, compiled, box)
    if whole:
        compiled.loss = torch.compile(compiled.loss, backend='eager')
    else:
        compiled.backbone.compile_blocks(backend='eager')
    found, _ = step(compiled, inputs, samples)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_mixed_images_are_refused():
    cfg = load('biformer_token_label_demo')
    cfg.model.train_cfg = dict(augments=[dict(type='Mixup', alpha=0.8)])
    with pytest.raises(ValueError, match='train_cfg must be None'):
        build(cfg)
