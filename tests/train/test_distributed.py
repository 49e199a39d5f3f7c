"""Several processes on one machine: the same losses as one, also where the batch does not divide by them."""

import os
import socket
import subprocess
import sys

import pytest

from gptlab.train.metrics import read_rows

STEPS = 20
FLAGS = ("--train.steps", str(STEPS), "--eval.every-steps", "10", "--optim.lr", "1e-3")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(recipe, out, processes, *flags):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        start += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    program = [*start, "-m", "gptlab", "train", str(recipe), "--out", str(out), *FLAGS, *flags]
    done = subprocess.run(program, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def runs(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    return {n: launch(tiny_recipe, folder / str(n), n) for n in (1, 2, 3)}


def rows(out, kind):
    return [row for row in read_rows(out / "metrics.jsonl") if row["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_losses_are_those_of_one_process(runs, processes):
    expected, got = rows(runs[1], "step"), rows(runs[processes], "step")
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert [row["grad_norm"] for row in got] == pytest.approx(
        [row["grad_norm"] for row in expected], rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_evaluations_are_those_of_one_process(runs, processes):
    expected, got = rows(runs[1], "val"), rows(runs[processes], "val")
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert [row["bits_per_byte"] for row in got] == pytest.approx(
        [row["bits_per_byte"] for row in expected], rel=1e-5
    )
    # Not the accuracy: some items have an ending twice, and rounding decides between the two.
    scored = rows(runs[processes], "eval")
    assert [row["n"] for row in scored] == [7, 7, 7]
    margins = [row["margin"] for row in rows(runs[1], "eval")]
    assert [row["margin"] for row in scored] == pytest.approx(margins, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_one_process_continues_what_two_began(runs, tiny_recipe, tmp_path):
    out = launch(tiny_recipe, tmp_path / "run", 2, "--train.save-every-steps", "5", "--train.steps", "10")
    launch(tiny_recipe, out, 1)
    expected = [row["loss"] for row in rows(runs[1], "step")]
    # The first half had another length in mind, and so another rate: the second still learns from its data.
    got = [row["loss"] for row in rows(out, "step")]
    assert [row["step"] for row in rows(out, "step")] == list(range(1, STEPS + 1))
    assert got == pytest.approx(expected, rel=0.05)
