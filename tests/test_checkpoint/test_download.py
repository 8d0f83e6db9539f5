"""Downloads from a server that is slow, cut off, wrong, or not there."""

import hashlib
import multiprocessing
import sys
import threading
import time
import traceback
from base64 import b64encode
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch.downloaders
import pytest
import torch
from process_runner import free_port

from biformer_mm.checkpoint import CheckpointError
from biformer_mm.checkpoint.download import download, local_path, without_secrets

DATA = bytes(range(256)) * 3000
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[::-1]
SECRETS = ('us3r', 'passw0rd', 't0ken')
SECRET_URL = 'http://us3r:passw0rd@127.0.0.1:{}/a.pth?key=t0ken'


class Site:
    """What the server has, how it behaves, and what it was asked."""

    data = DATA
    length = None  # the length that it claims; None is the true one, False sends none
    pause = 0  # seconds before the last byte
    status = 200
    location = None  # of a redirect

    def __init__(self):
        self.requests = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        site.requests.append(self.headers.get('Authorization'))
        if site.status != 200 and not site.location:
            self.send_error(site.status)
            return
        self.send_response(site.status)
        if site.location:
            self.send_header('Location', site.location)
        if site.length is not False:
            self.send_header('Content-Length', site.length or len(site.data))
        self.end_headers()
        self.wfile.write(site.data[:-1])
        self.wfile.flush()
        time.sleep(site.pause)
        with suppress(ConnectionError):  # the client has gone
            self.wfile.write(site.data[-1:])

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.site = Site()
    server.site.port = server.server_port
    server.site.url = f'http://127.0.0.1:{server.server_port}/a.pth'
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.site
    server.shutdown()
    server.server_close()


def content(folder):
    """Names and contents of the files in a folder, without empty locks."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != '.lock'}


def failure(url, folder):
    """The message of a download that fails and leaves nothing."""
    with pytest.raises(CheckpointError) as error:
        download(url, str(folder))
    assert content(folder) == {}
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('length', [None, False])
def test_a_file_is_kept_and_not_asked_for_again(length, site, tmp_path):
    site.length = length
    for _ in range(2):
        path = download(site.url, str(tmp_path / 'new' / 'folder'))
        assert path == str(tmp_path / 'new' / 'folder' / 'a.pth')
    assert content(tmp_path / 'new' / 'folder') == {'a.pth': DATA}
    assert len(site.requests) == 1


def test_a_file_has_the_permissions_of_any_new_file(site, tmp_path):
    (tmp_path / 'new').touch()
    path = download(site.url, str(tmp_path / 'folder'))
    assert (tmp_path / 'new').stat().st_mode == (tmp_path / path).stat().st_mode


def test_a_file_that_is_cut_off_is_not_kept(site, tmp_path):
    site.length = len(DATA) + 7
    message = failure(site.url, tmp_path)
    assert message.startswith(f'{site.url} cannot be fetched (')
    assert f'{len(DATA)} bytes read, 7 more expected' in message
    site.length = None
    download(site.url, str(tmp_path))
    assert content(tmp_path) == {'a.pth': DATA}


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
        ('model_1x-20260131.pth', ''),  # a date, not a hash
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
        ('model-202613310.pth', '', '202613310'),  # longer than a date
        ('a.pth', '#sha256=0badc0de', '0badc0de'),
        (f'model-{SHA[:8]}.pth', '#sha256=' + 32 * 'EF', 32 * 'ef'),
    ],
)
def test_a_hash_that_is_wrong(name, fragment, expected, site, tmp_path):
    url = named(site, name, fragment)
    assert failure(url, tmp_path) == (
        f'{url} must have the sha256 {expected}, got {SHA}; get it elsewhere and give its path'
    )


def test_the_hash_of_a_kept_file_is_verified(site, tmp_path):
    kept = tmp_path / f'model-{SHA[:8]}.pth'
    kept.write_bytes(OTHER)
    url = named(site, kept.name)
    with pytest.raises(CheckpointError) as error:
        download(url, str(tmp_path))
    assert str(error.value) == (
        f'{kept} must have the sha256 {SHA[:8]}, got {hashlib.sha256(OTHER).hexdigest()}; '
        f'remove it to download {url} again'
    )
    assert kept.read_bytes() == OTHER and site.requests == []


@pytest.mark.parametrize('fragment', ['#sha256=', '#sha256=xyz', '#sha256', '#sha256=1234567'])
def test_a_hash_must_be_one(fragment, site, tmp_path):
    assert '8 to 64 hexadecimal digits' in failure(site.url + fragment, tmp_path)
    assert site.requests == []


@pytest.mark.parametrize('status', [404, 403, 500])
def test_a_refusal_of_the_server_is_named(status, site, tmp_path):
    site.status = status
    message = failure(site.url, tmp_path)
    assert message.startswith(f'{site.url} cannot be fetched (HTTPError: {status} ')
    assert message.endswith('; give the path of a copy')


@pytest.mark.parametrize(
    'url, reason',
    [
        ('http://127.0.0.1:{}/a.pth', 'Connection refused'),
        ('http://nowhere.invalid/a.pth', "Failed to resolve 'nowhere.invalid'"),
        ('http://[::bad/a.pth', 'must name a file'),
        ('http://127.0.0.1:port/a.pth', 'InvalidURL'),
        ('http://127.0.0.1:{}/', 'must name a file'),
        ('http://127.0.0.1:{}/..', 'must name a file'),
        ('http://127.0.0.1:{}/a\n.pth', r'a\n.pth'),
        ('http://127.0.0.1:{}/a\0.pth', r'a\x00.pth'),
    ],
)
def test_a_url_without_a_server(url, reason, tmp_path):
    assert reason in failure(url.format(free_port()), tmp_path)


def test_a_server_that_is_silent(site, tmp_path, monkeypatch):
    monkeypatch.setattr(pooch.downloaders, 'DEFAULT_TIMEOUT', 0.2)
    site.pause = 1
    assert 'Read timed out' in failure(site.url, tmp_path)


def test_a_folder_that_cannot_be_made(site, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(CheckpointError, match=r'cannot be kept in .*file/folder .*TORCH_HOME'):
        download(site.url, str(tmp_path / 'file' / 'folder'))


def test_missing_pooch_is_named(site, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pooch', None)
    message = failure(site.url, tmp_path)
    assert 'pooch' in message and message.endswith('give the path of a copy')


def test_credentials_are_sent_and_not_kept(site, tmp_path, capfd, caplog):
    caplog.set_level('INFO')
    path = download(SECRET_URL.format(site.port), str(tmp_path))
    assert path == str(tmp_path / 'a.pth')
    assert site.requests == ['Basic ' + b64encode(b'us3r:passw0rd').decode()]
    assert (*capfd.readouterr(), caplog.text) == ('', '', '')


@pytest.mark.parametrize(
    'change',
    [
        dict(status=404),
        dict(length=len(DATA) + 7),
        dict(status=302, location='ftp://us3r:passw0rd@127.0.0.1/a.pth?key=t0ken'),
        dict(port=free_port()),
        dict(port='port'),
        dict(port='1]'),
    ],
)
@pytest.mark.parametrize('fragment', ['', '#sha256=0badc0de', '#sha256='])
def test_credentials_are_not_in_errors(change, fragment, site, tmp_path):
    vars(site).update(change)
    with pytest.raises(CheckpointError) as error:
        download(SECRET_URL.format(site.port) + fragment, str(tmp_path))
    shown = ''.join(
        traceback.format_exception(type(error.value), error.value, error.value.__traceback__)
    )
    assert str(error.value).strip("'").startswith('http://127.0.0.1')
    assert not any(secret in shown for secret in SECRETS)


def test_credentials_are_not_in_errors_of_other_storage():
    with pytest.raises(CheckpointError) as error, local_path('s3://us3r@bucket/a.pth?key=t0ken'):
        pass
    assert str(error.value).startswith('s3://bucket/a.pth cannot be fetched (')
    assert not any(secret in str(error.value) for secret in SECRETS)


@pytest.mark.parametrize('path', ['a?b.pth', 'folder@home/a.pth', 'https://example.org/@1/a.pth'])
def test_a_path_has_no_secrets(path):
    assert without_secrets(path) == path


def test_one_process_downloads_while_another_waits(site, tmp_path):
    """And a process that is killed leaves no lock."""
    fork = multiprocessing.get_context('fork')  # fast: torch is imported already
    first, second, third = (
        fork.Process(target=download, args=(site.url, str(tmp_path))) for _ in range(3)
    )
    site.pause = 60
    first.start()
    while not site.requests:
        assert first.is_alive()
        time.sleep(0.02)
    first.kill()
    first.join()
    site.pause = 1
    second.start()
    third.start()
    second.join(60)
    third.join(60)
    assert second.exitcode == third.exitcode == 0
    assert content(tmp_path)['a.pth'] == DATA
    assert len(site.requests) == 2


def test_threads_download_once(site, tmp_path):
    site.pause = 0.2
    threads = [threading.Thread(target=download, args=(site.url, str(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(tmp_path) == {'a.pth': DATA}
    assert len(site.requests) == 1


def test_a_url_is_kept_in_torchs_cache(site, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with local_path(site.url) as path:
        assert path == str(tmp_path / 'checkpoints' / 'a.pth')
    assert content(tmp_path / 'checkpoints') == {'a.pth': DATA}


def test_a_path_is_given_as_it_is(tmp_path):
    for path in (str(tmp_path / 'a.pth'), tmp_path / 'a.pth'):
        with local_path(path) as found:
            assert found == str(tmp_path / 'a.pth')
