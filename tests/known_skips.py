"""Reasons for which a test may be skipped where all is installed.

`pytest --known-skips` prints each skipped test with its reason and fails if
one has another: a test that is always skipped tests nothing.
"""

# As pytest prints them, with where the test runs.
KNOWN = {
    'needs a GPU': 'on a GPU',
    'no time was left': 'make test-all',
    "Triton's interpreter has no bf16 products": 'on a GPU',
    'torch 2.4 and later read it': 'make test-upstream',
}


def reason_of(report):
    """Why a test was skipped, from its report."""
    text = report.longrepr[2]
    return text.partition('Skipped: ')[2] or text


def summarize(reports):
    """List the skipped tests.

    Returns:
        A line on each test, and the reasons that are not known.
    """
    found = {}
    for report in reports:
        found.setdefault(reason_of(report), []).append(report.nodeid)
    lines = [f'{name}: {reason}' for reason, names in found.items() for name in names]
    return lines, sorted(set(found) - set(KNOWN))
