"""benchmarks/learning.py on a few pictures of noise, and the configs of examples/cifar10."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from tool_runner import ROOT, TRUST, run_tool

from biformer_mm.apis.model import build_network

CONFIGS = sorted(x.stem for x in (ROOT / 'examples/cifar10').glob('*.py') if x.stem != 'recipe')
SMALL = {
    'model.backbone.arch': dict(
        _delete_=True, base='tiny', embed_dims=(32, 32, 32, 32), depths=(1, 1, 1, 1)
    ),
    'model.head.in_channels': 32,
}
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='is for a CPU')


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
    """Two classes of noise, which differ in brightness."""
    root = tmp_path_factory.mktemp('pictures')
    random = np.random.default_rng(0)
    for split in ('train', 'test'):
        for name, least in (('bright', 128), ('dark', 0)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(8):
                noise = random.integers(least, least + 128, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f'{i}.jpg')
    return root


@pytest.fixture
def call(load, monkeypatch, tmp_path, pictures):
    """Call the benchmark with two small networks; its result, as JSON and Markdown."""
    learning = load('learning')
    network = load('learning_studies').Network
    small = dict(first=network('biformer_t', SMALL), second=network('biformer_t', SMALL))
    monkeypatch.setattr(learning, 'networks_of', lambda *_: small)

    def main(*args, ok=True, steps=True):
        shutil.rmtree(tmp_path / 'out', ignore_errors=True)
        folders = ['--data', pictures, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out']
        budget = ['--steps', 4] if steps else []
        given = ['--preset', 'cpu', *budget, '--batch', 4, '--jobs', 1, *folders, *args]
        monkeypatch.setattr('sys.argv', ['learning.py', *map(str, given)])
        if ok:
            learning.main()
        else:
            with pytest.raises(SystemExit, match='error: '):
                learning.main()
        (path,) = (tmp_path / 'out').glob('*/*.json')
        text = path.with_suffix('.md').read_text()
        assert str(tmp_path) not in path.read_text() + text
        return json.loads(path.read_text()), text

    return main


@pytest.fixture
def trained(load, monkeypatch):
    """Runs that were asked for; none is trained."""
    runs = []

    def pretend(function, run, *_):
        if function.__name__ == 'time_steps':  # of several
            time = dict(median=0.5, min=0.4, max=0.6)
            return {name: dict(time, error=None) for name in run}
        if function.__name__ == 'step_memory':
            return 1000
        runs.append(run)
        loss = run.rate if run.rate < 1 else math.nan
        return dict(
            seed=run.seed,
            steps=run.steps,
            loss=loss,
            accuracy=[[run.steps, 50.0 + run.seed]],
            curve=[3.0, 2.0],
            largest_first_weight=0.1,
            parameters=10,
            multiply_adds=100,
        )

    monkeypatch.setattr(load('learning'), 'in_process', pretend)
    return runs


def test_a_study_is_trained_timed_and_drawn(load, call, tmp_path):
    """With real processes."""
    result, text = call('--rates', '1e-3', '--seeds', 0, '--only', 'first', '--evaluations', 2)
    (row,) = result['rows']
    assert row['error'] is None and row['rate'] == 1e-3
    (run,) = row['runs']
    assert [step for step, _ in run['accuracy']] == [2, 4]
    assert len(run['curve']) == 4 and all(0 < x < 5 for x in run['curve'])
    assert run['parameters'] > 1e4 and run['multiply_adds'] > 1e5
    assert row['peak_memory'] > 1e8
    assert 0.05 < run['largest_first_weight'] < 1
    assert row['time_ratio'] == 1 and row['seconds']['median'] > 0
    assert '16 training and 16 test pictures in 2 classes' in text
    assert '4 steps of 4 pictures, fp32; seeds 0; rates 0.001.' in text
    assert '| first |' in text
    figure = load('plot').plot_learning(result)
    assert [axis.get_xlabel() for axis in figure.axes] == ['step', 'seconds of training steps']


def test_single_accuracies_are_drawn_by_network(call, trained, load):
    result, _ = call('--evaluations', 1, '--no-timing', '--seeds', 0, 1, '--rates', '1e-3')
    axis = load('plot').plot_learning(result).axes[1]
    assert [label.get_text() for label in axis.get_yticklabels()] == ['first', 'second']
    assert [len(line.get_xdata()) for line in axis.lines] == [2, 2]


def test_what_is_finished_is_not_trained_again(call, trained, capsys):
    once, _ = call('--rates', '1e-3', '--no-timing')
    assert [run.seed for run in trained] == [0, 0, 1, 1]
    again, text = call('--rates', '1e-3', '--no-timing')
    assert len(trained) == 4 and again['rows'] == once['rows']
    assert '50.5 (50.0-51.0)' in text
    call('--rates', '1e-3', '--no-timing', '--seeds', 0, 2)
    assert [run.seed for run in trained[4:]] == [2, 2]
    assert 'have changed' not in capsys.readouterr().out


@pytest.mark.parametrize('change', [['--steps', 5], ['--batch', 2]])
def test_what_has_changed_is_trained_again(call, trained, capsys, change):
    known = ['--rates', '1e-3', '--no-timing', '--seeds', 0, '--only', 'first']
    call(*known)
    call(*known, *change)
    assert len(trained) == 2
    assert 'the settings have changed' in capsys.readouterr().out


def test_each_network_takes_the_rate_of_the_least_loss(call, trained):
    arguments = ['--no-timing', '--seeds', 3, 4, '--rates']
    result, text = call(*arguments, '5e-4', '2e-4', 2)
    trials, others = trained[:6], trained[6:]
    assert [(run.rate, run.seed) for run in trials[:3]] == [(2e-4, 3), (5e-4, 3), (2, 3)]
    assert [(run.rate, run.seed) for run in others] == [(2e-4, 4)] * 2
    for row in result['rows']:
        assert row['rate'] == 2e-4
        assert [x['rate'] for x in row['rates']] == [2e-4, 5e-4, 2]
        assert [run['seed'] for run in row['runs']] == [3, 4]
    assert '| 0.0002 |' in text and 'rates 0.0002, 0.0005, 2.' in text
    call(*arguments, '2e-4')
    assert len(trained) == 8


def test_a_best_rate_has_worse_neighbours(call, trained):
    """The loss that these runs pretend is the rate itself, or NaN from 1 on."""
    given = [1, 4, 2, 0.5, 0.2, 0.1, 3]
    result, _ = call('--no-timing', '--seeds', 0, '--only', 'first', '--rates', *given)
    assert [run.rate for run in trained] == [0.5, 1, 2, 0.2, 0.1]
    assert result['rows'][0]['rate'] == 0.1


def test_rates_are_tried_from_the_middle_to_the_lesser_loss(load):
    to_try = load('learning_report').rates_to_try
    rates = [1, 2, 3, 4, 5]
    assert to_try(rates, {}) == [2, 3, 4]
    assert to_try(rates, {2: 0.3, 3: 0.2, 4: 0.3}) == []
    assert to_try(rates, {2: 0.3, 3: 0.2, 4: 0.1}) == [5]
    assert to_try(rates, {2: 0.3, 3: 0.2, 4: 0.1, 5: 0.0}) == []
    assert to_try(rates, {2: math.nan, 3: math.nan, 4: math.inf}) == [1]
    assert to_try(rates, {1: 0.1, 2: math.nan, 3: math.nan, 4: math.inf}) == []
    assert to_try([1, 2], {}) == [1, 2]


def test_the_least_finite_loss_counts(load):
    choose = load('learning_report').choose_rate
    assert choose({1e-3: 2.0, 5e-4: 1.5, 2e-4: 1.7}) == 5e-4
    assert choose({1e-3: math.nan, 5e-4: 2.5, 2e-4: math.inf}) == 5e-4
    with pytest.raises(ValueError, match='one rate must give a finite loss'):
        choose({1e-3: math.nan})


def test_seconds_become_steps_by_the_time_of_a_step(call, trained):
    result, text = call('--rates', '1e-3', '--steps', 9, '--only', 'first')
    assert result['settings']['steps'] == 9
    arguments = ['--rates', '1e-3', '--seconds', 3, '--only', 'first']
    _, text = call(*arguments, steps=False)
    assert trained[-1].steps == 6  # of 0.5 s
    assert 'as many steps as take 3 s' in text
    count = len(trained)
    call(*arguments, steps=False)
    assert len(trained) == count


def test_a_run_that_fails_is_named_and_the_others_go_on(load, call, trained, monkeypatch):
    learning = load('learning')
    pretend = learning.in_process

    def fail_once(function, run, *rest):
        if function.__name__ == 'train' and run.seed == 1 and len(trained) == 2:
            trained.append(run)
            raise RuntimeError('no memory\nmore')
        return pretend(function, run, *rest)

    monkeypatch.setattr(learning, 'in_process', fail_once)
    result, text = call('--rates', '1e-3', ok=False)
    first, second = result['rows']
    assert first['error'] == 'RuntimeError: no memory' and second['error'] is None
    assert [('error' in run) for run in first['runs']] == [False, True]
    assert 'RuntimeError: no memory' in text
    result, _ = call('--rates', '1e-3')
    assert len(trained) == 5 and not any(row['error'] for row in result['rows'])


@pytest.mark.parametrize(
    'args, message',
    [
        (['--steps', '0'], '--steps must be above 0; got 0'),
        (['--seconds', '-1'], '--seconds must be above 0'),
        (['--steps', '1', '--seconds', '1'], 'not allowed with'),
        (['--evaluations', '0'], '--evaluations must be above 0; got 0'),
        (['--seeds', '-1'], '--workers and --seeds must be 0 or more'),
        (['--rates', '0'], '--rates must be above 0'),
        (['--study', 'padding', '--rates', '1e-3', '1e-4'], 'compares networks at one rate'),
        (['--study', 'attention'], 'invalid choice'),
        (['--only', 'swin'], "--only takes names of networks, ['swin_t', "),
        (['--preset', 'gpu'], '--preset gpu need a GPU'),
        (['--dtype', 'bf16'], 'bf16 and --preset gpu need a GPU'),
        (['--data', 'nowhere'], 'the folder must have train/CLASS and test/CLASS'),
    ],
)
def test_a_wrong_argument_is_refused(load, monkeypatch, capsys, pictures, args, message):
    monkeypatch.setattr('sys.argv', ['learning.py', '--data', str(pictures), *args])
    with pytest.raises(SystemExit) as error:
        load('learning').parse_args()
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_folders_of_other_classes_are_refused(load, monkeypatch, capsys, pictures, tmp_path):
    data = shutil.copytree(pictures, tmp_path / 'data')
    (data / 'test/dark').rename(data / 'test/night')
    monkeypatch.setattr('sys.argv', ['learning.py', '--data', str(data)])
    with pytest.raises(SystemExit):
        load('learning').parse_args()
    assert 'must have the same class folders' in capsys.readouterr().err


def make_run(load, pictures, network, **changes):
    return load('learning_runs').Run(
        **dict(
            dict(
                network=network,
                data=str(pictures),
                classes=2,
                seed=0,
                rate=1e-3,
                steps=2,
                evaluations=1,
                batch=2,
                dtype='fp32',
                workers=0,
                device='cpu',
            ),
            **changes,
        )
    )


def test_networks_see_the_same_pictures(load, pictures, tmp_path):
    """Of one seed; those of another see others."""

    class Keep(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen[-1].append(data_batch['inputs'].clone())

    runs, network, seen = load('learning_runs'), load('learning_studies').Network, []
    for i, (name, seed) in enumerate([('biformer_t', 0), ('convnext_t', 0), ('biformer_t', 1)]):
        options = SMALL if name == 'biformer_t' else {}
        cfg = runs.make_config(make_run(load, pictures, network(name, options), seed=seed))
        cfg.work_dir, cfg.experiment_name = str(tmp_path / str(i)), f'same_pictures_{i}'
        runner = Runner.from_cfg(cfg)
        runner.register_hook(Keep())
        seen.append([])
        runner.train()
    first, same, other = (torch.stack(x) for x in seen)
    assert first.equal(same) and not first.equal(other)


def test_the_readme_has_the_figures_of_the_result():
    (path,) = (ROOT / 'benchmarks/results').glob('*/learning_networks_*.json')
    lines = (ROOT / 'README.md').read_text().splitlines()
    for row in json.loads(path.read_text())['rows']:
        (line,) = [x for x in lines if f'(examples/cifar10/{row["name"]}.py)' in x]
        accuracy = {key: f'{value:.1f}' for key, value in row['accuracy'].items()}
        cells = [
            f'{row["parameters"] / 1e6:.1f} M',
            f'{row["multiply_adds"] / 1e9:.2f} G',
            f'{row["rate"]:.0e}'.replace('e-0', 'e-'),
            '{mean} % ({min}-{max})'.format(**accuracy),
            f'{row["time_ratio"]:.2f}',
        ]
        assert [x.strip() for x in line.split('|')[2:-1]] == cells


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'study', ['padding', 'networks', 'attentions', 'routing', 'weights', 'backends']
)
def test_every_network_takes_a_step(load, pictures, study):
    runs, networks_of = load('learning_runs'), load('learning_studies').networks_of
    for name, network in networks_of(study, 'cpu').items():
        step = runs._make_step(make_run(load, pictures, network))
        losses = step()
        assert math.isfinite(losses['loss'].detach()), name


def test_studies_differ_in_what_they_name(load, pictures):
    """Options that a config ignored would leave two networks equal."""
    studies, runs = load('learning_studies'), load('learning_runs')
    for study in studies.STUDIES:
        models = [
            json.dumps(runs.settings_of(make_run(load, pictures, network))['config']['model'])
            for network in studies.networks_of(study, 'cpu').values()
        ]
        assert len(set(models)) == len(models) > 1, study
    gpu = studies.networks_of('backends', 'cuda')
    assert list(gpu)[0] == 'reference, fp32' and 'triton, fp16' in gpu


@pytest.mark.parametrize('name', CONFIGS)
def test_no_network_starts_with_outliers(load, pictures, name):
    """A backbone's own first weights would replace the recipe's."""
    network = load('learning_studies').Network(name)
    model = build_network(load('learning_runs').make_config(make_run(load, pictures, network)))
    assert 'Normal' in str(model.init_cfg)
    own = [type(x).__name__ for x in model.modules() if 'Trunc' in str(getattr(x, 'init_cfg', ''))]
    assert not own


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_tools_take_each_config(name, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv('FOLDER', str(pictures))
    config, classes = ROOT / f'examples/cifar10/{name}.py', 'model.head.num_classes=2'
    short = ['train_cfg.max_iters=4', 'param_scheduler.0.end=2']
    log = run_tool('train.py', config, '--cfg-options', classes, *short, cwd=tmp_path)
    assert 'accuracy/top1' in log and ' - WARNING - ' not in log
    checkpoint = f'work_dirs/{name}/iter_4.pth'
    log = run_tool('test.py', config, checkpoint, '--cfg-options', classes, *TRUST, cwd=tmp_path)
    assert 'accuracy/top1' in log
