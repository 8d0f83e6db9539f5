"""A `python` that has imported the libraries already.

`python preloaded.py serve SOCKET` waits for calls; each is run in a forked
process, as `python ...` would run it. `python -SE preloaded.py call SOCKET
ARGUMENTS...` is such a call: it passes on its arguments, folder, environment
and files, and ends with the status of the run. The frameworks themselves are
left for the scripts to import.
"""

import json
import os
import signal
import socket
import sys

_LENGTH = 1 << 20  # of a call, at most: its arguments and variables


def serve(path: str) -> None:
    import runpy  # noqa: F401

    import imgaug  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import mmcv.ops  # noqa: F401
    import mmengine.runner  # noqa: F401
    import pycocotools.coco  # noqa: F401
    import torchvision  # noqa: F401

    # Children that answered need not be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print('ready', flush=True)
        while True:
            connection, _ = server.accept()
            if not os.fork():
                server.close()
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Run a call in a process of its own and send its status; in a fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, files, _, _ = socket.recv_fds(connection, _LENGTH, 3)
    pid = os.fork()
    if not pid:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        run(**json.loads(text))
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.sendall(str(status % 256).encode())
    os._exit(0)


def run(argv: list, cwd: str, env: dict) -> None:
    """Do what `python` does with these arguments."""
    import runpy
    import types

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if argv[0] == '-u':
        argv = argv[1:]
    kind = argv[0]
    sys.argv = argv[1:] if kind in ('-c', '-m') else argv
    if kind == '-m':
        sys.path[0] = cwd
        runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    elif kind == '-c':
        sys.path[0], sys.argv[0] = '', '-c'
        module = sys.modules['__main__'] = types.ModuleType('__main__')
        exec(compile(argv[1], '<string>', 'exec'), module.__dict__)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name='__main__')


def call(path: str, *argv: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        text = json.dumps(dict(argv=argv, cwd=os.getcwd(), env=dict(os.environ)))
        socket.send_fds(connection, [text.encode()], [0, 1, 2])
        sys.exit(int(connection.recv(16) or 1))


if __name__ == '__main__':
    dict(serve=serve, call=call)[sys.argv[1]](*sys.argv[2:])
