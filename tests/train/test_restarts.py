"""Processes that die under torchrun, which starts all of them anew: the run continues as if nothing had been."""

import os
import signal
import time

import pytest
from real_runs import command, finish, hashes, launcher, record, start

FLAGS = ("--train.steps", "120", "--train.save-every-steps", "7", "--eval.every-steps", "40")

# Each process notes its number under that of the start and its rank.
NOTED = ("bash", "-c", 'echo $BASHPID > "$0/$TORCHELASTIC_RESTART_COUNT.$RANK"; exec "$@"')


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    finish([*launcher(2), *command(tiny_recipe, out, *FLAGS)])
    return out


def wait_for_steps(out, count, begun):
    """Wait until the run, begun so many times, has recorded so many steps since."""
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline:
        lines = metrics.read_text().split('"event": "resume"') if metrics.exists() else []
        if len(lines) == begun and lines[-1].count('"kind": "step"') >= count:
            return
        time.sleep(0.005)
    raise AssertionError("no steps within five minutes")


@pytest.mark.slow
def test_one_of_two_is_killed_and_then_the_one_that_writes(whole, tiny_recipe, tmp_path):
    out, numbers = tmp_path / "run", tmp_path / "numbers"
    numbers.mkdir()
    words = [*launcher(2, "--max-restarts", 2), *NOTED, str(numbers), *command(tiny_recipe, out, *FLAGS)]
    process = start(words)
    for begun, rank in ((0, 1), (1, 0)):
        wait_for_steps(out, 16, begun + 1)
        os.kill(int((numbers / f"{begun}.{rank}").read_text()), signal.SIGKILL)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert {file.name[0] for file in numbers.iterdir()} == {"0", "1", "2"}
    assert "Traceback" not in said
    assert hashes(out) == hashes(whole)
    assert record(out) == record(whole)


@pytest.mark.slow
def test_the_launcher_is_asked_to_stop(whole, tiny_recipe, tmp_path):
    words = [*launcher(2, "--max-restarts", 2), *command(tiny_recipe, tmp_path / "run", *FLAGS)]
    process = start(words)
    wait_for_steps(tmp_path / "run", 16, 1)
    process.terminate()
    process.communicate(timeout=600)
    assert process.returncode != 0
    assert "step_00000014" < (tmp_path / "run" / "latest").read_text().strip() < "step_00000120"
    finish(words)
    assert hashes(tmp_path / "run") == hashes(whole)
    assert record(tmp_path / "run") == record(whole)
