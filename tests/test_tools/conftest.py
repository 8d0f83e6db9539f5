import sys

import pytest
from tool_runner import ROOT, load_module


@pytest.fixture(scope='module')
def tool(request):
    """The tool that a file of tests names as ``TOOL``, as a module."""
    return load_module(ROOT / 'tools' / request.module.TOOL)


@pytest.fixture
def draw(request, tool, monkeypatch, capsys, tmp_path):
    """Call the tool in this process and an empty folder; give its output."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr(sys, 'argv', [request.module.TOOL, *map(str, args)])
        tool.main()
        return capsys.readouterr().out

    return call


@pytest.fixture(scope='module')
def images(shapes):
    """Two images to draw on."""
    return sorted((shapes / 'val').glob('*'))[:2]
