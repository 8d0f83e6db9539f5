"""Start the processes of a distributed run as a launcher does."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Dict

from tool_runner import ROOT

SEGMENTOR = ROOT / 'tests' / 'test_distributed' / 'segmentor.py'


def free_port() -> int:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def launcher_variables(launcher: str, rank: int, world_size: int) -> Dict:
    """What a launcher tells the processes on one machine."""
    rank, world_size = str(rank), str(world_size)
    return {
        'pytorch': dict(RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=rank),
        'slurm': dict(
            SLURM_PROCID=rank,
            SLURM_NTASKS=world_size,
            SLURM_LOCALID=rank,
            SLURM_NODELIST='localhost',
            SLURM_JOB_ID='7',
        ),
        'mpi': dict(
            OMPI_COMM_WORLD_RANK=rank,
            OMPI_COMM_WORLD_SIZE=world_size,
            OMPI_COMM_WORLD_LOCAL_RANK=rank,
            OMPI_COMM_WORLD_LOCAL_SIZE=world_size,
        ),
    }[launcher]


def start(command, cwd: Path, **variables: str) -> subprocess.Popen:
    """Start a command with its output on a pipe."""
    return subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={
            **os.environ,
            'PYTHON': sys.executable,  # of the shell scripts
            **variables,
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def start_two(launcher: str, tool: str, *args, cwd: Path, **variables: str):
    """Start two processes of tools/TOOL that a launcher would start."""
    port = str(free_port())
    return [
        start(
            [sys.executable, ROOT / 'tools' / tool, *args, '--launcher', launcher],
            cwd,
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=port,
            **launcher_variables(launcher, rank, 2),
            **variables,
        )
        for rank in range(2)
    ]
