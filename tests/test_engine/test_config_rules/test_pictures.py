import pytest
from rule_checks import CLASSIFIER, DETECTOR, SEGMENTOR, assert_one_line, found, problems

LOADING = 'train_dataloader.dataset.pipeline.0'
IMAGENET = {
    'data_preprocessor.mean': [0.485, 0.456, 0.406],
    'data_preprocessor.std': [0.229, 0.224, 0.225],
}
CHANNELS = {('channels', 'model.backbone.in_channels')}


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        (CLASSIFIER, {'model.backbone.in_channels': 4}),
        (SEGMENTOR, {'model.backbone.in_channels': 1}),
        (
            CLASSIFIER,
            {
                f'{LOADING}.color_type': 'grayscale',
                'data_preprocessor.mean': [120],
                'data_preprocessor.std': [60],
            },
        ),
    ],
)
def test_other_channels_than_the_backbones_are_found(name, changes):
    assert found(name, changes) == CHANNELS
    [problem] = problems(name, changes)
    assert_one_line(problem)


@pytest.mark.parametrize(
    'changes',
    [
        {f'{LOADING}.color_type': 'unchanged', 'model.backbone.in_channels': 4},
        # a mean of three values makes three channels of one
        {f'{LOADING}.color_type': 'grayscale'},
        {f'{LOADING}.type': 'LoadImageFromNpyFile', 'model.backbone.in_channels': 25},
        {f'{LOADING}.type': 'MyLoading', 'model.backbone.in_channels': 25},
        {f'{LOADING}.imdecode_backend': 'tifffile', 'model.backbone.in_channels': 4},
    ],
)
def test_channels_that_may_fit_are_allowed(changes):
    changes = {
        k.replace('train', split): v for split in ('train', 'val') for k, v in changes.items()
    }
    assert not problems(SEGMENTOR, changes)


def test_one_channel_throughout_is_allowed():
    changes = {
        f'{s}_dataloader.dataset.pipeline.0.color_type': 'grayscale' for s in ('train', 'val')
    }
    changes['model.backbone.in_channels'] = 1
    changes['data_preprocessor.mean'], changes['data_preprocessor.std'] = [120], [60]
    assert not problems(CLASSIFIER, changes)


def test_the_deviation_of_pictures_in_0_to_1_is_found():
    [problem] = problems(CLASSIFIER, IMAGENET)
    assert (problem.kind, problem.file) == ('normalisation', 'data_preprocessor.std')
    # The values that ImageNet's configs have.
    assert 'mean=(123.67,116.28,103.53)' in problem.detail.replace('123.68', '123.67')
    assert 'std=(58.395,57.12,57.375)' in problem.detail
    assert_one_line(problem)
    [problem] = problems(CLASSIFIER, {'data_preprocessor.std': [0.2, 0.2, 0.2]})
    assert problem.detail.endswith('set "data_preprocessor.std=(51,51,51)"')  # the mean is right


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Normalize', mean=[0, 0, 0], std=[255, 255, 255]),
        dict(type='torchvision/ToTensor'),
        dict(type='MyScaling'),
    ],
)
def test_a_step_that_divides_by_255_is_allowed(step):
    changes = dict(IMAGENET)
    for split in ('train', 'val'):
        changes[f'{split}_dataloader.dataset.pipeline'] = [
            dict(type='LoadImageFromFile'),
            step,
            dict(type='PackInputs'),
        ]
    assert not problems(CLASSIFIER, changes)


def test_normalising_twice_is_found():
    step = dict(type='Normalize', mean=[120, 120, 120], std=[60, 60, 60])
    key = 'val_dataloader.dataset.pipeline.1'
    assert found(DETECTOR, {key: step}) == {('normalisation', key)}
    no_mean = {'model.data_preprocessor.mean': None, 'model.data_preprocessor.std': None}
    assert not problems(DETECTOR, {key: step, **no_mean})


def test_a_training_that_is_not_shuffled_is_warned_of():
    key = 'train_dataloader.sampler.shuffle'
    [problem] = problems(CLASSIFIER, {key: False})
    assert (problem.kind, problem.file, problem.severity) == ('not-shuffled', key, 'warning')
    assert not problems(CLASSIFIER, {key: False}, splits=['test'])
