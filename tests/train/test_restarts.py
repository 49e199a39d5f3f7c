"""Processes that die under torchrun, which restarts them all: the run continues as if nothing happened."""

import os
import signal
import time

import pytest
from real_runs import command, finish, finish_together, hashes, launcher, record, rows, start

FLAGS = ("--train.steps", "200", "--train.save-every-steps", "7", "--eval.every-steps", "60")

# Each process notes its number under its start and rank.
NOTED = ("bash", "-c", 'echo $BASHPID > "$0/$TORCHELASTIC_RESTART_COUNT.$RANK"; exec "$@"')


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    finish_together(2, command(tiny_recipe, out, *FLAGS))
    return out


def wait_for_steps(out, count, begun):
    """Wait until the run, after a number of starts, has recorded a number of steps."""
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline:
        lines = metrics.read_text().split('"event": "resume"') if metrics.exists() else []
        if len(lines) == begun and lines[-1].count('"kind": "step"') >= count:
            return
        time.sleep(0.005)
    raise AssertionError("no steps within five minutes")


@pytest.fixture
def numbers(tmp_path):
    """The folder in which processes note their numbers."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    return folder


def elastic(restarts, numbers, recipe, out):
    return [*launcher(2, "--max-restarts", restarts), *NOTED, str(numbers), *command(recipe, out, *FLAGS)]


def send(number, noted):
    os.kill(int(noted.read_text()), number)


@pytest.mark.slow
def test_one_of_two_is_killed_and_then_the_one_that_writes(whole, tiny_recipe, tmp_path, numbers):
    out = tmp_path / "run"
    process = start(elastic(2, numbers, tiny_recipe, out))
    for begun, rank in ((0, 1), (1, 0)):
        wait_for_steps(out, 16, begun + 1)
        send(signal.SIGKILL, numbers / f"{begun}.{rank}")
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert {file.name[0] for file in numbers.iterdir()} == {"0", "1", "2"}
    assert "Traceback" not in said
    assert hashes(out) == hashes(whole)
    assert record(out) == record(whole)


@pytest.mark.slow
def test_one_of_two_is_asked_to_stop_and_then_the_launcher(whole, tiny_recipe, tmp_path, numbers):
    out = tmp_path / "run"
    words = elastic(1, numbers, tiny_recipe, out)
    process = start(words)
    wait_for_steps(out, 16, 1)
    send(signal.SIGUSR1, numbers / "0.1")
    _, said = process.communicate(timeout=600)
    assert process.returncode != 0  # torchrun has no exit code for this
    assert "exitcode  : 75" in said
    stopped = (out / "latest").read_text().strip()
    assert "step_00000014" < stopped < "step_00000200"
    signals = [row for row in rows(out, "event") if row["event"] == "signal"]
    # The launcher restarts all, and they stop again without another step.
    assert [f"step_{row['step']:08d}" for row in signals] == [stopped] * 2

    process = start(words)
    wait_for_steps(out, 16, 3)
    process.terminate()
    process.communicate(timeout=600)
    assert stopped < (out / "latest").read_text().strip() < "step_00000200"
    finish(words)
    assert hashes(out) == hashes(whole)
    assert record(out) == record(whole)
