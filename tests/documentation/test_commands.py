"""The pages' commands, code and configs, run in a sandbox.

The commands of a page are run in their order, in one shell, as they may use
each other's files and variables, and then its Python code. They are as
printed, but for the words in capital letters and for sizes and lengths, see
sandbox.py: configs have the suite's names and content with small pictures and
two epochs or three iterations. Configs are shrunk likewise and trained on; the
weights of ResNets, which would be downloaded, are left out.
"""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from documentation.blocks import BLOCKS, runnable
from documentation.configs import CONFIGS, OWN, make_data, read_config
from documentation.sandbox import DEMO, make_small, substitute
from documentation.test_python import FAST
from mmengine.utils import digit_version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        digit_version(torch.__version__) < digit_version('2.6'),
        reason='PyTorch before 2.6 needs --trust for training checkpoints',
    ),
]
SCRIPTS = [*runnable('bash')] + [block for block in runnable('python') if block.page not in FAST]
PAGES = sorted({block.page for block in SCRIPTS})
# What is done before, where a page says that it has been.
BEFORE = {
    'docs/faults.md': f'python tools/train.py configs/{DEMO}.py --cfg-options '
    'train_cfg.max_epochs=1',
    'examples/mmdet_project/README.md': 'cd examples/mmdet_project',
}
# What a page's commands and code leave.
MADE = {
    'docs/attention.md': ['patterns.png', 'field.png'],
    'docs/analysis.md': ['curves.png', 'curves.pdf', 'complexity.png'],
    'docs/deployment.md': ['retinanet.onnx', 'segmentor.onnx'],
    'docs/get_started.md': ['pictures', 'predictions.pkl', 'outputs', 'curves.png'],
    'docs/inference.md': ['found', 'outputs'],
    'docs/own_dataset.md': ['problems.json', 'work_dirs/mine/pictures'],
    'docs/routing.md': ['routing', 'routing.png', 'routing.html'],
    'docs/weights.md': ['DST-*.pth', 'converted-*.pth'],
    'examples/mmdet_project/README.md': ['examples/mmdet_project/work_dirs/*/epoch_1.pth'],
}


@pytest.fixture(scope='session')
def results(request, sandbox, variables, tmp_path_factory):
    """What came of the pages and configs chosen: {name: (folder, status,
    output)}, two being run at a time."""
    root = tmp_path_factory.mktemp('checkouts')
    chosen = {
        item.callspec.params['name']
        for item in request.session.items
        if 'results' in item.fixturenames
    }
    jobs = {}
    for number, name in enumerate(sorted(chosen)):
        folder = sandbox.checkout(root / str(number))
        jobs[name] = (
            folder,
            (write_script(name, folder) if name in PAGES else write_training(name, folder)),
        )

    def run(job):
        folder, script = job
        with open(folder / 'output.txt', 'w') as output:
            status = subprocess.run(
                ['bash', '-euo', 'pipefail', '-c', script],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
        return folder, status, (folder / 'output.txt').read_text(errors='replace')

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(jobs, pool.map(run, jobs.values())))


def write_script(page, folder):
    """The page's commands, and after them its code."""
    lines = [BEFORE.get(page, '')]
    code = []
    for block in SCRIPTS:
        if block.page != page:
            continue
        if block.language == 'python':
            code.append(substitute(block.runnable, page))
        else:
            lines.append(f'echo "--- {block.name}"')
            for command in block.runnable.replace('\\\n', '').splitlines(True):
                lines.append(substitute(command.rstrip('\n'), page))
    if code:
        (folder / 'code.py').write_text('\n'.join(code))
        lines += ['echo "--- code"', 'python code.py']
    return '\n'.join(lines)


def write_training(name, folder):
    """A training with a printed config."""
    block = next(block for block in CONFIGS if block.name == name)
    cfg = read_config(block, folder)
    if cfg.model.backbone.type.endswith('ResNet'):
        cfg.model.backbone.init_cfg = None
    make_small(cfg).dump(folder / 'small.py')
    if block.page == OWN:
        (folder / 'my_data').rename(folder / 'other_data')
        make_data(block, folder / 'my_data')
    start = (
        'tools/dist_train.sh small.py 1' if 'strategy' in cfg else 'python tools/train.py small.py'
    )
    return f'{start} --work-dir trained'


@pytest.mark.parametrize('name', PAGES)
def test_page_works_as_printed(results, name):
    folder, status, output = results[name]
    assert status == 0, output[-5000:]
    assert 'Traceback' not in output
    for made in MADE.get(name, ()):
        found = list(folder.glob(made))
        assert found, f'{made} was not made'
        assert all(path.is_dir() or path.stat().st_size for path in found)


@pytest.mark.parametrize('name', [block.name for block in CONFIGS])
def test_config_trains(results, name):
    folder, status, output = results[name]
    assert status == 0, output[-5000:]
    assert (folder / 'trained' / 'last_checkpoint').is_file()


def test_pages_are_all_there():
    """Each runnable block is in a page, a config or the first tier."""
    assert {block.page for block in BLOCKS if block.runnable and block.language == 'bash'} <= set(
        PAGES
    )
    assert set(MADE) | set(BEFORE) <= set(PAGES)
