"""The fenced blocks of the pages, and which of them are run.

A block of ```bash or ```python is run by the tests, unless a comment directly
above it says why not:

    <!-- not run: needs eight GPUs -->

Where only some lines cannot be run, the comment names a word of each first:

    <!-- not run, dist_train.sh, srun: needs eight GPUs, Slurm -->
"""

import ast
import re
from pathlib import Path
from typing import Iterator, List, NamedTuple, Tuple

from tool_runner import ROOT

PAGES = [
    ROOT / 'README.md',
    ROOT / 'benchmarks' / 'README.md',
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'examples').rglob('*.md')),
]
# What is run, and what says something else than commands, Python and configs.
RUN = ('bash', 'python')
OTHER = ('', 'json', 'diff', 'bibtex')
_FENCE = re.compile(r'^ *```(\S*) *$')
_MARKER = re.compile(
    r'^ *<!-- not run(?P<words>(?:, [^:,]+)*)'
    r'(?:: *(?P<reason>.*?))? *-->$'
)
_COMMAND = re.compile(r'^\s*(\$|python|pip|make|mim|bash|sh) \S')


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: Path of the page, from the root.
        line: Number of the line with the first fence.
        language: What the fence says.
        text: What is between the fences.
        marker: The comment above that says it is not run; '' if there is none.
    """

    page: str
    line: int
    language: str
    text: str
    marker: str

    @property
    def name(self) -> str:
        return f'{self.page}:{self.line}'

    @property
    def is_config(self) -> bool:
        """Whether it is Python that only sets the fields of a config."""
        return self.language == 'python' and not any(
            isinstance(node, (ast.Import, ast.ImportFrom))
            for node in ast.walk(ast.parse(self.text))
        )

    @property
    def runnable(self) -> str:
        """The lines that are run; '' if there are none."""
        if not self.marker:
            return self.text
        words = _MARKER.match(self.marker)['words'].split(', ')[1:]
        if not words:
            return ''
        commands = re.findall(r'(?:.*\\\n)*.*\n', self.text)
        return ''.join(
            command for command in commands if not any(word in command for word in words)
        )


def read_blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the blocks of a page."""
    lines = iter(enumerate(text.splitlines(), 1))
    above = ''
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence:
            inside = []
            for _, inner in lines:
                if inner.strip() == '```':
                    break
                inside.append(inner + '\n')
            marker = above if above.strip().startswith('<!-- not run') else ''
            yield Block(page, number, fence[1], ''.join(inside), marker)
        above = line


def find_faults(page: str, text: str) -> List[Tuple[int, str]]:
    """Find the blocks and comments that break the rules above."""
    faults, used = [], 0
    for block in read_blocks(page, text):
        used += bool(block.marker)
        if block.language not in RUN + OTHER:
            faults.append((block.line, f'is in {block.language!r}: say one of {RUN + OTHER}'))
        if block.language in OTHER:
            if any(map(_COMMAND.match, block.text.splitlines())):
                faults.append((block.line, 'has commands: say ```bash'))
            if block.marker:
                faults.append((block.line, 'is never run: no comment needed'))
        if not block.marker:
            continue
        marker = _MARKER.match(block.marker)
        if not marker or not marker['reason']:
            faults.append((block.line, 'is not run, and no reason is given'))
            continue
        for word in marker['words'].split(', ')[1:]:
            if word not in block.text:
                faults.append((block.line, f'has no line with {word}'))
        if marker['words'] and not _has_commands(block.runnable):
            faults.append((block.line, 'has no line that is run'))
    if text.count('<!-- not run') != used:
        faults.append((0, 'has a comment <!-- not run --> above no block'))
    return faults


def _has_commands(text: str) -> bool:
    return any(line.strip() and not line.strip().startswith('#') for line in text.splitlines())


BLOCKS = [
    block
    for page in PAGES
    for block in read_blocks(str(Path(page).relative_to(ROOT)), page.read_text(encoding='utf-8'))
]


def runnable(language: str, config: bool = False) -> List[Block]:
    """The blocks of a language, or all configs, that are run."""
    return [
        block
        for block in BLOCKS
        if block.language == language and block.is_config == config and block.runnable
    ]
