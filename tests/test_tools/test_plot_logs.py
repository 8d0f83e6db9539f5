import json
import math
import runpy

import pytest
from tool_runner import ROOT, run_tool

TOOL = 'analysis_tools/plot_logs.py'
COCO = ['coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_s', 'coco/segm_mAP', 'coco/segm_mAP_50']


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools' / TOOL))


def write_run(work_dir, memory=False, metrics=('mIoU',), iterations=60):
    """A run that logs every tenth iteration and validates every thirtieth."""
    lines = []
    for i in range(10, iterations + 1, 10):
        record = dict(lr=1e-3 / i, loss=10 / i, loss_cls=6 / i, time=0.1, iter=i, step=i)
        if memory:
            record['memory'] = 1000 + i
        lines.append(record)
        if i % 30 == 0:
            lines.append(dict(dict.fromkeys(metrics, i / 100), time=0.1, step=i))
    folder = work_dir / '20300101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    path = folder / '20300101_000000.json'
    path.write_text('\n'.join(map(json.dumps, lines)) + '\n')
    return path


SIGNATURES = {'png': b'\x89PNG', 'svg': b'<?xml', 'pdf': b'%PDF'}


@pytest.mark.slow
def test_says_what_it_draws_and_what_it_leaves_out(tmp_path):
    write_run(tmp_path / 'one')
    path = write_run(tmp_path / 'two')
    path.write_text(path.read_text()[:-9])  # as when a run is killed
    output = run_tool(TOOL, 'one', 'two', '--out', 'a/b.png', '--smooth', 3, cwd=tmp_path)
    assert 'plot_logs.py: warning: line 8 of ' in output
    assert 'one: 20300101_000000 to iteration 60\n' in output
    assert 'drawn: loss, lr, mIoU\n' in output
    assert 'not drawn, for --keys: loss_cls, time\n' in output
    assert 'no memory is in these logs' in output
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['b.png']


@pytest.mark.parametrize('suffix', SIGNATURES)
def test_writes_what_the_suffix_says(suffix, tool, tmp_path, monkeypatch):
    write_run(tmp_path / 'one')
    figure = tmp_path / f'curves.{suffix}'
    arguments = ['plot_logs.py', f'{tmp_path}/one', '--out', str(figure)]
    monkeypatch.setattr('sys.argv', arguments)
    tool['main']()
    assert figure.read_bytes().startswith(SIGNATURES[suffix])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['empty', '--out', 'a.png'], r'empty must hold the JSON logs'),
        (['none', '--out', 'a.png'], r'no folder none; give the --work-dir of a training$'),
        (['one', '--out', 'a.jpg'], r'--out must end in one of .png, .svg, .pdf'),
        (['one', '--out', 'file/a.png'], r'--out: file/a.png cannot be written'),
        (['one', '--out', 'a.png', '--smooth', '-1'], r'--smooth must be an odd'),
        (['one', '--out', 'a.png', '--smooth', '4'], r'--smooth .* got 4'),
        (['one', './one', '--out', 'a.png'], r'each WORK_DIR is given once'),
        (
            ['one', '--out', 'a.png', '--keys', 'mAP'],
            r'nothing is logged as mAP; the logs have lr, loss, .*mIoU',
        ),
    ],
)
def test_errors_are_one_line(arguments, message, tool, tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    write_run(tmp_path / 'one')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['plot_logs.py', *arguments])
    with pytest.raises(SystemExit, match=message) as error:
        tool['main']()
    assert error.value.code.startswith('plot_logs.py: error: ')
    assert '\n' not in error.value.code
    assert not (tmp_path / 'a.png').exists()


def read(tool, **folders):
    return {name: tool['read_run'](str(folder), print) for name, folder in folders.items()}


def test_every_run_is_drawn_where_it_was_logged(tool, tmp_path):
    write_run(tmp_path / 'a', memory=True)
    write_run(tmp_path / 'b', iterations=90)
    runs = read(tool, a=tmp_path / 'a', b=tmp_path / 'b')
    keys = tool['default_keys'](list(runs.values()))
    assert keys == ['loss', 'lr', 'mIoU', 'memory']
    figure = tool['plot'](runs, keys, smooth=1)
    panels = {axis.get_title('left'): axis for axis in figure.axes}
    assert list(panels) == ['loss', 'learning rate', 'mIoU', 'peak GPU memory, MiB']
    points = {
        title: [tuple(map(list, line.get_data())) for line in axis.lines]
        for title, axis in panels.items()
    }
    short, long = list(range(10, 61, 10)), list(range(10, 91, 10))
    assert points['loss'][:2] == [(x, [10 / i for i in x]) for x in (short, long)]
    assert points['mIoU'] == [(x, [i / 100 for i in x]) for x in ([30, 60], [30, 60, 90])]
    # The run without a GPU has none, and none is made up.
    memory = [1000 + i for i in short]
    assert points['peak GPU memory, MiB'] == [(short, memory)]
    assert all(axis.get_xlabel() == 'iteration' for axis in figure.axes)
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['a', 'b']


def test_runs_differ_in_colour_and_in_grey(tool, tmp_path):
    runs = {}
    for i in range(6):
        write_run(tmp_path / str(i))
        runs.update(read(tool, **{str(i): tmp_path / str(i)}))
    figure = tool['plot'](runs, ['mIoU'], smooth=1)
    lines = figure.axes[0].lines[-6:]
    for look in ('color', 'marker', 'dash_pattern'):
        found = {
            str(line._unscaled_dash_pattern)
            if look == 'dash_pattern'
            else getattr(line, f'get_{look}')()
            for line in lines
        }
        assert len(found) == 6, look


def test_details_of_metrics_are_drawn_on_request_only(tool, tmp_path):
    write_run(tmp_path / 'a', metrics=COCO)
    (run,) = read(tool, a=tmp_path / 'a').values()
    keys = tool['default_keys']([run])
    assert keys == ['loss', 'lr', 'coco/bbox_mAP', 'coco/segm_mAP']
    keys = ['loss_cls', 'coco/bbox_mAP_s']
    figure = tool['plot'](dict(a=run), keys, 1)
    assert [axis.get_title('left') for axis in figure.axes] == keys


def test_smoothing_is_of_losses_not_of_what_is_exact(tool, tmp_path):
    write_run(tmp_path / 'a', memory=True)
    runs = read(tool, a=tmp_path / 'a')
    figure = tool['plot'](runs, ['loss', 'lr', 'memory', 'mIoU'], smooth=3)
    loss, rate, memory, metric = (axis.lines for axis in figure.axes)
    logged, means = (line.get_ydata() for line in loss)
    assert list(logged) == [10 / i for i in range(10, 61, 10)]
    assert means[1] == pytest.approx((10 / 10 + 10 / 20 + 10 / 30) / 3)
    assert len(rate) == len(memory) == len(metric) == 1


def test_running_mean(tool):
    mean = tool['running_mean']
    assert mean([1, 2, 6, 3, 4], 3) == [1, 3, 11 / 3, 13 / 3, 4]
    assert mean([1, 2, 6, 3, 4], 5) == [1, 3, 16 / 5, 13 / 3, 4]
    assert mean([1, 2, 6], 1) == [1, 2, 6]
    found = mean([1, 2, math.nan, 3], 3)
    assert found[:2] == [1, 1.5] and math.isnan(found[2]) and found[3] == 3


def test_folders_of_the_same_name_are_told_apart(tool):
    names = tool['name_runs']
    assert names(['x/a', 'y/b/']) == ['a', 'b']
    assert names(['x/a', 'y/a']) == ['x/a', 'y/a']
