"""Downloads against a server that is cut off, changes, lies, or is not there."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from process_runner import free_port, launcher_variables, start

from biformer_mm.checkpoint import CheckpointError
from biformer_mm.checkpoint import download as module
from biformer_mm.checkpoint.download import download

DATA = bytes(range(256)) * 3000
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[::-1]


class Site:
    """What the server has, how it behaves, and what it was asked."""

    data = DATA
    etag = '"1"'
    modified = None
    ranges = True
    length = None  # what it claims; None is the truth, False says nothing
    cut = None  # it closes the connection after so many bytes
    pause = 0  # seconds before the last byte
    status = 200

    def __init__(self):
        self.requests = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        asked = self.headers.get('Range')
        site.requests.append(asked)
        if site.status != 200:
            return self.send_error(site.status)
        data, status = site.data, 200
        if asked and site.ranges and (self.headers['If-Range'] in (site.etag, site.modified)):
            start = int(asked[len('bytes=') : -1])
            if start >= len(data):
                return self.send_error(416)
            status, data = 206, data[start:]
        self.send_response(status)
        if site.length is not False:
            self.send_header('Content-Length', site.length or len(data))
        if status == 206:
            total = len(site.data)
            self.send_header('Content-Range', f'bytes {start}-{total - 1}/{total}')
        for name, value in (('ETag', site.etag), ('Last-Modified', site.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        cut = len(data) - 1 if site.cut is None else site.cut
        self.wfile.write(data[:cut])
        self.wfile.flush()
        time.sleep(site.pause)
        if site.cut is None:
            with suppress(ConnectionError):  # the client has had enough
                self.wfile.write(data[cut:])

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.site = Site()
    server.site.url = f'http://127.0.0.1:{server.server_port}/a.pth'
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.site
    server.shutdown()
    server.server_close()


def content(folder):
    """Names of the files in a folder, and what they hold."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut_off(site, folder, size=100000):
    """Leave a download incomplete."""
    site.cut = size
    with pytest.raises(CheckpointError) as error:
        download(site.url, str(folder))
    site.cut = None
    return str(error.value)


@pytest.mark.parametrize('length', [None, False])
def test_a_file_is_kept_and_not_asked_for_again(length, site, tmp_path):
    site.length = length
    for _ in range(2):
        path = download(site.url, str(tmp_path / 'new' / 'folder'))
        assert path == str(tmp_path / 'new' / 'folder' / 'a.pth')
    assert content(tmp_path / 'new' / 'folder') == {'a.pth': DATA}
    assert site.requests == [None]


@pytest.mark.parametrize(
    'change',
    [
        dict(),
        dict(etag=None, modified='Fri, 20 Nov 2026 00:00:00 GMT'),
        dict(etag='W/"1"', modified='Fri, 20 Nov 2026 00:00:00 GMT'),
    ],
)
def test_goes_on_where_it_was_cut_off(change, site, tmp_path):
    vars(site).update(change)
    message = cut_off(site, tmp_path)
    assert message.startswith(f'{site.url} was cut off after 100000 of {len(DATA)} bytes (')
    assert message.endswith('which goes on from there if it can')
    assert not (tmp_path / 'a.pth').exists()
    assert content(tmp_path)['a.pth.part'] == DATA[:100000]
    download(site.url, str(tmp_path))
    assert content(tmp_path) == {'a.pth': DATA}
    assert site.requests == [None, 'bytes=100000-']


@pytest.mark.parametrize(
    'change',
    [dict(ranges=False), dict(etag='"2"', data=OTHER), dict(etag=None), dict(etag='W/"1"')],
)
def test_begins_anew_if_it_cannot_go_on(change, site, tmp_path):
    if 'data' not in change:
        vars(site).update(change)
    cut_off(site, tmp_path)
    vars(site).update(change)
    download(site.url, str(tmp_path))
    assert content(tmp_path) == {'a.pth': site.data}


def test_another_url_is_not_mixed_in(site, tmp_path):
    cut_off(site, tmp_path)
    site.data = OTHER
    download(site.url.replace('/a.pth', '/other/a.pth'), str(tmp_path))
    assert content(tmp_path) == {'a.pth': OTHER}
    assert site.requests == [None, None]


def test_a_part_that_is_complete_is_fetched_anew(site, tmp_path):
    cut_off(site, tmp_path)
    (tmp_path / 'a.pth.part').write_bytes(DATA)
    download(site.url, str(tmp_path))
    assert content(tmp_path) == {'a.pth': DATA}


def test_a_wrong_part_is_refused(site, tmp_path, monkeypatch):
    cut_off(site, tmp_path)
    monkeypatch.setattr(
        _Handler,
        'send_header',
        lambda self, name, value: BaseHTTPRequestHandler.send_header(
            self, name, value if name != 'Content-Range' else 'bytes 0-9/10'
        ),
    )
    with pytest.raises(CheckpointError, match=r'another part .* remove .*\.p'):
        download(site.url, str(tmp_path))
    assert not (tmp_path / 'a.pth').exists()


def test_a_length_that_is_not_reached(site, tmp_path):
    site.length = len(DATA) + 7
    with pytest.raises(
        CheckpointError, match=f'cut off after {len(DATA)} of {len(DATA) + 7} bytes'
    ):
        download(site.url, str(tmp_path))
    assert not (tmp_path / 'a.pth').exists()


def named(site, name, fragment=''):
    return site.url.replace('a.pth', name) + fragment


@pytest.mark.parametrize(
    'name, fragment',
    [
        (f'model-{SHA[:8]}.pth', ''),
        (f'model-{SHA}.pth', ''),
        ('a.pth', f'#sha256={SHA}'),
        ('a.pth', f'#sha256={SHA[:12].upper()}'),
        ('model-deadbeef.pth', f'#sha256={SHA[:8]}'),
        ('model_1x-20260131.pth', ''),  # a date, no hash
        ('model-small.pth', ''),
        ('a.pth', '#elsewhere'),
    ],
)
def test_a_hash_that_is_right(name, fragment, site, tmp_path):
    for _ in range(2):
        path = download(named(site, name, fragment), str(tmp_path))
        assert path == str(tmp_path / name)
    assert content(tmp_path) == {name: DATA}


@pytest.mark.parametrize(
    'name, fragment, expected',
    [
        ('model-0badc0de.pth', '', '0badc0de'),
        ('a.pth', '#sha256=0badc0de', '0badc0de'),
        (f'model-{SHA[:8]}.pth', '#sha256=' + 32 * 'EF', 32 * 'ef'),
    ],
)
def test_a_hash_that_is_wrong(name, fragment, expected, site, tmp_path):
    url = named(site, name, fragment)
    with pytest.raises(CheckpointError) as error:
        download(url, str(tmp_path))
    assert str(error.value).startswith(
        f'{url} is to have the sha256 {expected}, and what came has {SHA};'
    )
    assert content(tmp_path) == {}


def test_the_hash_of_what_is_kept_is_looked_at(site, tmp_path):
    kept = tmp_path / f'model-{SHA[:8]}.pth'
    kept.write_bytes(OTHER)
    with pytest.raises(CheckpointError) as error:
        download(named(site, kept.name), str(tmp_path))
    found = hashlib.sha256(OTHER).hexdigest()
    assert str(error.value).startswith(
        f'{kept}, kept of an earlier download, has the sha256 {found}, and '
    )
    assert str(error.value).endswith('remove that file to download it again')
    assert kept.read_bytes() == OTHER and site.requests == []


@pytest.mark.parametrize('fragment', ['#sha256=', '#sha256=xyz', '#sha256'])
def test_a_hash_must_be_one(fragment, site, tmp_path):
    with pytest.raises(CheckpointError, match='8 to 64 hexadecimal digits'):
        download(site.url + fragment, str(tmp_path))


@pytest.mark.parametrize('status', [404, 403, 500])
def test_what_the_server_says(status, site, tmp_path):
    site.status = status
    with pytest.raises(
        CheckpointError,
        match=rf'^{site.url} cannot be downloaded \(the server says '
        rf'{status} [A-Z].*\); several public links are dead: ',
    ):
        download(site.url, str(tmp_path))
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    'url, reason',
    [
        ('http://127.0.0.1:{}/a.pth', 'refused'),
        ('http://nowhere.invalid/a.pth', r'\(\[Errno -\d+\] [A-Z]'),
        ('http://[::bad/a.pth', 'IPv6'),
        ('http://127.0.0.1:port/a.pth', 'port'),
        ('http://127.0.0.1:{}/', 'names no file'),
        ('http://127.0.0.1:{}/..', 'names no file'),
        ('http://127.0.0.1:{}/a\n.pth', r"control characters; .*a\\n\.pth'"),
        ('http://127.0.0.1:{}/a\0.pth', r'control characters; .*a\\x00'),
    ],
)
def test_where_no_server_is(url, reason, tmp_path):
    with pytest.raises(CheckpointError, match=reason) as error:
        download(url.format(free_port()), str(tmp_path))
    assert '\n' not in str(error.value)


def test_a_server_that_is_silent(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_TIMEOUT', 0.2)
    site.pause = 1
    with pytest.raises(CheckpointError, match=r'cut off after .*timed out'):
        download(site.url, str(tmp_path))
    site.pause = 0
    assert download(site.url, str(tmp_path))
    assert content(tmp_path) == {'a.pth': DATA}


def test_a_folder_that_cannot_be(site, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(
        CheckpointError, match=f'^{site.url} cannot be kept in .*file/folder .*TORCH_HOME'
    ):
        download(site.url, str(tmp_path / 'file' / 'folder'))


def test_two_processes_fetch_it_once(site, tmp_path):
    """And a third goes on where one was killed."""
    code = (
        'import sys\n'
        'from biformer_mm.checkpoint.download import download\n'
        'print(download(*sys.argv[1:]))'
    )
    command = [sys.executable, '-c', code, site.url, str(tmp_path)]
    site.pause = 60
    killed = subprocess.Popen(command)
    part = tmp_path / 'a.pth.part'
    deadline = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 1000:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    site.pause = 2
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=60)[0].strip() == str(tmp_path / 'a.pth')
    assert content(tmp_path) == {'a.pth': DATA}
    assert len(site.requests) == 2 and site.requests[1].startswith('bytes=')


def test_threads_at_once_do_no_harm(site, tmp_path, monkeypatch):
    for locks in (True, False):
        if not locks:
            monkeypatch.setattr(module, 'fcntl', None)
        folder = tmp_path / str(locks)
        threads = [
            threading.Thread(target=download, args=(site.url, str(folder))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert content(folder) == {'a.pth': DATA}


def test_what_another_process_removes_first_is_no_failure(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'fcntl', None)
    remove = os.remove

    def twice(path):
        remove(path)
        remove(path)  # as if another had come in between

    monkeypatch.setattr(os, 'remove', twice)
    download(site.url, str(tmp_path))
    assert content(tmp_path) == {'a.pth': DATA}


def test_without_locks_nothing_is_left_over(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'fcntl', None)
    message = cut_off(site, tmp_path)
    assert 'cut off after 100000 of' in message
    assert content(tmp_path) == {}


# Gloo's threads are joined at the end, else they may abort the process.
DISTRIBUTED = """
import gc, sys, torch
torch.hub.set_dir(sys.argv[2])
from biformer_mm.checkpoint import CheckpointError
from biformer_mm.checkpoint.files import local_path
torch.distributed.init_process_group('gloo')
try:
    with local_path(sys.argv[1]) as path:
        print(open(path, 'rb').read() == bytes(range(256)) * 3000)
except CheckpointError as error:
    print('error:', error)
torch.distributed.destroy_process_group()
gc.collect()
"""


@pytest.mark.parametrize('status', [200, 404])
def test_rank_0_goes_first_and_its_failure_is_everybodys(status, site, tmp_path):
    site.status = status
    port = str(free_port())
    processes = [
        start(
            [sys.executable, '-c', DISTRIBUTED, site.url, tmp_path],
            tmp_path,
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=port,
            OMP_NUM_THREADS='1',
            PYTHONPATH=os.pathsep.join(sys.path),
            **launcher_variables('pytorch', rank, 2),
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output
        assert ('True' in output) == (status == 200), output
        if status == 404:
            assert f'error: {site.url} cannot be downloaded (the' in output
    assert len(site.requests) == 1
