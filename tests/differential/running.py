"""Train and test a case with the framework's tools and with ours."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from differential import comparing
from process_runner import free_port
from tool_runner import ROOT

HERE = Path(__file__).parent
SIDES = ('theirs', 'ours')


class Case(NamedTuple):
    """A config, and what is to be run with it.

    Args:
        name: Name of the test.
        base: Config, of a framework ('mmdet::...') or of ours.
        text: What the config says beside its base, the shrunk recipe.
        framework: Whose tools run it; that of ``base`` if it names one.
        before: The same of a training that comes first, in the same folder.
        test_args: Arguments of test.py.
        tests: Whether it is tested, too.
        ranks: Number of processes.
        limit: Seconds for one tool, on a busy machine.
        out: Whether the predictions are compared, too.
        train_fails: Last words of theirs and of ours, where they fail.
        test_fails: The same of test.py.
    """

    name: str
    base: str
    text: str = ''
    framework: Optional[str] = None
    before: Optional[str] = None
    test_args: Sequence[str] = ()
    tests: bool = True
    out: bool = True
    ranks: int = 0
    limit: int = 300
    train_fails: Sequence[Optional[str]] = (None, None)
    test_fails: Sequence[Optional[str]] = (None, None)


class Server:
    """The process of server.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HERE / 'server.py'],
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, *jobs: Dict) -> List[int]:
        """Run jobs at the same time; return their exit statuses."""
        self.process.stdin.write(json.dumps(jobs) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def call(self, script: str, *args: Any, cwd: Path) -> None:
        """Run a script of this folder, which must succeed."""
        job = make_job([HERE / script, *args], cwd, 'call.log')
        (status,) = self.run(job)
        assert status == 0, Path(job['log']).read_text()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def make_job(
    argv: Sequence, cwd: Path, log: str, limit: int = 300, no_gpu: bool = False, **env: str
) -> Dict:
    """Make what the server runs."""
    return dict(
        argv=list(map(str, argv)),
        cwd=str(cwd),
        log=str(cwd / log),
        env=env,
        limit=limit,
        no_gpu=no_gpu,
    )


def tool(framework: str, side: str, name: str) -> Path:
    """Find a side's train.py or test.py."""
    if side == 'ours':
        return ROOT / 'tools' / name
    package = Path(find_spec(framework).origin).parent
    return package / '.mim' / 'tools' / name


class Run:
    """A case in a folder of its own.

    Args:
        case: The case.
        server: Runs the tools.
        data: The data sets.
        folder: An empty folder.
    """

    def __init__(self, case: Case, server: Server, data: Path, folder: Path) -> None:
        self.case, self.server, self.data = case, server, data
        self.folder = folder
        self.framework = case.framework or case.base.partition('::')[0]
        for side in SIDES:
            (folder / side).mkdir()

    def check(self) -> None:
        """Train with both, then test theirs' checkpoint with both."""
        base = self.case.base
        if '::' not in base:
            base = str(ROOT / 'configs' / base)
        self.server.call('shrinking.py', base, self.folder / 'base.py', self.data, cwd=self.folder)
        if self.case.before is not None:
            self.train('before.py', self.case.before)
        if not self.train('config.py', self.case.text):
            return
        self.compare_training()
        if self.case.tests and self.test():
            self.compare_testing()

    def train(self, name: str, text: str) -> bool:
        """Train with both; return whether theirs could."""
        config = self.folder / name
        config.write_text(f"_base_ = './base.py'\n{dedent(text)}")
        return self.run_tools('train.py', self.case.train_fails, {side: [config] for side in SIDES})

    def test(self) -> bool:
        """Test with both; return whether theirs could."""
        checkpoint = comparing.last_checkpoint(self.folder / 'theirs/work')
        config = self.folder / 'config.py'
        out = dict(theirs='out.pkl', ours='out.pkl')
        if self.framework == 'mmseg':
            out['theirs'] = 'out'  # it writes pictures
        return self.run_tools(
            'test.py',
            self.case.test_fails,
            {
                side: [
                    config,
                    checkpoint,
                    *self.case.test_args,
                    *(['--out', out[side]] if self.case.out else []),
                ]
                for side in SIDES
            },
        )

    def run_tools(
        self, name: str, fails: Sequence[Optional[str]], args: Dict[str, Sequence]
    ) -> bool:
        """Run one tool of each side; return whether theirs succeeded."""
        kind = name[: -len('.py')]
        jobs = [
            job
            for side in SIDES
            for job in self.ranks(
                [
                    tool(self.framework, side, name),
                    *args[side],
                    '--work-dir',
                    'work' if kind == 'train' else 'test_work',
                ],
                side,
                f'{kind}.log',
            )
        ]
        statuses = self.server.run(*jobs)
        for side, text in zip(SIDES, fails):
            status = max(
                map(abs, (s for s, job in zip(statuses, jobs) if Path(job['cwd']).name == side))
            )
            log = (self.folder / side / f'{kind}.log').read_text()
            if text is None:
                assert status == 0, f'{side}: {name} ended with {status}:\n{log[-3000:]}'
            else:
                assert status, f'{side}: {name} succeeded'
                assert text in log, f'{side}: {log[-3000:]}'
        return fails == (None, None)

    def ranks(self, argv: Sequence, side: str, log: str) -> List[Dict]:
        """Make the jobs of all processes of a side."""
        cwd = self.folder / side
        if not self.case.ranks:
            return [make_job(argv, cwd, log, self.case.limit)]
        port = str(free_port())
        return [
            make_job(
                [*argv, '--launcher', 'pytorch'],
                cwd,
                log,
                self.case.limit,
                no_gpu=side == 'theirs',
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=port,
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(self.case.ranks),
            )
            for rank in range(self.case.ranks)
        ]

    def compare_training(self) -> None:
        """Compare hooks, losses, metrics and checkpoints."""
        works = [self.folder / side / 'work' for side in SIDES]
        comparing.compare_hooks(*works)
        comparing.compare_scalars(*works)
        comparing.compare_checkpoints(*works)

    def compare_testing(self) -> None:
        """Compare hooks, metrics and predictions."""
        works = [self.folder / side / 'test_work' for side in SIDES]
        comparing.compare_hooks(*works)
        comparing.compare_metrics(*works)
        if not self.case.out:
            return
        theirs, ours = (self.folder / side for side in SIDES)
        if self.framework == 'mmseg':
            comparing.compare_pictures(theirs / 'out', ours / 'out.pkl')
        else:
            comparing.compare_predictions(theirs / 'out.pkl', ours / 'out.pkl')
