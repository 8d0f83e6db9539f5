from biformer_mm.datasets.checks import KINDS, SEVERITIES, Problem


def test_severities_are_known():
    assert set(KINDS.values()) == set(SEVERITIES)
    assert Problem('cmyk', 'a.jpg', '').severity == 'warning'
