import pytest


@pytest.fixture(scope='session')
def server():
    """Runs tools in processes."""
    from differential.running import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(scope='session')
def tiny_data(server, tmp_path_factory):
    """Tiny data sets in the layouts of COCO, ADE20K and ImageNet."""
    root = tmp_path_factory.mktemp('differential')
    server.call('data.py', root / 'data', cwd=root)
    return root / 'data'


@pytest.fixture
def check(server, tiny_data, tmp_path):
    """Check a case."""
    from differential.running import Run

    def run(case):
        Run(case, server, tiny_data, tmp_path).check()

    return run
