"""Run Python scripts in processes that have imported the libraries already.

Each line of the input is a JSON list of jobs, which run at the same time; the
answer is a line with the list of their exit statuses. A job is a dict:

    argv    the script and its arguments
    cwd     its working directory
    log     the file for what it prints
    env     further environment variables
    limit   seconds after which it is ended
    no_gpu  whether requests for a GPU, as of MMEngine's launchers, are void

The frameworks themselves are left for the scripts to import.
"""

import json
import os
import runpy
import signal
import sys
from importlib import import_module

_LIBRARIES = (
    'imgaug',
    'matplotlib.pyplot',
    'mmcv.ops',
    'mmengine.runner',
    'pycocotools.coco',
    'scipy.stats',
    'torchvision',
)


def run(job: dict) -> None:
    """Run a job in this process, which then ends."""
    signal.alarm(job['limit'])
    os.environ.update(job['env'])
    os.chdir(job['cwd'])
    log = os.open(job['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(file, number)
    if job['no_gpu']:
        import_module('torch').cuda.set_device = lambda device: None
    sys.argv = job['argv']
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name='__main__')
    sys.exit()


def main() -> None:
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for name in _LIBRARIES:
        import_module(name)
    # Configs are written often; to lay them out takes longer than the rest.
    yapf_api = import_module('yapf.yapflib.yapf_api')
    yapf_api.FormatCode = lambda text, **kwargs: (text, True)
    for line in sys.stdin:
        pids = []
        for job in json.loads(line):
            pid = os.fork()
            if not pid:
                run(job)
            pids.append(pid)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(statuses), file=answers, flush=True)


if __name__ == '__main__':
    main()
