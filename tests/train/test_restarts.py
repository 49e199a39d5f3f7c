"""Processes that die under torchrun, which restarts them all: the run continues as if nothing happened."""

import os
import signal
import time

import pytest
from real_runs import command, finish_together, hashes, launcher, record, rows, start

from gptlab.actions.train import _asked_to_stop
from gptlab.runs.metrics import MetricsLog

FLAGS = ("--train.steps", "300", "--train.save-every-steps", "7", "--eval.every-steps", "60")
LAST = "step_00000300"

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
        time.sleep(0.02)
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


@pytest.mark.parametrize(
    ("before", "now", "stops"),
    [
        (0, 1, True),  # torchrun takes 75 for a failure
        (2, 3, True),
        (0, 0, False),  # the user has started it again
        (1, 1, False),  # torchrun has stopped it to start it with another machine
    ],
)
def test_only_a_counted_restart_stops_again(tmp_path, monkeypatch, before, now, stops):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write("event", event="resume", step=3, restarts=before)
        log.write("step", step=4, loss=1.0)
        log.write("event", event="signal", step=4, reason="SIGTERM")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(now))
    assert _asked_to_stop(tmp_path) == ("SIGTERM" if stops else None)


@pytest.mark.slow
def test_two_are_killed_then_asked_to_stop_and_lose_their_launcher(whole, tiny_recipe, tmp_path, numbers):
    """One of two is killed, then the one that writes; then one is asked to stop, and at last the launcher."""
    out = tmp_path / "run"
    words = elastic(3, numbers, tiny_recipe, out)
    process = start(words)
    for begun, (rank, number) in enumerate([(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGUSR1)]):
        wait_for_steps(out, 16, begun + 1)
        send(number, numbers / f"{begun}.{rank}")
    _, said = process.communicate(timeout=600)
    assert process.returncode != 0  # torchrun has no exit code for this
    assert "exitcode  : 75" in said
    assert said.count("Traceback (most recent call last)") == 1, said  # torchrun's own
    assert {file.name[0] for file in numbers.iterdir()} == {"0", "1", "2", "3"}
    stopped = (out / "latest").read_text().strip()
    assert "step_00000042" < stopped < LAST
    signals = [row for row in rows(out, "event") if row["event"] == "signal"]
    # The launcher restarts all, and they stop again without another step.
    assert [f"step_{row['step']:08d}" for row in signals] == [stopped] * 2

    process = start(words)
    wait_for_steps(out, 16, 5)
    process.terminate()
    process.communicate(timeout=600)
    assert stopped < (out / "latest").read_text().strip() < LAST
    finish_together(2, command(tiny_recipe, out, *FLAGS))
    assert hashes(out) == hashes(whole)
    assert record(out) == record(whole)
