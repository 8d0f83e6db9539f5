"""What training and testing refuse before anything starts, and what --allow lets through."""

import json
import shutil
import sys
from itertools import count

import cv2
import numpy as np
import pytest
import torch
from broken_data import annotations
from tool_runner import ROOT, load_module

CONFIGS = ROOT / 'configs'
DEMOS = {
    'coco': CONFIGS / 'retinanet_biformer_demo.py',
    'ade20k': CONFIGS / 'semantic_fpn_biformer_demo.py',
    'imagenet': CONFIGS / 'biformer_demo.py',
}


@pytest.fixture
def run(copy, monkeypatch, tmp_path, capfd):
    """Run a tool on a copy of a layout's data; give the text that it ends with, and its output."""
    monkeypatch.chdir(tmp_path)
    numbers = count()

    def call(tool, layout, *args, change=lambda root: None, options=(), allow=()):
        root = tmp_path / layout
        if not root.exists():
            copy(layout)
        change(root)
        evaluated = root / 'annotations' / 'instances_val.json'
        name = f'{tmp_path.name}_{next(numbers)}'  # MMEngine keeps loggers and the like by name
        found = [f'experiment_name={name}', f'visualizer.name={name}']
        found += [f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')]
        found += [
            f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')
        ]
        if layout == 'coco':
            found += [f'{split}_evaluator.ann_file={evaluated}' for split in ('val', 'test')]
        argv = [tool, DEMOS[layout], *args, '--work-dir', 'work_dir']
        argv += ['--allow', *allow] if allow else []
        argv += ['--cfg-options', *found, *options]
        monkeypatch.setattr(sys, 'argv', [str(arg) for arg in argv])
        try:
            load_module(ROOT / 'tools' / tool).main()
            end = None
        except SystemExit as error:
            end = error.code
        return end, capfd.readouterr().out

    return call


def corners(root):
    """Write boxes by their corners."""
    for split in ('train', 'val'):
        with annotations(root / 'annotations' / f'instances_{split}.json') as content:
            for annotation in content['annotations']:
                x, y, w, h = annotation['bbox']
                annotation['bbox'] = [x, y, x + w, y + h]


def repeat_objects(root):
    with annotations(root / 'annotations' / 'instances_train.json') as content:
        twins = [dict(a, id=a['id'] + 1000) for a in content['annotations']]
        content['annotations'] += twins


def rename_folder(root):
    (root / 'val' / 'star').rename(root / 'val' / 'Star')


def add_hidden_folder(root):
    hidden = root / 'val' / '.ipynb_checkpoints'
    hidden.mkdir()
    shutil.copy(next((root / 'val').glob('*/*.jpg')), hidden)


def reverse_categories(root):
    with annotations(root / 'annotations' / 'instances_val.json') as content:
        content['categories'].reverse()


def leave_one_class(root):
    """Draw only circles, in maps of 5 copies of each picture."""
    for folder in ('training', 'validation'):
        for path in sorted((root / 'annotations' / folder).glob('*.png')):
            drawn = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            for number in range(5):
                cv2.imwrite(str(path.with_name(f'{path.stem}_{number}.png')), np.ones_like(drawn))
                image = root / 'images' / folder / f'{path.stem}.jpg'
                shutil.copy(image, image.with_name(f'{path.stem}_{number}.jpg'))
            path.unlink()
            image.unlink()


def write_12_bits(root):
    """Keep the upper bits of 16 empty."""
    for path in (root / 'train').rglob('*.jpg'):
        image = cv2.imread(str(path)).astype(np.uint16) * 16
        path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


WRONG_DATA = [
    ('imagenet', write_12_bits, 'dark', 'so are all of 4 pictures that were looked at'),
    ('coco', corners, 'convention', 'fit as [x1, y1, x2, y2]'),
    ('coco', repeat_objects, 'many-objects-twice', 'one detection cannot match both'),
    ('coco', reverse_categories, 'category-order', 'must have the order of'),
    ('imagenet', rename_folder, 'split-folders', 'Star and star look like one class'),
    ('imagenet', add_hidden_folder, 'hidden-folder', 'a hidden folder holds no class'),
    ('ade20k', leave_one_class, 'only-one-class', 'must have two classes or more'),
]


@pytest.mark.parametrize('layout, change, rule, said', WRONG_DATA)
def test_training_refuses_wrong_data_and_leaves_nothing(layout, change, rule, said, run, tmp_path):
    end, _ = run('train.py', layout, change=change)
    assert end.startswith(f'train.py: error: {tmp_path}')
    assert said in end
    assert end.endswith(f'if this is meant: --allow {rule}')
    assert not (tmp_path / 'work_dir').exists()


WRONG_CONFIG = [
    ('coco', ['max_epochs=1'], 'option-without-effect', 'set train_cfg.max_epochs'),
    ('coco', ['optim_wrapper.optimizer.lr=0'], 'idle-optimizer', 'no weight ever changes'),
    (
        'coco',
        [f'optim_wrapper.paramwise_cfg.custom_keys.{p}.lr_mult=0' for p in ('bone', 'neck', 'box')],
        'all-frozen',
        'all rates are 0',
    ),
    (
        'coco',
        ['optim_wrapper.paramwise_cfg.custom_keys.bakbone.lr_mult=0.1'],
        'custom-keys',
        'custom_keys.bakbone: no parameter has this key in its name; did you mean backbone?',
    ),
    ('imagenet', ['model.head.num_classes=3'], 'label', '4 class folders, but the model has 3'),
]


@pytest.mark.parametrize('layout, options, rule, said', WRONG_CONFIG)
def test_training_refuses_wrong_configs_and_leaves_nothing(
    layout, options, rule, said, run, tmp_path
):
    end, _ = run('train.py', layout, options=options)
    assert said in end
    assert rule in end.rpartition('--allow ')[2].split()
    assert not (tmp_path / 'work_dir').exists()


def test_what_is_doubtful_is_warned_of(run):
    """Small objects, another size in the evaluation, and a file of the training there."""
    options = ['train_dataloader.dataset.pipeline.2.scale=(16,16)']
    options += ['val_dataloader.dataset.ann_file=annotations/instances_train.json']
    options += ['val_dataloader.dataset.data_prefix.img=train/']
    end, output = run('train.py', 'coco', options=options)
    assert end.endswith('--allow evaluator-file')
    for kind in ('small-after-resize', 'other-scale', 'same-data'):
        assert f'({kind})' in output


def test_no_workers_work_and_what_is_allowed_is_a_warning(run, tmp_path):
    end, output = run(
        'train.py',
        'imagenet',
        change=rename_folder,
        options=['train_cfg.max_epochs=1', 'train_cfg.val_interval=1'],
        allow=['split-folders'],
    )
    assert end is None
    assert 'Star and star look like one class' in output
    assert (tmp_path / 'work_dir' / 'epoch_1.pth').exists()


SHORT = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']


@pytest.mark.slow
@pytest.mark.parametrize(
    'layout, regions', [('coco', 4), ('ade20k', 16), ('imagenet', 8)], ids=['det', 'seg', 'cls']
)
def test_a_test_warns_of_another_config_than_the_trained_one(layout, regions, run, tmp_path):
    end, output = run('train.py', layout, options=SHORT)
    assert end is None
    path = tmp_path / 'work_dir' / 'epoch_1.pth'
    _, output = run('test.py', layout, path)
    assert 'was trained with' not in output
    changed = [f'model.backbone.num_regions={regions}', 'model.backbone.attn_backend=reference']
    _, output = run('test.py', layout, path, options=changed)
    line = next(line for line in output.splitlines() if 'was trained with' in line)
    assert f'{path}: was trained with model.backbone.num_regions=' in line
    assert line.count('(here') == 1
    assert f'(here {regions})' in line


@pytest.mark.slow
def test_a_resumed_training_needs_its_averages_and_follows_the_config(run, tmp_path):
    averaged = [*SHORT, 'default_hooks.ema.type=EMAHook']
    end, output = run('train.py', 'imagenet', options=averaged)
    assert end is None
    assert '% of what EMAHook evaluates and saves are still the weights of the start' in output
    path = tmp_path / 'work_dir' / 'epoch_1.pth'
    end, _ = run('train.py', 'imagenet', '--resume', path)
    assert end.startswith(f'train.py: error: {path}: its weights are the averages of an EMAHook')
    averaged.append('optim_wrapper.optimizer.weight_decay=0.25')
    end, output = run('train.py', 'imagenet', '--resume', path, options=averaged)
    assert end is None
    assert "-> 0.25: the config's optimiser settings differ" in output


def test_a_training_refuses_weights_of_which_none_fits(run, checkpoints, tmp_path):
    weights = torch.load(checkpoints['cls'], weights_only=False)['state_dict']
    bare = {name.partition('.')[2]: value for name, value in weights.items()}
    torch.save(bare, tmp_path / 'bare.pth')
    end, _ = run('train.py', 'imagenet', options=['load_from=bare.pth'])
    assert end.startswith('train.py: error: bare.pth: a name and shape must fit the model')
    assert "its names fit with 'backbone.' before them" in end
    assert not (tmp_path / 'work_dir').exists()


def test_an_evaluator_must_read_the_file_of_its_data_set(run, checkpoints, tmp_path):
    other = tmp_path / 'coco' / 'annotations' / 'instances_train.json'
    end, _ = run(
        'test.py', 'coco', checkpoints['det'], options=[f'test_evaluator.ann_file={other}']
    )
    assert end.startswith(f'test.py: error: test_evaluator.ann_file: is {other}, and must be')
    assert f'test_dataloader.dataset.ann_file={other.with_name("instances_val.json")}' in end


def test_a_checkpoint_must_have_the_classes_of_the_data(run, checkpoints, tmp_path):
    content = torch.load(checkpoints['cls'], weights_only=False)
    content['meta']['dataset_meta']['classes'] = ('circle', 'star', 'square', 'triangle')
    torch.save(content, tmp_path / 'other.pth')
    end, _ = run('test.py', 'imagenet', 'other.pth')
    assert end.startswith('test.py: error: other.pth: was trained on other classes than')
    assert end.endswith('--allow checkpoint-classes')


def test_a_test_without_detections_is_warned_of(run, checkpoints):
    end, output = run(
        'test.py', 'coco', checkpoints['det'], options=['model.test_cfg.score_thr=0.9999']
    )
    assert end is None
    assert 'test_evaluator: there must be detections to evaluate' in output
    assert 'a threshold must be at most 0.1' in output


def test_ids_from_0_and_part_of_the_images_score_right(run, checkpoints, tmp_path):
    """pycocotools reads the id 0 as no match, and counts images that are not run as missed."""

    def scores(change, *options):
        end, output = run('test.py', 'coco', checkpoints['det'], change=change, options=options)
        assert end is None
        return [line.partition('bbox_mAP: ')[2][:6] for line in output.splitlines()][-1]

    def first_image_only(root):
        with annotations(root / 'annotations' / 'instances_val.json') as content:
            first = content['images'][0]['id']
            content['images'] = content['images'][:1]
            content['annotations'] = [a for a in content['annotations'] if a['image_id'] == first]
            for number, annotation in enumerate(content['annotations']):
                annotation['id'] = 1 + number

    def from_0(root):
        path = root / 'annotations' / 'instances_val.json'
        content = json.loads(path.read_text())
        for number, annotation in enumerate(content['annotations']):
            annotation['id'] = number
        path.write_text(json.dumps(content))

    part = scores(from_0, 'test_dataloader.dataset.indices=1')
    assert part == scores(first_image_only)
