"""Runs under SIGKILL at random moments: loading, stepping, saving, evaluating."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gptlab.train.metrics import read_rows

STEPS = 120
TIMINGS = {"step_s", "tokens_per_s", "mfu"}


def record(out):
    """All rows but events, without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key not in TIMINGS}
        for row in read_rows(out / "metrics.jsonl")
        if row["kind"] != "event"
    ]


def same(broken, whole):
    last = f"checkpoints/step_{STEPS:08d}/model.safetensors"
    first, second = (hashlib.sha256((out / last).read_bytes()).hexdigest() for out in (broken, whole))
    assert first == second
    assert record(broken) == record(whole)


@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.long)]
)
def test_weights_and_metrics_are_those_of_a_run_left_alone(kills, tiny_recipe, tmp_path):
    draw = random.Random(kills)

    def command(name):
        flags = ["--train.steps", STEPS, "--train.save-every-steps", 7, "--eval.every-steps", 20]
        words = ["-m", "gptlab", "train", tiny_recipe, "--out", tmp_path / name, *flags]
        return [sys.executable, *map(str, words)]

    began = time.monotonic()
    subprocess.run(command("whole"), check=True, capture_output=True)
    whole_s = time.monotonic() - began
    killed = 0
    while killed < kills:
        process = subprocess.Popen(command("broken"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            # Half of the time is the start-up, in which there is little to lose.
            _, said = process.communicate(timeout=draw.uniform(0.4, 0.9) * whole_s)
            # Finished before it could be killed so often: the next one begins anew.
            assert process.returncode == 0, said
            same(tmp_path / "broken", tmp_path / "whole")
            shutil.rmtree(tmp_path / "broken")
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
    subprocess.run(command("broken"), check=True, capture_output=True)
    same(tmp_path / "broken", tmp_path / "whole")
