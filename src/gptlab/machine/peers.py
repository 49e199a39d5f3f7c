"""The processes of a run over several machines: who is there, from where, with what, and who went away.

They meet in torch's store, before any of torch's groups exists, as a group cannot say who is missing. Each announces a
port, its door, at which nothing is ever said: the system of a living process answers there however busy the process is,
the system of a dead one refuses, and a machine that is gone or cut off is silent.
"""

import hashlib
import ipaddress
import json
import os
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gptlab.errors import ConfigError, SilenceError, TrainError

START_S = 120  # for all processes to come: a cold network drive takes a minute to import torch
SILENT_S = 20  # without an answer, after which the system gives up a connection
DOOR_S = 5  # to knock at a door; at the end, as long as a process keeps its own open for the others
INTERFACE = "GLOO_SOCKET_IFNAME"
ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of Linux

Answer = Literal["alive", "dead", "silent"]
Same = Mapping[str, Mapping[str, Any]]
"""What all processes must have in common, by the remedy for a difference."""


@dataclass(frozen=True)
class Peer:
    """A process of the run."""

    rank: int
    host: str
    address: str
    port: int
    """Of its door."""
    same: Same
    start: str
    """Another one each time that the process is started."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} ({self.address})"


class Peers:
    """This process among those of its run; the store may hold entries of processes that have died."""

    def __init__(self, rank: int, size: int, store: Any, same: Same) -> None:
        address = _own_address()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._door = socket.create_server(("", 0), family=family, backlog=size)
        threading.Thread(target=self._answer, daemon=True).start()
        self._store, self._size = store, size
        plain: Same = json.loads(json.dumps(same))
        self.me = Peer(
            rank, socket.gethostname(), address, self._door.getsockname()[1], plain, uuid.uuid4().hex
        )
        self.all: list[Peer] = []
        self._start, self._staying = "", False

    def meet(self) -> str:
        """Wait for all processes, and find out whether they fit together and reach each other.

        Returns:
            A name for this start of the run, the same in all of its processes.

        Raises:
            TrainError: a process is missing, differs, or cannot reach another.
        """
        try:
            self._start = self._call()
            self._fit()
        except TrainError:
            self._stay()
            raise
        return self._start

    def _fit(self) -> None:
        for peer in self.all:
            _compare(peer, self.all[0])
        unreached = [peer for peer, found in self._knock_at_all() if found != "alive"]
        fault = f"{self.me} cannot reach {unreached[0]}, port {unreached[0].port}" if unreached else ""
        entries = [f"{self._start}/fault/{peer.rank}" for peer in self.all]
        self._store.set(entries[self.me.rank], fault)
        for fault in (text.decode() for text in self._store.multi_get(entries)):
            if fault:
                raise TrainError(
                    f"{fault}; let the machines connect to each other on all ports, or choose another network with "
                    f"{INTERFACE} (and NCCL_SOCKET_IFNAME)"
                )

    def _call(self) -> str:
        """Learn of all processes, and return a name that nobody has who did not learn of the same ones.

        A store may hold entries of processes that have died. So each confirms the entries that it found, under a name
        that depends on all of them: the dead confirm none, and whoever comes later changes the name.
        """
        self._announce()
        deadline = time.monotonic() + START_S
        entries = [f"here/{rank}" for rank in range(self._size)]
        while True:
            found = self._found(entries)
            self.all = [Peer(**json.loads(text)) for text in found.values()]
            if self._moved():
                continue
            name = hashlib.sha256("".join(found.values()).encode()).hexdigest()
            confirmed = [f"{name}/{rank}" for rank in range(self._size)]
            if len(found) == self._size:
                self._store.set(confirmed[self.me.rank], "here")
                if self._store.check(confirmed):
                    return name
            # Whoever has waited long enough tells the others, as the store may end with it.
            over = f"{name}/over"
            if time.monotonic() > deadline or self._store.check([over]):
                self._store.set(over, "")
                whole = len(found) == self._size  # but some entries are those of the dead
                self._miss(
                    [peer for peer in self.all if not whole or self._store.check([confirmed[peer.rank]])]
                )
            time.sleep(0.1)

    def _announce(self) -> None:
        self._store.set(f"here/{self.me.rank}", json.dumps(asdict(self.me)))

    def _found(self, entries: Sequence[str]) -> dict[str, str]:
        here = [entry for entry in entries if self._store.check([entry])]
        return dict(zip(here, (text.decode() for text in self._store.multi_get(here)), strict=True))

    def _moved(self) -> bool:
        """Announce another address if this one is of no use to the others.

        The name of the first machine may lead back to itself when it is looked up there.
        """
        if not _loopback(self.me.address):
            return False
        for peer in self.all:
            if not _loopback(peer.address):
                self.me = replace(self.me, address=_address_towards(peer.address, peer.port))
                self._announce()
                return True
        return False

    def _miss(self, came: Sequence[Peer]) -> None:
        missing = sorted(set(range(self._size)) - {peer.rank for peer in came})
        raise TrainError(
            f"{ranks(missing)} of {self._size} did not come within {START_S} s; here are {machines(came)}. Start the "
            "same command on every machine, and see what it says there"
        )

    def interface(self) -> str | None:
        """Return the name of the network interface with this process's address; None if that is unknown."""
        return next((name for name in _interfaces() if _address_of(name) == self.me.address), None)

    def lost(self, reason: str) -> TrainError:
        """Return the error that names the processes which ended or went silent.

        Args:
            reason: what torch says.
        """
        if not self._start:
            place = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
            return TrainError(f"rank 0 at {place}, ended before all had met; see what was said there")
        self._stay()
        self._hang_up()
        deadline = time.monotonic() + DOOR_S / 2
        while True:
            answers = self._knock_at_all()
            silent, dead = ([peer for peer, found in answers if found == kind] for kind in ("silent", "dead"))
            if silent:
                return SilenceError(f"{machines(silent)} went silent: the machine or its network is gone")
            if dead:
                return TrainError(f"{machines(self._first(dead))} ended; see what was said there")
            if time.monotonic() > deadline:
                return TrainError(f"the processes are all there, but cannot exchange data ({reason})")
            time.sleep(0.1)  # the connections of a process may end before its door does

    def _hang_up(self) -> None:
        """End the connections to the others, who may wait for this process and should look around too."""
        addresses, store = {peer.address for peer in self.all}, int(os.environ["MASTER_PORT"])
        for connection in _connections():
            with suppress(OSError):  # some are doors, or have ended
                ends = connection.getsockname(), connection.getpeername()
                if ends[1][0] in addresses and store not in (ends[0][1], ends[1][1]):
                    connection.shutdown(socket.SHUT_RDWR)

    def _first(self, dead: Sequence[Peer]) -> Sequence[Peer]:
        """Return those among the dead that did not end because of others; leave word that this process does."""
        if dead[0].rank == 0:  # and perhaps the store with it
            return dead
        self._store.set(f"{self._start}/left/{self.me.rank}", "")
        first = [peer for peer in dead if not self._store.check([f"{self._start}/left/{peer.rank}"])]
        return first or dead

    def leave(self) -> None:
        """Close the door, unless the others need it for a moment."""
        if not self._staying:
            self._close()

    def _close(self) -> None:
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        self._door.close()

    def _stay(self) -> None:
        """Let this process outlive its run a little, for those that knock or still read from its store."""
        self._staying = True
        threading.Timer(DOOR_S, self._close).start()  # not a daemon, so the process ends after it

    def _knock_at_all(self) -> list[tuple[Peer, Answer]]:
        with ThreadPoolExecutor(32) as pool:
            return list(zip(self.all, pool.map(_knock, self.all), strict=True))

    def _answer(self) -> None:
        with suppress(OSError):
            while True:
                self._door.accept()[0].close()


def watch_connections() -> None:
    """Let the system end connections of this process whose other end has not answered for SILENT_S.

    gloo asks for nothing of the kind: without it, a machine that disappears is waited for as long as an operation may
    take, which is half an hour.
    """
    every = SILENT_S // 4
    options = {
        (socket.SOL_SOCKET, "SO_KEEPALIVE"): 1,
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE"): every,
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL"): every,
        (socket.IPPROTO_TCP, "TCP_KEEPCNT"): 3,
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"): 1000 * SILENT_S,
    }
    for connection in _connections():
        with suppress(OSError):  # some have ended
            for (level, option), value in options.items():
                connection.setsockopt(level, getattr(socket, option), value)


def _connections() -> Iterator[socket.socket]:
    """Yield this process's connections over TCP, torch's included, which has no other way to them."""
    open_files = Path("/proc/self/fd")
    for file in open_files.iterdir() if open_files.is_dir() else ():  # else this is not Linux
        with suppress(OSError):  # some are closed meanwhile
            if not str(file.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(file.name))) as found:
                if found.family != socket.AF_UNIX and found.type == socket.SOCK_STREAM:
                    yield found


def ranks(numbers: Iterable[int]) -> str:
    """Return `rank 3`, or `ranks 0-3, 6`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    names = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"rank {names}" if names.isdecimal() else f"ranks {names}"


def machines(peers: Sequence[Peer]) -> str:
    """Return `ranks 0-3 on a (10.0.0.1), ranks 4-7 on b (10.0.0.2)`."""
    places: dict[tuple[str, str], list[int]] = {}
    for peer in peers:
        places.setdefault((peer.host, peer.address), []).append(peer.rank)
    return ", ".join(f"{ranks(numbers)} on {host} ({address})" for (host, address), numbers in places.items())


def _compare(peer: Peer, first: Peer) -> None:
    for remedy, values in first.same.items():
        for key, value in values.items():
            other = peer.same[remedy].get(key)
            if other != value:
                raise TrainError(f"{peer} has {key} = {other}, {first} has {value}; {remedy}")


def _knock(peer: Peer) -> Answer:
    try:
        socket.create_connection((peer.address, peer.port), DOOR_S).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return "dead"
    except OSError:
        return "silent"
    return "alive"


def _own_address() -> str:
    """Return the address at which others find this machine: of the user's interface, or else the way to rank 0.

    Raises:
        ConfigError: there is no such interface.
    """
    chosen = os.environ.get(INTERFACE, "").partition(",")[0]
    if not chosen:
        return _address_towards(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    address = _address_of(chosen)
    if address is None:
        raise ConfigError(
            f"{INTERFACE} = {chosen}: {socket.gethostname()} has no such interface with an address; it has "
            f"{', '.join(f'{name} ({_address_of(name)})' for name in _interfaces() if _address_of(name))}"
        )
    return address


def _address_towards(host: str, port: int) -> str:
    """Return this machine's address on the way to another one; nothing is sent.

    Raises:
        TrainError: there is no way.
    """
    try:
        for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as way:
                way.connect(place)
                return way.getsockname()[0]
    except OSError as error:
        raise TrainError(
            f"MASTER_ADDR = {host}: {socket.gethostname()} does not know it ({error})"
        ) from error
    raise TrainError(f"MASTER_ADDR = {host}: {socket.gethostname()} has no network that leads there")


def _loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def _address_of(interface: str) -> str | None:
    """Return an interface's address; None if it has none, or this is not Linux."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            name = struct.pack("256s", interface.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(asker, ADDRESS_OF_INTERFACE, name)[20:24])
    except (ImportError, OSError):
        return None
