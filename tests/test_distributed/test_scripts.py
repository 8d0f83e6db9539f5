"""What the scripts for Slurm and torchrun call."""

import os
import subprocess

import pytest
from tool_runner import ROOT

SCRIPTS = [
    ('slurm_train.sh', ['c.py'], 'train.py c.py'),
    ('slurm_test.sh', ['c.py', 'a.pth'], 'test.py c.py a.pth'),
]


@pytest.fixture
def srun(tmp_path):
    """Environment in which srun prints its arguments and OMP_NUM_THREADS."""
    stub = tmp_path / 'srun'
    stub.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS $MASTER_PORT" "$@"\n')
    stub.chmod(0o755)
    variables = {
        key: value
        for key, value in os.environ.items()
        if key not in ('OMP_NUM_THREADS', 'MASTER_PORT')
    }
    return dict(variables, PATH=f'{tmp_path}:{os.environ["PATH"]}')


def call(script, *args, env):
    return subprocess.run(
        [str(ROOT / 'tools' / script), *args],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


@pytest.mark.parametrize('script, args, rest', SCRIPTS)
def test_slurm_scripts_call_srun(script, args, rest, srun):
    command = call(script, 'part', 'job', *args, '--work-dir', 'a b', env=srun)
    assert command.startswith(
        '1  --partition=part --job-name=job --ntasks=8 --ntasks-per-node=8 '
        '--gres=gpu:8 --cpus-per-task=5 --kill-on-bad-exit=1 python -u '
    )
    assert command.endswith(f'{rest} --work-dir a b --launcher slurm\n')


@pytest.mark.parametrize('script, args, rest', SCRIPTS)
def test_slurm_scripts_honour_the_usual_variables(script, args, rest, srun):
    variables = dict(
        GPUS='16',
        GPUS_PER_NODE='4',
        CPUS_PER_TASK='2',
        SRUN_ARGS='--gres=none --time=1:00',
        OMP_NUM_THREADS='2',
        PORT='29511',
        PYTHON='python3',
    )
    command = call(script, 'part', 'job', *args, env={**srun, **variables})
    assert command.startswith(
        '2 29511 --partition=part --job-name=job --ntasks=16 '
        '--ntasks-per-node=4 --gres=gpu:4 --cpus-per-task=2 '
        '--kill-on-bad-exit=1 --gres=none --time=1:00 python3 -u '
    )


def test_few_gpus_are_on_one_node(srun):
    command = call('slurm_train.sh', 'p', 'j', 'c.py', env={**srun, 'GPUS': '2'})
    assert '--ntasks=2 --ntasks-per-node=2 --gres=gpu:2 ' in command


@pytest.mark.parametrize('script, args, rest', SCRIPTS)
def test_slurm_scripts_say_how_they_are_called(script, args, rest, srun):
    output = call(script, 'part', 'job', *args[1:], env=srun)
    assert output.startswith(f'Usage: tools/{script} PARTITION JOB_NAME')


@pytest.mark.parametrize(
    'port, expected',
    [
        ({}, '--standalone --local_addr=127.0.0.1 --nproc_per_node=4 '),
        ({'PORT': '29511'}, '--master_addr=127.0.0.1 --master_port=29511 '),
    ],
)
def test_runs_on_one_machine_share_no_port(port, expected):
    variables = {key: value for key, value in os.environ.items() if key not in ('NNODES', 'PORT')}
    command = call('dist_train.sh', 'c.py', '4', env={**variables, 'PYTHON': 'echo', **port})
    assert expected in command
