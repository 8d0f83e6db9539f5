"""run_gpu.sh where there is no GPU: its dry run."""

import json
import subprocess

import pytest
import torch
from tool_runner import ROOT

from biformer_mm.models.layers import ATTENTIONS, ROUTING

SCRIPT = ROOT / 'benchmarks' / 'run_gpu.sh'

pytestmark = pytest.mark.slow  # the fixture takes half a minute or more


@pytest.fixture(scope='module')
def dry(tmp_path_factory, environment):
    """(Process, folder, results) of a dry run."""
    pytest.importorskip('triton', minversion='3.0')
    pytest.importorskip('timm')
    folder = tmp_path_factory.mktemp('dry')
    process = subprocess.run(
        ['bash', str(SCRIPT), '--dry'],
        env={**environment(), 'OUT': str(folder)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return process, folder, json.loads((folder / 'results.json').read_text())


def check_seconds(seconds):
    assert 0 < seconds['min'] <= seconds['median'] <= seconds['max']


def test_dry_run_ends_well(dry):
    process, folder, results = dry
    assert process.returncode == 0, process.stdout[-3000:]
    assert 'FAILED' not in process.stdout, process.stdout[-3000:]
    assert sorted(path.name for path in folder.iterdir()) == [
        'log.txt',
        'profile.txt',
        'results.json',
    ]
    assert [(row['step'], row['error']) for row in results['steps']] == [
        (name, '')
        for name in (
            'ceilings',
            'smoke',
            'tests',
            'op',
            'backbones stl',
            'backbones small',
            'profile',
            'probes',
            'op fp16 fp32',
            'growth_step',
            'backbones attention',
        )
    ]
    assert results['environment']['torch'] == torch.__version__
    assert results['settings'] == dict(dtype='fp16', dry=True)


def test_all_that_is_printed_is_in_the_log(dry):
    process, folder, _ = dry
    log = (folder / 'log.txt').read_text().splitlines()
    assert set(process.stdout.splitlines()) <= set(log)
    assert len(process.stdout) < 12000
    assert '2 passed' in process.stdout
    goals = process.stdout[process.stdout.rindex('| goal |') :].splitlines()
    of_networks = [line for line in goals if line.startswith('| S')]
    assert len(of_networks) == 7
    assert not [line for line in of_networks if 'not measured' in line]


def test_ceilings(dry):
    rows = {row['name']: row for row in dry[2]['ceilings']}
    assert rows['copy']['value'] > 0 and rows['copy']['unit'] == 'B/s'
    assert rows['product, fp16']['value'] > 0


def test_smoke_gives_errors_of_output_and_gradients(dry):
    rows = dry[2]['smoke']
    assert [row['problem'] for row in rows] == [
        '16, stage 1',
        'masked',
        'regions routed twice',
        'd=24',
    ]
    for row in rows:
        assert list(row['errors']) == ['o', 'dq', 'dk', 'dv']
        assert all(0 < x < 2e-3 for x in row['errors'].values())


def test_tests_are_counted(dry):
    (row,) = dry[2]['tests']
    assert (row['passed'], row['failed'], row['in_time']) == (2, 0, True)


def test_op_gives_times_and_ratios(dry, load):
    floor, sizes = load('gpu.ceilings').floor, load('gpu.sizes')
    (problem,) = sizes.DRY.stages['16']
    rows = dry[2]['op']
    assert len(rows) == 3 * 2 * 3  # the dtype and the extra ones, modes
    for first in range(0, len(rows), 3):
        mine, gather, dense = rows[first : first + 3]
        assert [row['backend'] for row in (mine, gather, dense)] == ['triton', 'sdpa', 'dense']
        for row in (mine, gather, dense):
            check_seconds(row['seconds'])
            check_seconds(row['eager_seconds'])
        own, of_gather, of_dense = (row['seconds']['median'] for row in (mine, gather, dense))
        assert mine['speed_over_gather'] == of_gather / own
        assert mine['time_over_dense'] == own / of_dense
        least = floor(dry[2]['ceilings'], problem, mine['mode'], mine['dtype'])
        if mine['dtype'] == 'fp32':  # whose ceiling a dry run leaves out
            assert least is None and 'time_over_floor' not in mine
        else:
            assert (mine['floor'], mine['bound']) == least
            assert mine['time_over_floor'] == own / least[0]


def test_backbones_give_times_and_ratios(dry):
    rows = {
        (row['network'], row['case'], row['model']): row
        for row in dry[2]['backbones']
        if row['network'] != 'attention'
    }
    cases = [
        ('stl', 'inference'),
        ('stl', 'training'),
        ('small', 'inference'),
        ('small', 'inference in a graph'),
        ('small', 'training'),
    ]
    models = ['swin', 'swin fused', 'triton', 'sdpa']
    assert list(rows) == [(*case, model) for case in cases for model in models]
    for (network, case, model), row in rows.items():
        check_seconds(row['seconds'])
        assert row['peak_memory'] > 0
        assert row['images_per_second'] == (row['batch'] / row['seconds']['median'])
        if model == 'triton':
            swin, gather = (rows[network, case, other] for other in ('swin', 'sdpa'))
            assert row['time_over_swin'] == (row['seconds']['median'] / swin['seconds']['median'])
            assert row['memory_over_gather'] == (row['peak_memory'] / gather['peak_memory'])


def test_every_attention_is_timed_beside_swin(dry):
    rows = [row for row in dry[2]['backbones'] if row['network'] == 'attention']
    models = ['swin fused', ROUTING, *ATTENTIONS]
    assert [(row['case'], row['model']) for row in rows] == [
        (case, model) for case in ('inference', 'training') for model in models
    ]
    for row in rows:
        check_seconds(row['seconds'])
        assert row['model'] == 'swin fused' or row['time_over_fused_swin'] > 0


def test_profile_lists_kernels(dry):
    rows = dry[2]['profile']
    text = (dry[1] / 'profile.txt').read_text()
    assert [(row['network'], row['mode']) for row in rows] == [
        ('stl', 'training'),
        ('small', 'inference'),
    ]
    for row in rows:
        assert row['launches'] > len(row['kernels']) == 20
        times = [kernel['ms'] for kernel in row['kernels']]
        assert times == sorted(times, reverse=True)
        assert f'launches: {row["launches"]},' in text


def test_probes_and_growth(dry):
    rows = dry[2]['probes']
    assert len(rows) == 12
    for row in rows:
        check_seconds(row['seconds'])
    assert all(row['time_over_copy'] > 0 for row in rows[:-1])
    rows = dry[2]['growth_step']
    assert len(rows) == 3 * 2
    for row in rows:
        check_seconds(row['seconds'])


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is there')
def test_a_line_says_that_there_is_no_gpu(tmp_path, environment):
    result = subprocess.run(
        ['bash', str(SCRIPT)],
        env={**environment(), 'OUT': str(tmp_path)},
        text=True,
        capture_output=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
