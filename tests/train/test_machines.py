"""Several machines, in network namespaces: the same numbers as on one, and one line when something is amiss."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from namespaces import ends, network, start_together
from real_runs import command, finish_together, hashes, record, rows

FLAGS = ("--train.steps", 40, "--train.save-every-steps", 5, "--eval.every-steps", 20, "--eval.tasks")
ENDLESS = (
    "--train.steps",
    100_000,
    "--train.save-every-steps",
    5,
    "--eval.every-steps",
    100_000,
    "--eval.tasks",
)


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory):
    """The run in two processes of one machine."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish_together(2, command(tiny_recipe, out, *FLAGS))
    return out


@pytest.fixture
def words(tiny_recipe, tmp_path):
    def of(*flags, out=tmp_path / "run"):
        return command(tiny_recipe, out, *(flags or FLAGS))[3:]

    return of


def steps(out):
    """Count the rows of steps, those of lost steps included."""
    metrics = out / "metrics.jsonl"
    return metrics.read_text().count('"kind": "step"') if metrics.exists() else 0


def wait_for_steps(out, count):
    deadline = time.monotonic() + 120
    while steps(out) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def as_whole(out, whole):
    assert hashes(out) == hashes(whole)
    assert record(out) == record(whole)


def test_two_machines_compute_what_one_does(whole, words, tmp_path):
    with network(2) as nodes:
        assert ends(start_together(nodes, words())) == [(0, "")] * 2
    as_whole(tmp_path / "run", whole)


@pytest.mark.slow
def test_two_processes_on_each_of_two_machines_over_a_slow_network(tiny_recipe, words, tmp_path):
    finish_together(4, command(tiny_recipe, tmp_path / "one", *FLAGS))
    with network(2) as nodes:
        for node in nodes:
            node.slow("10mbit")
        assert ends(start_together(nodes, words(), each=2)) == [(0, "")] * 4
    as_whole(tmp_path / "run", tmp_path / "one")


def test_a_missing_process_is_named(words, tmp_path):
    with network(2) as nodes:
        found = ends(start_together(nodes, words(), each=2, ranks=[0, 2], START_S=2, DOOR_S=1))
    said = (
        "gptlab train: ranks 1, 3 of 4 did not come within 2 s; here are rank 0 on a (10.0.0.1), rank 2 on b "
        "(10.0.0.2). Start the same command on every machine, and see what it says there"
    )
    assert found == [(1, said)] * 2
    assert not (tmp_path / "run").exists()


def test_rank_0_is_missing(words):
    with network(2) as nodes:
        [(code, said)] = ends(start_together(nodes, words(), ranks=[1], START_S=2))
    assert code == 1
    assert said.splitlines()[-1] == (
        "gptlab train: MASTER_ADDR = 10.0.0.1, port 29500: nothing answers there within 2 s; start rank 0 on that "
        "machine, and let the others connect to it"
    )


@pytest.fixture
def other_data(tiny_data, tmp_path):
    from gptlab.data.prepare.prepare import prepare

    folder = tmp_path / "other"
    prepare(tiny_data.parent / "english.jsonl", folder, tokenizer="bytes", val_tokens=5000, workers=1)
    return folder


@pytest.mark.parametrize("key", ["data", "optim.lr"])
def test_differences_are_refused(words, tiny_data, other_data, tmp_path, key):
    flags = {"data": ["--data.path", other_data], "optim.lr": ["--optim.lr", 0.5]}[key]
    with network(2) as nodes:
        found = ends(start_together(nodes, words(), others={1: flags}, DOOR_S=1))
    assert [code for code, _ in found] == [1, 1]
    assert found[0] == found[1]
    assert f"rank 1 on b (10.0.0.2) has {key} = " in found[0][1]
    assert not (tmp_path / "run").exists()


def test_data_may_lie_elsewhere(whole, words, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "copy")
    with network(2) as nodes:
        flags = {1: ["--data.path", tmp_path / "copy"]}
        assert ends(start_together(nodes, words(), others=flags)) == [(0, "")] * 2
    as_whole(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_machine_dies_and_the_others_continue(words, tmp_path):
    """Of three machines one loses power, of the other two one is killed, and one is left."""
    out = tmp_path / "run"
    with network(3) as nodes:
        running = start_together(nodes, words(*ENDLESS), SILENT_S=4, DOOR_S=2)
        wait_for_steps(out, 12)
        nodes[2].cut()
        began = time.monotonic()
        [one, two] = ends(running[:2])
        assert time.monotonic() - began < 20
        said = "gptlab train: rank 2 on c (10.0.0.3) went silent: the machine or its network is gone; step "
        assert one == two
        assert one[0] == 75
        assert one[1].startswith(said)
        saved = int((out / "latest").read_text().removeprefix("step_"))
        assert one[1].endswith(f"step {saved} is saved, so run the same command again to continue")
        assert ends(running[2:])[0][0] == 75
    with network(2) as nodes:
        running = start_together(nodes, words(*ENDLESS), DOOR_S=1)
        wait_for_steps(out, saved + 20)
        running[1].kill()
        [(code, said)] = ends(running[:1])
        assert (code, said) == (1, "gptlab train: rank 1 on b (10.0.0.2) ended; see what was said there")
    last = int((out / "latest").read_text().removeprefix("step_"))
    assert last > saved
    resumed = [row for row in rows(out, "event") if row["event"] == "resume"]
    assert [(row["step"], row["processes"]) for row in resumed] == [(saved, 2)]


def test_a_folder_that_only_the_first_machine_sees(whole, words, tmp_path):
    """The state is sent to the others, and a machine that lacks the newest checkpoint may not become the first."""
    a, b = tmp_path / "a", tmp_path / "b"
    with network(2) as nodes:
        for node, folder in zip(nodes, (a, b), strict=True):
            folder.mkdir()
            node.folder = folder
        running = start_together(nodes, words(out="run"))
        wait_for_steps(a / "run", 12)
        running[1].send_signal(signal.SIGUSR1)
        assert [code for code, _ in ends(running)] == [75, 75]
        nodes[0].folder, nodes[1].folder = b, a
        code, said = ends(start_together(nodes, words(out="run"), DOOR_S=1))[0]
        assert code == 1
        assert "as rank 1 on b (10.0.0.2) sees it, but only 0 as rank 0 on a (10.0.0.1) does" in said
        nodes[0].folder, nodes[1].folder = a, b
        assert ends(start_together(nodes, words(out="run"))) == [(0, "")] * 2
        assert list(b.iterdir()) == []
    as_whole(a / "run", whole)


STEPS = 1500


def torchrun(node, *options, recipe, out):
    """Start `gptlab train` under torchrun on a machine."""
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        1,
        "--max-restarts",
        3,
        *options,
    ]
    return node.start(
        [*words, "--no-python", *command(recipe, out, *FLAGS, "--train.steps", STEPS)],
        {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": 1},
    )


def trained(node):
    """Return the ids of gptlab's own processes on a machine."""
    words = {number: Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0") for number in node.numbers()}
    return [
        number for number, each in words.items() if b"gptlab" in each and b"torch.distributed.run" not in each
    ]


@pytest.mark.long
def test_torchrun_restarts_all_machines_when_a_process_dies(tiny_recipe, tmp_path):
    out = tmp_path / "run"
    finish_together(2, command(tiny_recipe, tmp_path / "whole", *FLAGS, "--train.steps", STEPS))
    with network(2) as nodes:
        place = ("--nnodes", 2, "--master-addr", nodes[0].address, "--master-port", 29500, "--node-rank")
        running = [
            torchrun(node, *place, rank, recipe=tiny_recipe, out=out) for rank, node in enumerate(nodes)
        ]
        for number, victim in enumerate([nodes[1], nodes[0]]):
            wait_for_steps(out, 20 + 40 * number)
            [process] = trained(victim)
            os.kill(process, signal.SIGKILL)
        said = [process.communicate(timeout=200)[0] for process in running]
        assert [process.returncode for process in running] == [0, 0], said
    assert "rank 1 on b (10.0.0.2) ended" in said[0]
    assert "rank 0 on a (10.0.0.1) ended" in said[1]
    as_whole(out, tmp_path / "whole")


@pytest.mark.long
def test_torchrun_continues_with_the_machines_that_are_there(tiny_recipe, tmp_path):
    """The one with rank 0 dies, and comes again; the one that keeps the rendezvous must live."""
    out = tmp_path / "run"
    with network(3) as nodes:
        where = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{nodes[2].address}:29400", "--rdzv-id", "any")
        place = ("--nnodes", "1:3", *where, "--rdzv-conf", "last_call_timeout=10")
        running = [torchrun(node, *place, recipe=tiny_recipe, out=out) for node in nodes]
        wait_for_steps(out, 20)
        nodes[0].kill()
        wait_for_steps(out, 60)
        running.append(torchrun(nodes[0], *place, recipe=tiny_recipe, out=out))
        said = [process.communicate(timeout=200)[0] for process in running]
        assert [process.returncode for process in running[1:]] == [0, 0, 0], said
    assert "rank 0 on a (10.0.0.1) ended" in said[1]
    events = [(row["event"], row.get("processes"), row.get("reason")) for row in rows(out, "event")]
    assert events == [("resume", 2, None), ("signal", None, "SIGTERM"), ("resume", 3, None)]
    assert [row["step"] for row in rows(out, "step")] == list(range(1, STEPS + 1))


KINDS = {kind: ("--train.parallel", kind) for kind in ("ddp", "zero1", "fsdp")}
"""How the processes divide their work, and the flags that ask for it."""


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_kills(words, tiny_recipe, tmp_path, kind):
    """Of two processes on two machines one is killed, at random; the other ends, and both start again."""
    flags = (*FLAGS, "--train.steps", 1000, *KINDS[kind])
    finish_together(2, command(tiny_recipe, tmp_path / "whole", *flags))
    out, draw = tmp_path / "run", random.Random(kind)
    with network(2) as nodes:
        for _ in range(20):
            running = start_together(nodes, words(*flags), START_S=10, DOOR_S=1)
            if draw.random() < 0.3:
                time.sleep(draw.uniform(0, 3))  # before the first step, most times
            else:
                wait_for_steps(out, steps(out) + draw.randint(1, 40))
            victim = draw.randrange(2)
            running[victim].kill()
            code, said = ends(running)[1 - victim]
            assert code == 1
            assert f"rank {victim} " in said
        assert steps(out) < 1000, "it ended before its last kill"
        assert ends(start_together(nodes, words(*flags))) == [(0, "")] * 2
    as_whole(out, tmp_path / "whole")
