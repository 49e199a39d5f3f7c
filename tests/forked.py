"""The command `gptlab` in a process forked from one that has imported torch: as real, and two seconds sooner.

Signals, exit codes, locks and files are those of any process. What Python does when it starts, and the shell's
handling of streams, are not tried: tests of those start `python -m gptlab` itself.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
# A run imports torch._dynamo when it counts its parameters, and tyro when it reads its flags.
COMMANDS = ("gptlab.cli", "gptlab.actions.train", "gptlab.commands.train", "gptlab.study.conduct")
FORKS.set_forkserver_preload([*COMMANDS, "torch._dynamo", "tyro"])


def _gptlab(words: Sequence[str]) -> int:
    from gptlab import cli

    return cli.main(words)


def _become(
    main: Callable[[Sequence[str]], int],
    words: Sequence[str],
    environment: Mapping[str, str],
    threads: int,
    said: str,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, file in ((1, os.devnull), (2, said)):
        opened = os.open(file, os.O_WRONLY)
        os.dup2(opened, stream)
        os.close(opened)
    import torch

    torch.set_num_threads(threads)  # OpenMP read its variable when it was loaded
    sys.exit(main(words))


class Forked:
    """A running command, with the methods of Popen that tests use; standard output is dropped."""

    stdin = None

    def __init__(
        self,
        words: Sequence[Any],
        environment: Mapping[str, Any] | None = None,
        threads: int = 1,
        main: Callable[[Sequence[str]], int] = _gptlab,
    ) -> None:
        handle, name = tempfile.mkstemp(prefix="gptlab_")
        os.close(handle)
        self._said = Path(name)
        environment = {**os.environ, **{key: str(value) for key, value in (environment or {}).items()}}
        arguments = (main, [*map(str, words)], environment, threads, name)
        self._process = FORKS.Process(target=_become, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("gptlab", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Wait for the end; return None, and standard error once."""
        self.wait(timeout)
        errors = self._said.read_text()
        self._said.unlink()
        return None, errors

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish_together(processes: int, words: Sequence[Any]) -> None:
    """Run `gptlab` in several processes that find each other by the variables that torchrun sets."""
    world = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [Forked(words, {**world, "RANK": rank, "LOCAL_RANK": rank}) for rank in range(processes)]
    for process in ranks:
        _, said = process.communicate()
        assert process.returncode == 0, said
