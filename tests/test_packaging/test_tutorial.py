"""The notebook, executed with a short training."""

import re
import subprocess
import sys

import pytest
import torch
from tool_runner import ROOT

nbformat = pytest.importorskip('nbformat', reason='nbformat is not installed')
nbclient = pytest.importorskip('nbclient', reason='nbclient is not installed')
pytest.importorskip('ipykernel', reason='ipykernel is not installed')

PARAMETERS = 'epochs, num_train = 16, 400'


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """The folder that it ran in, and the notebook."""
    if not hasattr(torch.serialization, 'add_safe_globals'):
        pytest.skip('reads a training checkpoint as data: PyTorch 2.4')
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('tools', 'configs', 'docs'):
        (folder / name).symlink_to(ROOT / name)
    notebook = nbformat.read(ROOT / 'docs' / 'tutorial.ipynb', as_version=4)
    first = next(c for c in notebook.cells if c.cell_type == 'code')
    assert PARAMETERS in first.source
    first.source = first.source.replace(PARAMETERS, 'epochs, num_train = 1, 8')
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name='python3',
        resources=dict(metadata=dict(path=str(folder))),
    )
    client.execute()
    return folder, notebook


def outputs(notebook, kind):
    return [
        output.data[kind]
        for cell in notebook.cells
        for output in cell.get('outputs', ())
        if kind in output.get('data', {})
    ]


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_it_says(executed):
    folder, notebook = executed
    work_dir = folder / 'work_dirs' / 'tutorial'
    for name in ('epoch_1.pth', 'curves.png', 'explorer.html', 'detections/000002.jpg.overlay.jpg'):
        assert (work_dir / name).stat().st_size > 1000
    # The routing figure and the curves; data and detections.
    assert len(outputs(notebook, 'image/png')) >= 2
    assert len(outputs(notebook, 'image/jpeg')) >= 3
    statistics = [text for text in outputs(notebook, 'text/plain') if 'self_routing' in text]
    assert len(statistics) == 1


def test_outside_of_a_checkout_it_says_so(tmp_path):
    notebook = nbformat.read(ROOT / 'docs' / 'tutorial.ipynb', as_version=4)
    first = next(c for c in notebook.cells if c.cell_type == 'code')
    code = first.source.replace('%matplotlib inline\n', '')
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, timeout=60, stderr=subprocess.PIPE, text=True
    )
    assert result.returncode == 1
    assert 'must be in a checkout of the repository' in result.stderr


@pytest.mark.slow
def test_links_lead_to_pages(executed):
    _, notebook = executed
    links = re.findall(
        r'\]\((\w+\.md)\)', '\n'.join(c.source for c in notebook.cells if c.cell_type == 'markdown')
    )
    assert len(links) >= 5
    for link in links:
        assert (ROOT / 'docs' / link).is_file(), link


def test_no_path_of_a_machine_is_in_it():
    """In what cells say; pictures are left out."""
    notebook = nbformat.read(ROOT / 'docs' / 'tutorial.ipynb', as_version=4)
    said = [
        output.get('text', '')
        + ''.join(text for kind, text in output.get('data', {}).items() if kind.startswith('text/'))
        for cell in notebook.cells
        for output in cell.get('outputs', ())
    ]
    assert any(said)
    for text in said:
        assert not re.search(r'(?:^|[\s"\'=])/\w', text), text
