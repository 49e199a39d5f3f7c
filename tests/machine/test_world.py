import socket

import pytest
import torch
import torch.distributed as dist
from forked import free_port

from gptlab.errors import TrainError
from gptlab.machine import peers, world


@pytest.fixture
def alone_of_two(monkeypatch):
    """The environment of the first of two processes."""
    named = {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in named.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(peers, "DOOR_S", 0.1)


def test_processes_know_their_device_from_the_start(alone_of_two, monkeypatch):
    asked = {}
    monkeypatch.setattr(world, "choose_device", lambda name: torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(peers.Peers, "meet", lambda self: "start")
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **options: asked.update(options, backend=backend)
    )
    for name in ("new_group", "barrier", "monitored_barrier"):
        monkeypatch.setattr(dist, name, lambda *_, **__: None)
    monkeypatch.setattr(world, "set_timeout", lambda timeout, group: None)
    with world.join_world("auto", {}) as joined:
        assert (joined.rank, joined.size) == (0, 2)
    assert (asked["backend"], asked["device_id"]) == ("nccl", torch.device("cuda", 1))


def test_a_port_in_use_is_named(alone_of_two, monkeypatch):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(TrainError, match=f"MASTER_PORT = {port}: cannot be opened"):
            next(world.join_world("cpu", {}).gen)


def test_one_process_needs_no_addresses(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world.join_world("cpu", {}) as joined:
        assert joined.sum(2.0) == [2.0]
