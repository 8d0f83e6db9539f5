"""Inference for people, on random weights and small images."""

import json
import os
import sys

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain import ImageClassificationInferencer
from mmseg.apis import MMSegInferencer
from PIL import Image
from pycocotools import mask as rle
from random_models import CONFIGS
from tool_runner import ROOT, load_module, run_tool

from biformer_mm.apis import inference
from biformer_mm.datasets import make_scene, scene_rng
from biformer_mm.datasets.reading import PictureReader

SIZE = 96


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture(scope='module')
def tool():
    """The tool as a module."""
    return load_module(ROOT / 'tools' / 'infer.py')


@pytest.fixture
def call(tool, monkeypatch):
    """Call the tool in this process."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['infer.py', *map(str, args)])
        tool.main()

    return call


@pytest.fixture
def options(checkpoints):
    """The arguments that choose a model."""

    def options(task):
        return (
            '--config',
            ROOT / 'configs' / f'{CONFIGS[task]}.py',
            '--checkpoint',
            checkpoints[task],
            '--device',
            'cpu',
        )

    return options


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'photo.png'
    cv2.imwrite(str(path), make_scene(scene_rng(0, 'val', 0), SIZE).image)
    return path


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def files(folder):
    """All files below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize('task', ['det', 'mask'])
def test_detection(task, call, options, image, checkpoints, tmp_path):
    out = tmp_path / 'out'
    call(image, *options(task), '--out', out, '--score-thr', 0.2)
    assert files(out) == ['photo.png.json', 'photo.png.overlay.jpg']
    result = read(out / 'photo.png.json')
    instances = result.pop('instances')
    assert result == dict(source=str(image), task='detection', width=SIZE, height=SIZE)

    inferencer = DetInferencer(
        str(ROOT / 'configs' / f'{CONFIGS[task]}.py'), weights=str(checkpoints[task]), device='cpu'
    )
    (sample,) = inferencer(str(image), return_datasamples=True)['predictions']
    expected = sample.pred_instances
    expected = expected[expected.scores >= 0.2]
    assert 0 < len(expected) == len(instances)
    np.testing.assert_allclose([i['score'] for i in instances], expected.scores, atol=1e-4)
    np.testing.assert_allclose([i['box'] for i in instances], expected.bboxes, atol=0.02)
    assert [i['label'] for i in instances] == expected.labels.tolist()
    assert all(i['class'] == f'kind {i["label"]}' for i in instances)
    if task == 'mask':
        masks = rle.decode([i['mask'] for i in instances])
        assert masks.shape == (SIZE, SIZE, len(instances))
        np.testing.assert_array_equal(masks.transpose(2, 0, 1), expected.masks.numpy())
    else:
        assert not any('mask' in i for i in instances)


def test_segmentation(call, options, image, checkpoints, tmp_path):
    out = tmp_path / 'out'
    call(image, *options('seg'), '--out', out)
    assert files(out) == ['photo.png.json', 'photo.png.labels.png', 'photo.png.overlay.jpg']
    result = read(out / 'photo.png.json')
    label_map = cv2.imread(str(out / result['label_map']), cv2.IMREAD_UNCHANGED)
    inferencer = MMSegInferencer(
        str(ROOT / 'configs' / f'{CONFIGS["seg"]}.py'),
        weights=str(checkpoints['seg']),
        device='cpu',
    )
    expected = inferencer(str(image))['predictions']
    np.testing.assert_array_equal(label_map, expected)
    assert len(np.unique(expected)) > 1
    assert result['classes'] == [
        {'label': label, 'class': f'kind {label}', 'pixels': int((expected == label).sum())}
        for label in range(5)
        if (expected == label).any()
    ]


def test_classification(call, options, image, checkpoints, tmp_path):
    out = tmp_path / 'out'
    call(image, *options('cls'), '--out', out)
    classes = read(out / 'photo.png.json')['classes']
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inferencer = ImageClassificationInferencer(
            str(ROOT / 'configs' / f'{CONFIGS["cls"]}.py'),
            pretrained=str(checkpoints['cls']),
            device='cpu',
        )
    expected = inferencer(str(image))[0]['pred_scores']
    order = np.argsort(-expected)
    assert [c['label'] for c in classes] == order.tolist()
    assert [c['class'] for c in classes] == [f'kind {i}' for i in order]
    np.testing.assert_allclose([c['score'] for c in classes], expected[order], atol=1e-4)


def test_threshold_applies_to_json_and_picture(call, options, image, tmp_path):
    for out, threshold in (('all', 0), ('none', 1)):
        call(
            image,
            *options('mask'),
            '--out',
            tmp_path / out,
            '--score-thr',
            threshold,
            '--cfg-options',
            'model.test_cfg.rcnn.max_per_img=5',
        )
    assert len(read(tmp_path / 'all' / 'photo.png.json')['instances']) == 5
    assert read(tmp_path / 'none' / 'photo.png.json')['instances'] == []
    drawn, bare = (
        cv2.imread(str(tmp_path / out / 'photo.png.overlay.jpg')) for out in ('all', 'none')
    )
    original = cv2.imread(str(image))
    factor = len(bare) // SIZE
    assert factor > 1  # text on 96 pixels could not be read
    original = original.repeat(factor, 0).repeat(factor, 1)
    # Of the colours in the order of the original, but for JPEG's losses.
    assert np.abs(bare.astype(int) - original).mean() < 4
    assert np.abs(drawn.astype(int) - original).mean() > 10


@pytest.fixture
def no_model(tool, monkeypatch):
    """Predictions that need no model; the images that they were asked for."""
    seen = []

    def predict(image):
        seen.append(image)
        result = dict(task='classification', classes=[])
        return inference.Prediction(result, image)

    predict.read = PictureReader(())
    monkeypatch.setattr(tool, 'build_predictor', lambda *args: (predict, ''))
    monkeypatch.setattr(tool, 'read_config', lambda *args: None)
    return seen


@pytest.fixture
def go(call, no_model, tmp_path, monkeypatch):
    """Call the tool without a model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def go(*args):
        call(*args, '--config', 'none', '--checkpoint', 'none')

    return go


def draw(*paths, shade=100, size=(40, 30)):
    for path in paths:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        Image.new('RGB', size, (shade, shade, shade)).save(path)


def results(out='outputs'):
    """The inputs that a folder has whole results of."""
    found = [
        os.path.relpath(os.path.join(parent, name), out)
        for parent, _, names in os.walk(out)
        for name in names
    ]
    inputs = sorted(n[: -len('.json')] for n in found if n.endswith('.json'))
    assert sorted(found) == sorted(
        [f'{n}.json' for n in inputs] + [f'{n}.overlay.jpg' for n in inputs]
    )
    return inputs


def test_a_folder_means_its_images_and_those_of_its_folders(go):
    draw(
        'in put/a.jpg',
        'in put/a.png',
        'in put/x/a.jpg',
        'in put/é/中.JPG',
        'in put/.hidden.jpg',
        'in put/.cache/b.jpg',
    )
    (open('in put/notes.txt', 'w')).close()
    go('in put')
    expected = ['a.jpg', 'a.png', 'x/a.jpg', 'é/中.JPG']
    assert results() == expected
    go('in put', '--out', 'in put/results')
    go('in put', '--out', 'in put', '--force')  # not those of results
    assert sorted(p for p in os.listdir('in put') if 'overlay' in p) == [
        'a.jpg.overlay.jpg',
        'a.png.overlay.jpg',
    ]
    assert results('in put/results') == expected
    go('in put', '--out', 'again')
    assert results('again') == expected


def test_globs_and_several_inputs(go, no_model):
    draw('p/1/a.jpg', 'p/2/a.jpg', 'p/2/b[1].jpg', 'p/2/b1.jpg')
    open('p/2/a.txt', 'w').close()
    go('p/*/a.*', '--out', 'glob')
    assert results('glob') == ['1/a.jpg', '2/a.jpg']
    go('p/**/*.jpg', '--out', 'deep')
    assert results('deep') == ['1/a.jpg', '2/a.jpg', '2/b1.jpg', '2/b[1].jpg']
    no_model.clear()
    go('p/1/a.jpg', 'p/2', './p/1/a.jpg', '--out', 'several')
    assert len(no_model) == 4  # each once
    assert results('several') == results('deep')
    go('p/2/b[1].jpg', '--out', 'literal')
    assert results('literal') == ['b[1].jpg']
    source = json.load(open('literal/b[1].jpg.json'))['source']
    assert source == 'p/2/b[1].jpg'


def test_images_of_every_kind(go, no_model):
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[:, :15] = 200, 100, 50
    rgb = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    os.mkdir('in')
    rgb.rotate(90, expand=True).save('in/exif.png', exif=exif)
    rgb.save('in/rgb.png')
    rgb.convert('RGBA').save('in/rgba.png')
    rgb.convert('CMYK').save('in/cmyk.jpg', quality=100)
    cv2.imwrite('in/16bit.png', colours[..., ::-1].astype(np.uint16) * 257)
    rgb.convert('L').save('in/grey.png')
    rgb.resize((1, 1)).save('in/pixel.png')
    go('in')
    seen = dict(zip(sorted(os.listdir('in')), no_model))
    assert results() == list(seen)
    assert seen.pop('pixel.png').shape == (1, 1, 3)
    grey = seen.pop('grey.png')
    assert (grey[..., 0] == grey[..., 2]).all() and grey.max() > 100
    assert len(seen) == 5
    for name, image in seen.items():
        assert image.dtype == np.uint8, name
        assert image.shape == colours.shape, name
        difference = np.abs(image[..., ::-1].astype(int) - colours)
        # Beside the edge, which JPEG blurs.
        assert np.delete(difference, range(12, 18), axis=1).max() < 5, name


def test_unreadable_files_are_listed_and_leave_nothing(go, capsys):
    draw('in/good.jpg', size=(200, 200))
    with open('in/good.jpg', 'rb') as file:
        content = file.read()
    broken = {'cut.jpg': content[: len(content) // 2], 'empty.jpg': b'', 'text.jpg': b'hello'}
    for name, data in broken.items():
        with open(f'in/{name}', 'wb') as file:
            file.write(data)
    os.symlink('nowhere.jpg', 'in/link.jpg')
    with pytest.raises(SystemExit, match='4 of 5 were not.* correct or remove'):
        go('in')
    assert results() == ['good.jpg']
    assert capsys.readouterr().err.splitlines() == [
        'in/cut.jpg: no image, or damaged',
        'in/empty.jpg: empty',
        'in/link.jpg: No such file or directory',
        'in/text.jpg: no image, or damaged',
    ]


def test_an_image_that_the_model_cannot_take_is_listed(call, options, tmp_path, capsys):
    draw(tmp_path / 'in/line.png', size=(1, 3000))
    draw(tmp_path / 'in/pixel.png', size=(1, 1))
    out = tmp_path / 'out'
    with pytest.raises(SystemExit, match='1 of 2 were not'):
        call(tmp_path / 'in', *options('mask'), '--out', out)
    assert 'line.png: the model does not take its 1 x 3000 pixels (' in (capsys.readouterr().err)
    assert results(out) == ['pixel.png']


def test_results_are_written_as_they_come(call, no_model, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw('in/a.png', 'in/b.png', 'in/c.png')
    there = []

    def predict(image):
        there.append(results() if os.path.exists('outputs') else [])
        return inference.Prediction({}, image)

    predict.read = PictureReader(())
    monkeypatch.setattr(tool, 'build_predictor', lambda *args: (predict, ''))
    call('in', '--config', 'none', '--checkpoint', 'none')
    assert there == [[], ['a.png'], ['a.png', 'b.png']]


def test_nothing_is_left_half_written(go, tool, monkeypatch):
    draw('in/a.png')

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(tool.os, 'replace', full)
    with pytest.raises(SystemExit, match='outputs cannot be written .*space'):
        go('in')
    assert [names for _, _, names in os.walk('outputs')] == [[]]


def test_results_are_not_overwritten_unless_asked(go, no_model):
    draw('in/a.png')
    go('in')
    draw('in/b.png')
    with pytest.raises(SystemExit, match='outputs/a.png.json exists.*--force'):
        go('in')
    assert len(no_model) == 1  # nothing was done
    assert results() == ['a.png']
    go('in/b.png')  # beside the others
    go('in', '--force')
    assert results() == ['a.png', 'b.png']


@pytest.mark.parametrize(
    'args, message',
    [
        (['nothing.jpg'], 'INPUT must exist; there is no nothing.jpg'),
        (['empty'], 'must have images; empty has none that end in .jpg'),
        (['text'], 'must have images; text has none'),
        (['*.jpg'], r'must have images; \*.jpg has none'),
        (['a.png', '--score-thr', '7'], 'must be from 0 to 1; got 7'),
        (['a.png', '--device', 'cuda:77'], "no 'cuda:77' here"),
        (['a.png', '--out', 'a.png'], 'a.png cannot be written'),
    ],
)
def test_usage_errors(go, args, message):
    os.mkdir('empty')
    os.mkdir('text')
    open('text/notes.txt', 'w').close()
    draw('a.png')
    with pytest.raises(SystemExit, match=f'infer.py: error: .*{message}'):
        go(*args)
    assert not os.path.exists('outputs')


@pytest.mark.parametrize(
    'scope, task, message',
    [
        ('mmpretrain', 'seg', 'error: --task must be what .* got seg; leave --task out$'),
        (None, 'auto', 'error: --task auto goes by .*; give --task det, seg or cls$'),
    ],
)
def test_task_that_does_not_fit_is_refused(scope, task, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw('a.png')
    (tmp_path / 'config.py').write_text(f'default_scope = {scope!r}')
    with pytest.raises(SystemExit, match=message):
        call('a.png', '--config', 'config.py', '--checkpoint', 'none', '--task', task)


def write_video(path, count, codec='MJPG'):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 12.5, (SIZE + 1, SIZE))
    assert writer.isOpened()
    scene = make_scene(scene_rng(0, 'val', 1), SIZE + 1).image[:SIZE]
    for i in range(count):
        writer.write(np.roll(scene, 10 * i, axis=1))
    writer.release()


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def test_video(call, options, checkpoints, tmp_path):
    path, out = tmp_path / 'a clip é.avi', tmp_path / 'out'
    write_video(path, 3)
    call(path, *options('seg'), '--out', out)
    assert files(out) == [
        *(
            f'a clip é.avi.frames/00000{i}.{kind}'
            for i in range(3)
            for kind in ('json', 'labels.png')
        ),
        'a clip é.avi.overlay.mp4',
    ]
    cfg = Config.fromfile(ROOT / 'configs' / f'{CONFIGS["seg"]}.py')
    predict, _ = inference.build_predictor(cfg, str(checkpoints['seg']))
    frames, _ = read_video(path)
    overlays, fps = read_video(out / 'a clip é.avi.overlay.mp4')
    assert len(frames) == len(overlays) == 3 and fps == 12.5
    for i, (frame, overlay) in enumerate(zip(frames, overlays)):
        expected = predict(frame)
        result = read(out / f'a clip é.avi.frames/00000{i}.json')
        assert result == dict(
            source=str(path), frame=i, label_map=f'00000{i}.labels.png', **expected.result
        )
        label_map = cv2.imread(
            str(out / f'a clip é.avi.frames/00000{i}.labels.png'), cv2.IMREAD_UNCHANGED
        )
        np.testing.assert_array_equal(label_map, expected.label_map)
        assert overlay.shape == expected.overlay.shape
        # Lossy, but this frame and not another.
        assert np.abs(overlay.astype(int) - expected.overlay).mean() < 8


def test_a_shorter_video_replaces_all_frames(go, tmp_path):
    write_video('v.avi', 4)
    go('v.avi')
    write_video('v.avi', 2)
    with pytest.raises(SystemExit, match='v.avi.frames exists'):
        go('v.avi')
    go('v.avi', '--force')
    assert files(tmp_path / 'outputs') == [
        'v.avi.frames/000000.json',
        'v.avi.frames/000001.json',
        'v.avi.overlay.mp4',
    ]


def test_videos_without_frames_leave_nothing(go, capsys, tmp_path):
    write_video('none.avi', 0)
    open('text.mp4', 'w').write('hello')
    with pytest.raises(SystemExit, match='2 of 2 were not'):
        go('none.avi', 'text.mp4')
    assert 'none.avi: no video, or without frames' in capsys.readouterr().err
    assert files(tmp_path / 'outputs') == []


def test_a_cut_video_is_listed_with_what_it_has(go, capsys, tmp_path):
    write_video('v.avi', 20)
    with open('v.avi', 'rb') as file:
        content = file.read()
    with open('v.avi', 'wb') as file:
        file.write(content[: len(content) // 2])
    with pytest.raises(SystemExit, match='1 of 1 were not'):
        go('v.avi')
    frames, _ = read_video('v.avi')
    assert 0 < len(frames) < 20
    assert f'v.avi: its end is missing, {len(frames)} of about 20 frames' in capsys.readouterr().err
    overlays, _ = read_video('outputs/v.avi.overlay.mp4')
    assert len(overlays) == len(frames)


def test_a_checkpoint_is_data(call, options, image, checkpoints, tmp_path):
    content = torch.load(checkpoints['cls'], weights_only=True)
    torch.save(dict(content, more=Runs(tmp_path / 'ran')), tmp_path / 'c.pth')
    args = list(options('cls'))
    args[3] = tmp_path / 'c.pth'
    with pytest.raises(SystemExit, match='infer.py: error: .*would run code'):
        call(image, *args, '--out', tmp_path / 'out')
    assert not (tmp_path / 'ran').exists()
    assert not (tmp_path / 'out').exists()
    call(image, *args, '--out', tmp_path / 'out', '--trust')
    assert (tmp_path / 'ran').exists()


def test_checkpoints_must_fit(call, options, image, checkpoints, tmp_path):
    content = torch.load(checkpoints['cls'], weights_only=True)
    del content['state_dict']['head.fc.bias']
    torch.save(content, tmp_path / 'c.pth')
    args = list(options('cls'))
    args[3] = tmp_path / 'c.pth'
    with pytest.raises(SystemExit, match='missing: head.fc.bias'):
        call(image, *args, '--out', tmp_path / 'out')


def test_as_a_command(options, image, tmp_path):
    printed = run_tool('infer.py', image.name, *options('cls'), cwd=tmp_path)
    assert 'class names: the checkpoint' in printed
    assert 'results are in outputs' in printed
    assert files(tmp_path / 'outputs') == ['photo.png.json', 'photo.png.overlay.jpg']
