from importlib import import_module
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from biformer_mm.datasets.checks.problems import KINDS
from biformer_mm.engine.config_rules.tta import check_tta

LOAD, ANNOTATIONS = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
RESIZE, PACK = dict(type='Resize', scale=(512, 256), keep_ratio=True), dict(type='PackSegInputs')
FLIPS = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]


def found(*pipeline, head=None, tta_model='SegTTAModel', tested=(LOAD, RESIZE, ANNOTATIONS, PACK)):
    cfg = Config(
        dict(
            model=dict(decode_head=head or dict(num_classes=3)),
            tta_model=dict(type=tta_model),
            tta_pipeline=list(pipeline) or None,
            test_dataloader=dict(dataset=dict(dataset=dict(pipeline=list(tested)))),
        )
    )
    return [problem.kind for problem in check_tta(cfg)]


def augment(*transforms):
    return dict(type='TestTimeAug', transforms=list(transforms))


def test_mmsegs_own_order_is_right():
    assert found(LOAD, augment([RESIZE], FLIPS[::-1], [ANNOTATIONS], [PACK])) == []


def test_flipped_truth():
    for before in ([LOAD, ANNOTATIONS], [ANNOTATIONS, LOAD, RESIZE]):
        assert 'tta-truth' in found(*before, augment([RESIZE], FLIPS[::-1], [PACK]))
    assert found(LOAD, augment([RESIZE], [ANNOTATIONS], FLIPS[::-1], [PACK])) == ['tta-truth']
    random = dict(type='mmseg.RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical'])
    assert found(LOAD, RESIZE, ANNOTATIONS, random, augment([PACK])) == ['tta-truth']
    assert KINDS['tta-truth'] == 'error'


def test_truth_of_the_first_image_that_is_not_flipped():
    """SegTTAModel takes no other."""
    assert found(LOAD, RESIZE, ANNOTATIONS, augment(FLIPS, [PACK])) == []


def test_other_tta_models_may_flip_back():
    pipeline = [LOAD, RESIZE, ANNOTATIONS, augment(FLIPS[::-1], [PACK])]
    assert found(*pipeline, tta_model='DetTTAModel') == []
    assert found(*pipeline, tta_model='MySegTTAModel') == []


@pytest.mark.parametrize(
    'head, kinds',
    [
        (dict(num_classes=2, out_channels=1), ['tta-sigmoid']),
        (dict(num_classes=1), ['tta-sigmoid']),
        ([dict(num_classes=2), dict(num_classes=2, out_channels=1)], ['tta-sigmoid']),
        ([dict(num_classes=2, out_channels=1), dict(num_classes=2)], []),
        (dict(num_classes=2), []),
        (dict(num_classes=2, out_channels=None), []),
    ],
)
def test_one_output_channel(head, kinds):
    assert found(head=head) == kinds
    assert found(head=head, tta_model='MySegTTAModel') == []


def scaled(folder, size, tested, augmented):
    """What is found for an image of a size, and the Resize steps of test and augmentation."""
    (folder / 'img').mkdir()
    Image.new('RGB', size).save(folder / 'img' / 'a.png')
    steps = [
        [dict(type='Resize', keep_ratio=True, **options) for options in each]
        for each in (tested, augmented)
    ]
    dataset = dict(
        pipeline=[LOAD, *steps[0], PACK],
        data_root=str(folder),
        data_prefix=dict(img_path='img', seg_map_path='map'),
    )
    cfg = dict(test_dataloader=dict(dataset=dataset), tta_pipeline=[LOAD])
    cfg['tta_pipeline'] += [augment(steps[1], FLIPS, [PACK])] if steps[1] else []
    return list(check_tta(Config(cfg)))


FACTORS = [dict(scale_factor=0.5), dict(scale_factor=1.0), dict(scale_factor=1.75)]


@pytest.mark.parametrize(
    'size, tested, augmented',
    [
        # of mmseg: ADE20K, Cityscapes
        ((683, 512), [dict(scale=(2048, 512))], FACTORS),
        ((512, 683), [dict(scale=(2048, 512))], FACTORS),
        ((2048, 1024), [dict(scale=(2048, 1024))], FACTORS),
        # of mmdet
        ((640, 480), [dict(scale=(1333, 800))], [dict(scale=(1333, 800)), dict(scale=(666, 400))]),
        ((640, 480), [dict(scale=512)], [dict(scale=(512, 2048))]),
        ((64, 48), [], []),
        ((64, 48), [], FACTORS),
        ((64, 48), [dict(scale_factor=(1.5, 1.5))], FACTORS),
    ],
)
def test_scales_around_that_of_the_test(size, tested, augmented, tmp_path):
    assert scaled(tmp_path, size, tested, augmented) == []


@pytest.mark.parametrize(
    'size, tested, augmented, factors',
    [
        ((4000, 3000), [dict(scale=(512, 512))], FACTORS, [' 0.5 to 1.8 times', ' 0.13 times']),
        ((64, 48), [], [dict(scale=(640, 480))], ['at 10 times', ' 1 times']),
        ((64, 48), [dict(scale=(256, 192))], [], ['at 1 times', ' 4 times']),
    ],
)
def test_another_scale_than_that_of_the_test(size, tested, augmented, factors, tmp_path):
    (problem,) = scaled(tmp_path, size, tested, augmented)
    assert problem.kind == 'tta-scale'
    assert all(text in problem.detail for text in factors)


def test_the_flips_that_are_set_by_default_are_fine():
    assert found() == []


def configs_of(package):
    return Path(import_module(package).__file__).parent / '.mim' / 'configs'


def test_the_data_sets_of_mmseg_are_fine():
    files = sorted((configs_of('mmseg') / '_base_' / 'datasets').glob('*.py'))
    augmented = [cfg for cfg in map(Config.fromfile, files) if 'tta_pipeline' in cfg]
    assert len(augmented) > 20
    for cfg in augmented:
        cfg.tta_model = dict(type='SegTTAModel')
        assert list(check_tta(cfg)) == [], cfg.filename


def test_mmdets_own_augmentation_is_fine():
    folder = configs_of('mmdet') / 'retinanet'
    cfg = Config.fromfile(folder / 'retinanet_r50_fpn_1x_coco.py')
    cfg.merge_from_dict(Config.fromfile(folder / 'retinanet_tta.py').to_dict())
    assert list(check_tta(cfg)) == []
