"""Machines of a small network on this one: network namespaces behind a bridge, each with its own address and name.

`with network(2) as (first, second):` needs root and `ip`, and skips the test by name without them.
"""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import forked
import pytest

NUMBERS = count()
ETC = Path("/etc/netns")  # what `ip netns exec` lays over /etc
NEW_UTS, NEW_NET = 0x04000000, 0x40000000  # CLONE_NEWUTS and CLONE_NEWNET of <linux/sched.h>


def _ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


@dataclass
class Node:
    """A machine of the network."""

    name: str
    address: str
    space: str
    """Its network namespace."""
    switch: str
    """The network namespace of the bridge."""
    folder: Path = field(default_factory=Path.cwd)
    """Where `run` starts its commands."""
    processes: list[Any] = field(default_factory=list)

    @property
    def cable(self) -> str:
        """The bridge's end of its link."""
        return f"to_{self.name}"

    def run(
        self, words: Sequence[Any], environment: Mapping[str, Any], patch: Mapping[str, Any]
    ) -> forked.Forked:
        """Start `gptlab` here, with other constants of gptlab.machine.peers."""
        main = _Here(self.space, self.name, self.folder, patch)
        self.processes.append(forked.Forked(words, environment, main=main))
        return self.processes[-1]

    def start(
        self, words: Sequence[Any], environment: Mapping[str, Any] | None = None
    ) -> subprocess.Popen[str]:
        """Start any command here."""
        given = {**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in (environment or {}).items()}}
        named = f'hostname {self.name} && exec "$@"'
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.space, "unshare", "--uts", "sh", "-c", named, "-", *map(str, words)],
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def cut(self) -> None:
        """Pull its cable out of the bridge: nothing arrives, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self.cable, "nomaster")

    def mend(self) -> None:
        """Put the cable back."""
        _ip("-n", self.switch, "link", "set", self.cable, "master", "bridge")

    def slow(self, rate: str) -> None:
        """Limit what it sends, such as "10mbit"."""
        words = f"-n {self.space} qdisc replace dev eth0 root tbf rate {rate} burst 32kb latency 200ms"
        subprocess.run(["tc", *words.split()], check=True, capture_output=True)

    def numbers(self) -> list[int]:
        """Return the ids of all processes here."""
        return _numbers(self.space)

    def kill(self) -> None:
        """Kill all processes here at once."""
        for number in self.numbers():
            _end(number)


@dataclass(frozen=True)
class _Here:
    """Runs `gptlab` in a namespace, under the host name of a machine."""

    space: str
    name: str
    folder: Path
    patch: Mapping[str, Any]

    def __call__(self, words: Sequence[str]) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.space).open() as space:
            if libc.setns(space.fileno(), NEW_NET) or libc.unshare(NEW_UTS):
                raise OSError(ctypes.get_errno(), "no namespace")
        socket.sethostname(self.name)
        os.chdir(self.folder)
        from gptlab import cli
        from gptlab.machine import peers

        for constant, value in self.patch.items():
            setattr(peers, constant, value)
        return cli.main(words)


def start_together(
    nodes: Sequence[Node],
    words: Sequence[Any],
    *,
    each: int = 1,
    ranks: Sequence[int] | None = None,
    others: Mapping[int, Sequence[Any]] | None = None,
    **patch: Any,
) -> list[forked.Forked]:
    """Start `gptlab` on some machines, in processes that find each other by the variables that torchrun sets.

    Args:
        nodes: the machines.
        words: the command.
        each: processes of each machine.
        ranks: which processes come; None means all.
        others: more words, by rank.
        patch: constants of gptlab.machine.peers.
    """
    size = each * len(nodes)
    world = {"WORLD_SIZE": size, "MASTER_ADDR": nodes[0].address, "MASTER_PORT": 29500}
    return [
        nodes[rank // each].run(
            [*words, *(others or {}).get(rank, ())], {**world, "RANK": rank, "LOCAL_RANK": rank % each}, patch
        )
        for rank in (range(size) if ranks is None else ranks)
    ]


def ends(processes: Sequence[forked.Forked]) -> list[tuple[int, str]]:
    """Wait for processes; return the exit code of each and what it said on standard error."""
    said = [process.communicate(timeout=240)[1] for process in processes]
    return [(process.returncode or 0, _own(text)) for process, text in zip(processes, said, strict=True)]


def _own(text: str) -> str:
    """Leave out the progress, and what torch says because the addresses here have no names."""
    lines = text.splitlines()
    return "\n".join(
        line for line in lines if not re.match("step .* ETA|.*hostname of the client socket", line)
    )


def _end(number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def _numbers(space: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=True)
    return [int(number) for number in found.stdout.split()]


def _remove(space: str) -> None:
    for number in _numbers(space):
        _end(number)
    _ip("netns", "delete", space)
    shutil.rmtree(ETC / space, ignore_errors=True)


def _remove_those_of_the_dead() -> None:
    """Remove what a test run that was killed has left."""
    for space in Path("/run/netns").glob("gptlab_*"):
        if not Path("/proc", space.name.split("_")[1]).exists():
            _remove(space.name)


@contextmanager
def network(nodes: int) -> Generator[list[Node]]:
    """Make some machines called a, b, c with addresses 10.0.0.1, 10.0.0.2, 10.0.0.3; nothing of them stays.

    Commands that `start` runs know the names.
    """
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root and `ip` to make network namespaces")
    _remove_those_of_the_dead()
    stem = f"gptlab_{os.getpid()}_{next(NUMBERS)}"
    switch = f"{stem}_switch"
    made = [Node(name, f"10.0.0.{1 + at}", f"{stem}_{name}", switch) for at, name in enumerate("abc"[:nodes])]
    spaces: list[str] = []
    try:
        try:
            for space in (switch, *(node.space for node in made)):
                _ip("netns", "add", space)
                spaces.append(space)
            _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", switch, "link", "set", "bridge", "up")
            for node in made:
                _ip(
                    "-n",
                    switch,
                    "link",
                    "add",
                    "name",
                    node.cable,
                    "type",
                    "veth",
                    "peer",
                    "eth0",
                    "netns",
                    node.space,
                )
                _ip("-n", switch, "link", "set", node.cable, "up", "master", "bridge")
                _ip("-n", node.space, "address", "add", f"{node.address}/24", "dev", "eth0")
                hosts = [f"{each.address} {each.name}" for each in made]
                (ETC / node.space).mkdir(parents=True)
                (ETC / node.space / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts, ""]))
                for link in ("lo", "eth0"):
                    _ip("-n", node.space, "link", "set", link, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs network namespaces: {error.stderr.decode().strip()}")
        yield made
    finally:
        for space in spaces:
            _remove(space)
        for node in made:
            for process in node.processes:
                process.wait()
