import re

import pytest
from tool_runner import ROOT

from biformer_mm.datasets.checks import KINDS, SEVERITIES, Problem
from biformer_mm.datasets.checks.problems import enforce
from biformer_mm.utils.errors import UsageError

ERROR = Problem('size', 'a.json', 'is 3 x 3; correct it')
WARNING = Problem('cmyk', 'a.jpg', 'is CMYK')
NOTE = Problem('grey', 'b.jpg', 'is grey')


def test_severities_are_known():
    assert set(KINDS.values()) == set(SEVERITIES)
    assert WARNING.severity == 'warning'


def test_the_documentation_lists_each_kind_with_its_severity():
    rows = re.findall(r'^\| (`.*?) \| (\w+) \|', (ROOT / 'docs' / 'rules.md').read_text(), re.M)
    listed = {kind: severity for kinds, severity in rows for kind in re.findall('`(.*?)`', kinds)}
    assert listed == KINDS


def test_errors_are_refused_with_the_way_to_allow_them():
    with pytest.raises(UsageError) as caught:
        enforce([NOTE, ERROR, Problem('label', 'c', 'is 7')], (), pytest.fail)
    assert str(caught.value) == (
        'a.json: is 3 x 3; correct it; c: is 7; if this is meant, allow size label'
    )


def test_warnings_and_allowed_errors_are_said_and_notes_are_not():
    said = []
    enforce([NOTE, WARNING, ERROR], ['size'], said.append)
    assert said == ['a.jpg: is CMYK (cmyk)', 'a.json: is 3 x 3; correct it (size)']


def test_only_five_errors_are_said_and_each_once():
    problems = [Problem('label', f'file{number}', 'is wrong') for number in range(8)]
    with pytest.raises(UsageError) as caught:
        enforce(problems + problems, (), pytest.fail)
    text = str(caught.value)
    assert [f'file{n}' in text for n in range(8)] == [True] * 5 + [False] * 3
    assert '; and 3 more, which tools/misc/check_dataset.py CONFIG lists; if' in text
