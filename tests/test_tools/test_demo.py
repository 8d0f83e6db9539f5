"""tools/demo.py's token labelling, from the data to the accuracy."""

import json
import re
import sys

import pytest
from tool_runner import ROOT, load_module


@pytest.mark.slow
def test_token_labelling_is_as_accurate_as_its_teacher(tmp_path, monkeypatch, capfd):
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    demo = load_module(ROOT / 'tools' / 'demo.py')
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['demo.py', 'token_label'])
    monkeypatch.chdir(tmp_path)
    demo.main()
    (student,) = re.findall(
        r'accuracy/top1 on the held-out images: ([\d.]+)', capfd.readouterr().out
    )
    (log,) = (tmp_path / 'work_dirs' / 'biformer_demo').glob('*/vis_data/scalars.json')
    last = [x for x in map(json.loads, log.read_text().splitlines()) if 'accuracy/top1' in x][-1]
    assert float(student) >= last['accuracy/top1'] > 90
    maps = list((tmp_path / 'data/shapes/token_labels').rglob('*.pt'))
    assert len(maps) == demo.TASKS['token_label'].data['num_train']
