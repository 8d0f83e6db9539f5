"""Routing figures as a user makes them."""

import cv2
import numpy as np
import pytest
import torch
from tool_runner import ROOT, run_tool

from biformer_mm.apis.model import build_model
from biformer_mm.utils.config_file import read_config

TOOL = 'analysis_tools/visualize_routing.py'
CONFIGS = ROOT / 'configs'


@pytest.mark.slow
def test_draws_every_image_with_the_weights_given(images, tmp_path):
    config = CONFIGS / 'retinanet_biformer_demo.py'
    torch.manual_seed(0)
    model, _ = build_model(read_config(str(config), {}))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    arguments = ('--config', config, '--checkpoint', 'model.pth', '--query', '20,30', '150,100')
    output = run_tool(TOOL, *images, *arguments, cwd=tmp_path)
    assert '2 of 2 pictures are in outputs/routing' in output
    assert 'random' not in output
    written = tmp_path / 'outputs' / 'routing'
    names = [f'{path.stem}_stage3_block2.png' for path in images]
    assert sorted(p.name for p in written.iterdir()) == sorted(names)
    pictures = [cv2.imread(str(written / name)) for name in names]
    run_tool(TOOL, images[0], *arguments, '--out', 'again', cwd=tmp_path)
    again = cv2.imread(str(tmp_path / 'again' / names[0]))
    np.testing.assert_array_equal(again, pictures[0])
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize(
    'name',
    [
        'biformer_demo',
        'semantic_fpn_biformer_demo',
        'upernet_biformer_demo',
        'mask_rcnn_biformer_demo',
    ],
)
def test_draws_of_every_task(name, draw, images, tmp_path):
    output = draw(
        images[0], '--config', CONFIGS / f'{name}.py', '--stage', 2, '--block', 1, '--out', 'out'
    )
    assert 'No --checkpoint: the weights are random' in output
    path = tmp_path / 'out' / f'{images[0].stem}_stage2_block1.png'
    assert cv2.imread(str(path)).shape[1] == 1500


def test_html_is_one_page_of_one_image(draw, images, tmp_path):
    output = draw(
        images[0], '--config', CONFIGS / 'biformer_demo.py', '--html', 'new folder/page.html'
    )
    page = (tmp_path / 'new folder' / 'page.html').read_text(encoding='utf-8')
    assert images[0].name in page and page.rstrip().endswith('</html>')
    assert 'new folder/page.html, 0.' in output


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nope.jpg'], 'there is no image nope.jpg'),
        (['{0}', '--stage', '9'], 'stage must be between 1 and 4; got 9'),
        (['{0}', '--block', '7'], 'between 1 and 2, or -1 for the last; got 7'),
        (['{0}', '--device', 'gpu'], "there is no 'gpu' here"),
        (['{0}', '{1}', '--html', 'x.html'], '--html takes one image; got 2'),
        (['{0}', '--checkpoint', 'x.pth'], 'there is no checkpoint x.pth'),
        (['{0}', '--query', '900,3'], 'sees X from .* got 900: give'),
        (['{0}', 'copy/{0.name}'], 'images must differ in name'),
    ],
)
def test_bad_usage_ends_in_one_line(arguments, message, draw, images, tmp_path):
    (tmp_path / 'copy').mkdir()
    (tmp_path / 'copy' / images[0].name).touch()
    arguments = [text.format(*images) for text in arguments]
    with pytest.raises(SystemExit, match=message) as error:
        draw(*arguments, '--config', CONFIGS / 'biformer_demo.py')
    assert '\n' not in str(error.value)
    assert not list(tmp_path.rglob('*.png'))


def test_a_query_is_two_numbers(draw, images, capsys):
    with pytest.raises(SystemExit):
        draw(images[0], '--config', CONFIGS / 'biformer_demo.py', '--query', '5')
    assert 'must be X,Y in pixels, such as 300,200; got 5' in (capsys.readouterr().err)


def test_unreadable_files_are_listed_after_the_others(draw, images, tmp_path):
    (tmp_path / 'text.jpg').write_text('not an image')
    with pytest.raises(SystemExit, match='text.jpg is not an image'):
        draw('text.jpg', images[0], '--config', CONFIGS / 'biformer_demo.py')
    (written,) = (tmp_path / 'outputs' / 'routing').iterdir()
    assert written.name == f'{images[0].stem}_stage3_block2.png'


def test_several_unreadable_files_end_in_one_line(draw, tmp_path, capsys):
    for name in ('a.jpg', 'b.jpg'):
        (tmp_path / name).write_text('not an image')
    with pytest.raises(SystemExit) as error:
        draw('a.jpg', 'b.jpg', '--config', CONFIGS / 'biformer_demo.py')
    assert error.value.code == (
        'visualize_routing.py: error: all images must be drawn; 2 of 2 were not, as listed above'
    )
    listed = capsys.readouterr().err.splitlines()[-2:]
    assert [line[:5] for line in listed] == ['a.jpg', 'b.jpg']
