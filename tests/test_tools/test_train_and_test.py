"""Training and testing as a user runs them, on a few images."""

import os
import pickle
import shutil
import subprocess

import pytest
import torch
from tool_runner import ROOT, TRUST, run_tool

CONFIG = ROOT / 'configs' / 'retinanet_biformer_demo.py'


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def options(shapes, epochs=1, batch_size=4):
    """--cfg-options for a few steps on ``shapes``."""
    annotations = shapes / 'annotations' / 'instances_val.json'
    found = [
        f'train_cfg.max_epochs={epochs}',
        'train_cfg.val_interval=1',
        f'val_evaluator.ann_file={annotations}',
        f'test_evaluator.ann_file={annotations}',
    ]
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        found += [
            f'{loader}.dataset.data_root={shapes}',
            f'{loader}.batch_size={batch_size}',
            f'{loader}.num_workers=0',
            f'{loader}.persistent_workers=False',
        ]
    return ['--cfg-options', *found]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, shapes):
    """Work directory, and what training printed, of one epoch."""
    work_dir = tmp_path_factory.mktemp('work_dir')
    output = run_tool(
        'train.py',
        CONFIG,
        '--work-dir',
        work_dir,
        *options(shapes),
        cwd=tmp_path_factory.mktemp('elsewhere'),
    )
    return work_dir, output


@pytest.mark.slow
def test_training_evaluates_and_saves(trained):
    work_dir, output = trained
    assert 'Epoch(val) [1][1/1]' in output
    state = torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    assert state['meta']['iter'] == 2
    assert any(k.startswith('backbone.stages.3') for k in state['state_dict'])
    assert 'meant for a total batch of 8 but this run has 4' in output


@pytest.mark.slow
def test_resume_goes_on_from_the_last_epoch(trained, shapes, tmp_path):
    work_dir, _ = trained
    output = run_tool(
        'train.py',
        CONFIG,
        '--work-dir',
        work_dir,
        '--resume',
        *TRUST,
        *options(shapes, epochs=2),
        cwd=tmp_path,
    )
    assert 'resumed epoch: 1, iter: 2' in output
    state = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
    assert state['meta']['iter'] == 4
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_test_shows_and_dumps(trained, shapes, tmp_path):
    work_dir, _ = trained
    run_tool(
        'test.py',
        CONFIG,
        work_dir / 'epoch_1.pth',
        *TRUST,
        '--work-dir',
        tmp_path / 'work_dir',
        '--show-dir',
        'pictures',
        '--out',
        'predictions.pkl',
        '--tta',
        *options(shapes),
        cwd=tmp_path,
    )
    names = [f'{i:06d}.jpg' for i in range(4)]
    assert sorted(os.listdir(tmp_path / 'pictures')) == names
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(predictions) == 4
    assert 'bboxes' in predictions[0]['pred_instances']


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda s: s.pop('bbox_head.retina_cls.bias'),
            'missing keys in source state_dict: bbox_head.retina_cls.bias',
        ),
        (
            lambda s: s.update({'extra.weight': torch.zeros(1)}),
            'unexpected key in source state_dict: extra.weight',
        ),
        (
            lambda s: s.update({'bbox_head.retina_cls.bias': torch.zeros(1)}),
            'size mismatch for bbox_head.retina_cls.bias',
        ),
    ],
)
def test_test_refuses_weights_that_do_not_fit(trained, shapes, tmp_path, change, message):
    state = torch.load(trained[0] / 'epoch_1.pth', weights_only=False)
    change(state['state_dict'])
    torch.save(state, tmp_path / 'other.pth')
    output = run_tool(
        'test.py', CONFIG, 'other.pth', *TRUST, *options(shapes), cwd=tmp_path, ok=False
    )
    assert "other.pth does not fit the config's model" in output
    assert message in output
    assert 'Traceback' not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    'tool, args, trusted',
    [
        ('test.py', ['a.pth'], True),
        ('train.py', ['--resume', 'a.pth'], True),
        ('train.py', ['--resume'], False),
        ('train.py', ['load_from=a.pth'], False),
        (
            'train.py',
            ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=a.pth'],
            True,
        ),
    ],
)
def test_only_trust_runs_what_a_checkpoint_holds(trained, shapes, tmp_path, tool, args, trusted):
    """However it is named; ``trusted`` says whether to try --trust, too."""
    state = torch.load(trained[0] / 'epoch_1.pth', weights_only=False)
    proof, work_dir = tmp_path / 'proof', tmp_path / 'work_dir'
    torch.save(dict(state, more=Runs(proof)), tmp_path / 'a.pth')
    work_dir.mkdir()
    shutil.copy(tmp_path / 'a.pth', work_dir / 'epoch_1.pth')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    fields = [arg for arg in args if '=' in arg]  # after --cfg-options
    args = [arg for arg in args if arg not in fields]
    command = [tool, CONFIG, *args, '--work-dir', work_dir, *options(shapes), *fields]
    output = run_tool(*command, cwd=tmp_path, ok=False)
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'{tool}: error: ') and '.pth ' in error
    assert 'Epoch(' not in output and 'Traceback' not in output
    if not TRUST:  # else it is refused for the statistics that it holds
        assert 'would run code when read: its pickle asks for ' in error
    assert error.endswith('--trust of the tools')
    assert not proof.exists()
    if trusted:
        run_tool(*command, '--trust', cwd=tmp_path)
        assert proof.exists()


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'tool, args, message',
    [
        ('train.py', ['nowhere.py'], 'there is no config nowhere.py'),
        (
            'train.py',
            [CONFIG, '--resume'],
            '--resume: there is no checkpoint in work_dirs/retinanet_biformer_',
        ),
        ('train.py', [CONFIG], 'data not found: data/shapes/coco/'),
        ('test.py', [CONFIG, 'a.pth'], 'there is no checkpoint a.pth'),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(tool, args, message, tmp_path):
    output = run_tool(tool, *args, cwd=tmp_path, ok=False)
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'{tool}: error: {message}')
    assert 'Traceback' not in output
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_distributed_scripts_run_on_cpus(shapes, tmp_path):
    run_tool(
        'dist_train.sh',
        CONFIG,
        2,
        '--work-dir',
        tmp_path,
        *options(shapes, batch_size=2),
        cwd=tmp_path,
    )
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert state['meta']['iter'] == 2  # 8 images by 2 processes x 2
    output = run_tool(
        'dist_test.sh',
        CONFIG,
        tmp_path / 'epoch_1.pth',
        2,
        *TRUST,
        '--work-dir',
        tmp_path,
        *options(shapes),
        cwd=tmp_path,
    )
    assert 'Epoch(test) [1/1]' in output


@pytest.mark.parametrize(
    'script, args, rest',
    [
        ('dist_train.sh', ['c.py', '4'], 'train.py c.py'),
        ('dist_test.sh', ['c.py', 'a.pth', '4'], 'test.py c.py a.pth'),
    ],
)
def test_distributed_scripts_honour_the_usual_variables(script, args, rest):
    variables = dict(PYTHON='echo', NNODES='2', NODE_RANK='1', MASTER_ADDR='node0', PORT='29511')
    command = subprocess.run(
        [str(ROOT / 'tools' / script), *args, '--work-dir', 'a b'],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (
        '--nnodes=2 --node_rank=1 --master_addr=node0 --master_port=29511 --nproc_per_node=4'
    ) in command
    assert command.endswith(f'{rest} --work-dir a b --launcher pytorch\n')


def test_distributed_scripts_want_a_number_of_processes(tmp_path):
    output = run_tool('dist_train.sh', CONFIG, '--work-dir', 'x', cwd=tmp_path, ok=False)
    assert output == 'GPUS must be the number of processes; got --work-dir\n'


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_distributed_scripts_say_how_they_are_called(script, tmp_path):
    output = run_tool(script, CONFIG, cwd=tmp_path, ok=False)
    assert output.startswith(f'Usage: tools/{script} CONFIG')
