"""Patterns and receptive fields as a user draws them."""

import cv2
import numpy as np
import pytest
from tool_runner import ROOT, run_tool

TOOL = 'analysis_tools/attention_patterns.py'
CONFIG = ROOT / 'configs' / 'biformer_demo.py'


@pytest.mark.slow
def test_draws_the_patterns_on_an_image(images, tmp_path):
    assert run_tool(TOOL, images[0], cwd=tmp_path).endswith('outputs/attention_patterns.png\n')
    run_tool(TOOL, '--out', 'blank.png', cwd=tmp_path)
    drawn, blank = (
        cv2.imread(str(tmp_path / name)) for name in ('outputs/attention_patterns.png', 'blank.png')
    )
    assert drawn.shape == blank.shape and (drawn != blank).any()


def test_stage_and_query_are_chosen(draw, tmp_path):
    draw('--stage', 4, '--query', '6,0', '--out', 'new folder/figure.svg')
    text = (tmp_path / 'new folder' / 'figure.svg').read_text()
    assert '49 of 49 tokens' in text


def test_draws_the_receptive_field(draw, images, tmp_path):
    output = draw(*images, '--field', CONFIG, '--out', 'field.svg')
    assert 'No --checkpoint: the weights are random' in output
    text = (tmp_path / 'field.svg').read_text()
    assert 'biformer_demo.py' in text and 'half of the gradient in' in text


def test_the_middle_square_is_shown(tool, tmp_path):
    image = np.zeros((30, 50, 3), np.uint8)
    image[:, 10:40] = (0, 0, 255)  # BGR
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    square = tool.read_square(str(tmp_path / 'image.png'))
    assert square.shape == (448, 448, 3)
    assert (square == (255, 0, 0)).all()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nope.jpg'], 'nope.jpg is not an image that OpenCV can read'),
        (['{0}', '{1}'], 'patterns are drawn on one image; got .*: give one'),
        (['--stage', '5'], '--stage must be from 1 to 4; got 5'),
        (['--query', '28,0'], 'map of stage 2, 28 x 28 tokens; got 28,0'),
        (['--out', 'x.jpg'], '--out must end in one of .png'),
        (['--field', 'nope.py', '{0}'], 'there is no config nope.py'),
        (['--field', str(CONFIG)], '--field takes at least one image'),
        (['{0}', '--field', str(CONFIG), '--checkpoint', 'x.pth'], 'there is no checkpoint x.pth'),
    ],
)
def test_bad_usage_ends_in_one_line(arguments, message, draw, images, tmp_path):
    with pytest.raises(SystemExit, match=message) as error:
        draw(*(text.format(*images) for text in arguments))
    assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_query_is_two_whole_numbers(draw, capsys):
    with pytest.raises(SystemExit):
        draw('--query', '5,x')
    assert 'must be ROW,COL, such as 12,9; got 5,x' in capsys.readouterr().err
