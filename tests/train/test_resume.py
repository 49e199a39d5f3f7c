"""A run that was killed and continued equals an uninterrupted one, bit for bit, through the real command."""

import signal
import time

import pytest
from real_runs import command, finish, hashes, record, start

from gptlab.runs.metrics import read_rows

THREADS = 2


def stop_at(step, arguments, out, number):
    """Start a run and send it a signal once it has recorded a step; return its exit code."""
    process = start(arguments, THREADS)
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.is_file() and f'"kind": "step", "step": {step},' in metrics.read_text():
            process.send_signal(number)
            break
        time.sleep(0.005)
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    return process.returncode


@pytest.mark.parametrize(
    "flags",
    [
        (),
        pytest.param(("--train.compile", "True", "--model.n-layer", "1"), marks=pytest.mark.slow),
        pytest.param(("--train.device", "cuda", "--train.deterministic", "True"), marks=pytest.mark.gpu),
    ],
    ids=["eager", "compiled", "cuda"],
)
def test_killed_and_continued_equals_uninterrupted(tiny_recipe, tmp_path, flags):
    # Long enough for the signal to arrive in the middle; also saved at steps without an evaluation.
    flags = (*flags, "--train.steps", "60", "--train.save-every-steps", "7", "--eval.every-steps", "20")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(command(tiny_recipe, whole, *flags), THREADS)
    assert stop_at(24, command(tiny_recipe, cut, *flags), cut, signal.SIGKILL) == -signal.SIGKILL
    last = (cut / "latest").read_text().strip()
    assert last < "step_00000060"
    finish(command(tiny_recipe, cut, *flags), THREADS)
    assert hashes(cut) == hashes(whole)
    assert record(cut) == record(whole)


def test_a_wish_to_stop_ends_with_a_checkpoint_and_75(tiny_recipe, tmp_path):
    out = tmp_path / "run"
    flags = ("--train.steps", "5000", "--eval.every-steps", "5000")
    assert stop_at(5, command(tiny_recipe, out, *flags), out, signal.SIGTERM) == 75
    stopped = int((out / "latest").read_text().strip().removeprefix("step_"))
    rows = read_rows(out / "metrics.jsonl")
    assert rows[-1] == {"kind": "event", "event": "signal", "step": stopped, "reason": "SIGTERM"}
    assert rows[-2]["step"] == stopped
