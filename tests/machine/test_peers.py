"""How the processes of a run meet, here in threads around one store."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from forked import free_port

from gptlab.errors import ConfigError, GptlabError, SilenceError, TrainError
from gptlab.machine import peers
from gptlab.machine.peers import Peer, Peers, machines, ranks


@pytest.fixture(autouse=True)
def here(monkeypatch):
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    for name, seconds in {"START_S": 1, "DOOR_S": 0.5}.items():
        monkeypatch.setattr(peers, name, seconds)


@pytest.fixture
def store():
    return dist.HashStore()


def meet(store, members):
    """Let processes meet; return the names or errors that they get."""

    def one(member):
        try:
            return member.meet()
        except GptlabError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, members))


def company(store, size=3, same=None):
    return [Peers(rank, size, store, (same or {}).get(rank, {})) for rank in range(size)]


def test_all_get_the_same_name_and_list(store):
    members = company(store)
    names = meet(store, members)
    assert len(set(names)) == 1
    assert [[peer.rank for peer in member.all] for member in members] == [[0, 1, 2]] * 3
    assert members[0].all == members[1].all
    assert {peer.host for peer in members[0].all} == {socket.gethostname()}


def test_the_entries_of_the_dead_are_not_counted(store):
    """Another start finds those of the one before: the same ranks, with ports that are closed."""
    before = company(store)
    first = meet(store, before)
    for member in before:
        member.leave()
    members = company(store)
    again = meet(store, members[:2])
    assert all(
        str(error).startswith("rank 2 of 3 did not come within 1 s; here are ranks 0-1 on ")
        for error in again
    )
    members = company(store)
    names = meet(store, members)
    assert len(set(names)) == 1
    assert names[0] != first[0]
    assert [peer.port for peer in members[0].all] == [member.me.port for member in members]


def test_fewer_meet_where_more_had_met(store):
    meet(store, company(store))
    members = company(store, 2)
    assert len(set(meet(store, members))) == 1
    assert len(members[0].all) == 2


def test_the_missing_are_named_to_all_at_the_same_time(store, monkeypatch):
    members = company(store, 4)
    monkeypatch.setattr(peers, "START_S", 0.5)
    told = meet(store, [members[0], members[3]])
    assert str(told[0]) == str(told[1])
    where = f"{socket.gethostname()} (127.0.0.1)"
    assert str(told[0]).startswith(
        f"ranks 1-2 of 4 did not come within 0.5 s; here are ranks 0, 3 on {where}. Start"
    )


def test_a_difference_is_told_with_its_remedy(store):
    same = {rank: {"install the same versions": {"torch": "3.1"}} for rank in range(3)}
    same[2] = {"install the same versions": {"torch": "3.0"}}
    told = meet(store, company(store, same=same))
    where = f"on {socket.gethostname()} (127.0.0.1)"
    assert {str(error) for error in told} == {
        f"rank 2 {where} has torch = 3.0, rank 0 {where} has 3.1; install the same versions"
    }


def test_tuples_are_lists_to_all(store):
    same = {rank: {"remedy": {"key": (1, 2)}} for rank in range(3)}
    assert len(set(meet(store, company(store, same=same)))) == 1


def test_whoever_cannot_be_reached_is_told_to_all(store, monkeypatch):
    members = company(store)
    knock = peers._knock

    def closed(peer):
        return "silent" if peer.rank == 1 else knock(peer)

    monkeypatch.setattr(peers, "_knock", closed)
    told = meet(store, members)
    assert len({str(error) for error in told}) == 1
    assert (
        f"cannot reach rank 1 on {socket.gethostname()} (127.0.0.1), port {members[1].me.port}; let"
        in str(told[0])
    )


def test_who_ended_is_told_from_who_ended_because_of_it(store):
    members = company(store)
    meet(store, members)
    members[2].leave()
    where = f"on {socket.gethostname()} (127.0.0.1)"
    assert str(members[1].lost("gloo")) == f"rank 2 {where} ended; see what was said there"
    members[1]._close()
    assert str(members[0].lost("gloo")) == f"rank 2 {where} ended; see what was said there"


def test_silence_is_told_from_death(store, monkeypatch):
    members = company(store)
    meet(store, members)
    members[1].leave()
    members[0].all[2] = replace(
        members[2].me, host="c", address="192.0.2.77"
    )  # for documentation: nobody has it
    error = members[0].lost("gloo")
    assert isinstance(error, SilenceError)
    assert str(error) == "rank 2 on c (192.0.2.77) went silent: the machine or its network is gone"


def test_nobody_is_accused_without_cause(store):
    members = company(store)
    meet(store, members)
    error = members[0].lost("Timed out")
    assert type(error) is TrainError
    assert str(error) == "the processes are all there, but cannot exchange data (Timed out)"


def test_a_first_machine_whose_name_leads_to_itself(store, monkeypatch):
    """It learns its address from the way to the others."""
    members = company(store, 2)
    monkeypatch.setattr(
        peers, "_address_towards", lambda host, port: "10.0.0.1" if host == "10.0.0.2" else "127.0.0.1"
    )
    monkeypatch.setattr(peers, "_knock", lambda peer: "alive")
    members[1].me = replace(members[1].me, address="10.0.0.2")
    assert len(set(meet(store, members))) == 1
    assert [peer.address for peer in members[1].all] == ["10.0.0.1", "10.0.0.2"]


def test_an_interface_that_is_not_there(store, monkeypatch):
    monkeypatch.setenv(peers.INTERFACE, "eth99")
    with pytest.raises(
        ConfigError, match=r"GLOO_SOCKET_IFNAME = eth99: .* has no such interface .* lo \(127.0.0.1\)"
    ):
        Peers(0, 2, store, {})


def test_a_name_that_nobody_knows(store, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    with pytest.raises(TrainError, match=r"MASTER_ADDR = no-such-host.invalid: .* does not know it"):
        Peers(0, 2, store, {})


def test_the_interface_of_an_address(store):
    assert Peers(0, 2, store, {}).interface() == "lo"


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_connections_are_watched_and_files_left_alone(tmp_path):
    before = open_files()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        peers.watch_connections()
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * peers.SILENT_S
    assert open_files() == before


@pytest.mark.parametrize(
    ("numbers", "said"), [([3], "rank 3"), ([0, 1], "ranks 0-1"), ([0, 1, 2, 5, 7, 8], "ranks 0-2, 5, 7-8")]
)
def test_ranks_in_words(numbers, said):
    assert ranks(numbers) == said


def test_machines_in_words():
    one = Peer(0, "a", "10.0.0.1", 1, {}, "x")
    assert machines([one, replace(one, rank=1), replace(one, rank=2, host="b")]) == (
        "ranks 0-1 on a (10.0.0.1), rank 2 on b (10.0.0.1)"
    )


def test_a_store_that_ends_before_all_have_met(store):
    members = company(store)
    told = str(members[1].lost("Broken pipe"))
    assert told.startswith("rank 0 at 127.0.0.1, port ")
    assert told.endswith(" ended before all had met; see what was said there")
