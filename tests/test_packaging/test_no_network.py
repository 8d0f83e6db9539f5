"""The tools open no connection beyond this machine that nobody asked for.

The C library is watched, as not all code that may do so is Python's.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tool_runner import ROOT, TRUST, run_tool

from biformer_mm.datasets import make_shapes

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux') or not shutil.which('c++'),
    reason='it preloads a library into Linux programs, compiled by c++',
)
CONFIG = ROOT / 'configs' / 'biformer_demo.py'
PICTURE = ROOT / 'docs' / 'images' / 'demo.jpg'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('no_network')
    make_shapes(folder / 'data/shapes/imagenet', 'imagenet', 8, 4, image_size=64)
    subprocess.run(
        [
            'c++',
            '-x',
            'c',
            '-shared',
            '-fPIC',
            '-o',
            folder / 'no_network.so',
            Path(__file__).with_name('no_network.c'),
            '-ldl',
        ],
        check=True,
    )
    return folder


def variables(folder):
    """Of processes that have no network, and note what they would do."""
    log = folder / 'connections.txt'
    log.write_text('')
    return dict(
        LD_PRELOAD=str(folder / 'no_network.so'),
        CONNECTIONS=str(log),
        HOME=str(folder / 'home'),
        MPLCONFIGDIR=str(folder / 'matplotlib'),
    )


@pytest.fixture
def connections(folder, monkeypatch):
    """What was refused to the processes that a test has started."""
    for name, value in variables(folder).items():
        monkeypatch.setenv(name, value)
    for name in ('http_proxy', 'https_proxy', 'ORT_DISABLE_TELEMETRY'):
        monkeypatch.delenv(name, raising=False)
    return folder / 'connections.txt'


@pytest.fixture(scope='module')
def checkpoint(folder):
    """Of a training without network."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables(folder).items():
            patch.setenv(name, value)
        run_tool(
            'train.py',
            CONFIG,
            '--work-dir',
            'work',
            '--cfg-options',
            'train_cfg.max_epochs=1',
            'train_dataloader.batch_size=4',
            cwd=folder,
        )
    assert (folder / 'connections.txt').read_text() == ''
    return folder / 'work' / 'epoch_1.pth'


@pytest.mark.parametrize(
    'code, noted',
    [
        ('socket.create_connection(("192.0.2.1", 80))', 'getaddrinfo 192.0.2.1'),
        ('socket.socket().connect(("192.0.2.1", 80))', 'connect 192.0.2.1'),
        (
            'socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 80))',
            'sendto 192.0.2.1',
        ),
        ('socket.gethostbyname("example.org")', 'getaddrinfo example.org'),
        ('urllib.request.urlopen("http://example.org")', 'getaddrinfo'),
        (
            'subprocess.run([sys.executable, "-c", "import socket;'
            "socket.gethostbyname('example.org')\"], check=True)",
            'getaddrinfo example.org',
        ),
    ],
)
def test_what_would_leave_the_machine_is_seen(code, noted, folder, connections):
    code = f'import socket, subprocess, sys, urllib.request\n{code}'
    assert (
        subprocess.run(
            [sys.executable, '-c', code], cwd=folder, stderr=subprocess.DEVNULL
        ).returncode
        == 1
    )
    assert connections.read_text().startswith(noted)


def test_what_stays_on_the_machine_is_not(folder, connections):
    code = """
import socket
server = socket.create_server(('127.0.0.1', 0))
socket.create_connection(server.getsockname())
here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
here.bind('here')
here.sendto(b'', 'here')
"""
    subprocess.run([sys.executable, '-c', code], cwd=folder, check=True)
    assert connections.read_text() == ''


@pytest.mark.slow
@pytest.mark.parametrize(
    'tool, args',
    [
        ('test.py', [CONFIG, 'CHECKPOINT', '--show-dir', 'pictures']),
        ('train.py', [CONFIG, '--resume', '--work-dir', 'work']),
        ('infer.py', [PICTURE, '--config', CONFIG, '--checkpoint', 'CHECKPOINT']),
        (
            'analysis_tools/visualize_routing.py',
            [PICTURE, '--config', CONFIG, '--checkpoint', 'CHECKPOINT', '--html', 'page.html'],
        ),
        ('analysis_tools/complexity.py', ['--out', 'complexity.png']),
        ('analysis_tools/get_flops.py', [CONFIG, '--shape', 64, 64]),
        ('analysis_tools/plot_logs.py', ['work', '--out', 'curves.png']),
        ('misc/check_dataset.py', [CONFIG]),
        ('model_converters/biformer_to_mm.py', ['CHECKPOINT', 'converted.pth']),
        ('deployment/export_onnx.py', [CONFIG, 'CHECKPOINT', '--shape', 64, 64, '--out', 'a.onnx']),
    ],
)
def test_tools_need_no_network(tool, args, folder, checkpoint, connections):
    if tool == 'deployment/export_onnx.py':
        if TRUST:
            pytest.skip('PyTorch before 2.6')
        for package in ('onnx', 'onnxruntime', 'onnxscript'):
            if not find_spec(package):  # not imported: its telemetry is on
                pytest.skip(f'{package} is not there')
    args = [checkpoint if arg == 'CHECKPOINT' else arg for arg in args]
    if checkpoint in args or '--resume' in args:
        args += TRUST
    if tool == 'train.py':  # its one epoch is done: it resumes, and ends
        args += ['--cfg-options', 'train_cfg.max_epochs=1']
    run_tool(tool, *args, cwd=folder)
    assert connections.read_text() == ''
    # Where what is sent later, or an identity to send, would be kept; YAPF,
    # by which MMEngine writes configs, keeps its grammar.
    home = folder / 'home'
    assert {x.name for x in home.glob('*')} <= {'.cache'}
    assert {x.name for x in home.glob('.cache/*')} <= {'YAPF'}
