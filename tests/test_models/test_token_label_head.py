"""The head of token labelling against loops over images and tokens."""

import math

import pytest
import torch
from mmpretrain.structures import DataSample

from biformer_mm.models.token_label_head import TokenLabelHead, swap_box

N, CHANNELS, CLASSES, HEIGHT, WIDTH = 3, 6, 5, 4, 3
BOX = (1, 3, 0, 2)  # top, bottom, left, right


def make(loss='LabelSmoothLoss', **options):
    torch.manual_seed(0)
    losses = dict(
        LabelSmoothLoss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        CrossEntropyLoss=dict(type='CrossEntropyLoss'),
    )
    return TokenLabelHead(CLASSES, CHANNELS, loss=losses[loss], **options)


def batch():
    torch.manual_seed(1)
    samples = []
    for label in range(N):
        sample = DataSample().set_gt_label(label)
        scores = torch.randn(CLASSES, HEIGHT, WIDTH).softmax(0)
        sample.set_field(scores, 'gt_token_scores', dtype=torch.Tensor)
        samples.append(sample)
    return torch.randn(N, CHANNELS, HEIGHT, WIDTH), samples


def linear(layer, token):
    """Logits in float64, as a list."""
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [sum(w * x for w, x in zip(row, token)) + b for row, b in zip(weight, bias)]


def cross_entropy(logits, target):
    total = math.log(sum(map(math.exp, logits)))
    return -sum(t * (x - total) for t, x in zip(target, logits))


def mean_token(image):
    return [sum(map(sum, channel)) / (HEIGHT * WIDTH) for channel in image]


@torch.no_grad()
@pytest.mark.parametrize('box, share', [(None, 1.0), (BOX, 1 - 4 / 12)])
@pytest.mark.parametrize('loss, smoothing', [('LabelSmoothLoss', 0.1), ('CrossEntropyLoss', 0.0)])
@pytest.mark.parametrize('token_weight', [0.5, 2.0])
def test_loss_is_that_of_a_loop(loss, smoothing, token_weight, box, share):
    head = make(loss, token_weight=token_weight)
    maps, samples = batch()
    found = head.loss((maps,), samples, box, share)

    image_loss = token_loss = 0.0
    images = maps.tolist()
    for n in range(N):
        own, other = int(samples[n].gt_label), int(samples[N - 1 - n].gt_label)
        target = [smoothing / CLASSES] * CLASSES
        target[own] += (1 - smoothing) * share
        target[other] += (1 - smoothing) * (1 - share)
        image_loss += cross_entropy(linear(head.fc, mean_token(images[n])), target) / N
        for i in range(HEIGHT):
            for j in range(WIDTH):
                inside = box is not None and 1 <= i < 3 and 0 <= j < 2
                image = images[N - 1 - n] if inside else images[n]
                token = [channel[i][j] for channel in image]
                label = samples[n].gt_token_scores[:, i, j].tolist()
                token_loss += cross_entropy(linear(head.aux_head, token), label)
    token_loss *= token_weight / (N * HEIGHT * WIDTH)
    assert sorted(found) == ['loss_image', 'loss_token']
    assert found['loss_image'].item() == pytest.approx(image_loss, rel=1e-5)
    assert found['loss_token'].item() == pytest.approx(token_loss, rel=1e-5)


@torch.no_grad()
def test_scores_are_the_image_and_half_the_best_token():
    head = make()
    maps, _ = batch()
    scores = head((torch.zeros(1), maps))  # the last map counts
    for found, image in zip(scores, maps.tolist()):
        tokens = [
            linear(head.aux_head, [channel[i][j] for channel in image])
            for i in range(HEIGHT)
            for j in range(WIDTH)
        ]
        expected = [
            x + 0.5 * max(best) for x, best in zip(linear(head.fc, mean_token(image)), zip(*tokens))
        ]
        assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_prediction_is_the_softmax_of_the_scores():
    head = make()
    maps, samples = batch()
    for sample, score in zip(head.predict((maps,), samples), head((maps,)).softmax(1)):
        assert torch.equal(sample.pred_score, score)
        assert sample.pred_label == score.argmax()


@pytest.mark.parametrize('n', [1, 2, 5])
def test_swapping_a_box_twice_changes_nothing(n):
    maps = torch.randn(n, CHANNELS, HEIGHT, WIDTH)
    swapped = swap_box(maps, BOX)
    for index in range(n):
        for i in range(HEIGHT):
            for j in range(WIDTH):
                inside = 1 <= i < 3 and 0 <= j < 2
                source = maps[n - 1 - index if inside else index]
                assert torch.equal(swapped[index, :, i, j], source[:, i, j])
    assert torch.equal(swap_box(swapped, BOX), maps)


def test_samples_without_labels_are_refused():
    head = make()
    maps, samples = batch()
    with pytest.raises(ValueError, match=r'\(5, 4, 3\) for \(5, 4, 2\)'):
        head.loss((maps[..., :2],), samples)
    del samples[1].gt_token_scores
    with pytest.raises(ValueError, match='must have gt_token_scores to train with; put LoadToken'):
        head.loss((maps,), samples)
