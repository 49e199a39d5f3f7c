"""Runs under SIGKILL at random moments: loading, stepping, saving, evaluating."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from real_runs import command, finish, hashes, record, start

FLAGS = ("--train.steps", "120", "--train.save-every-steps", "7", "--eval.every-steps", "20")


def same(broken, whole):
    assert hashes(broken) == hashes(whole)
    assert record(broken) == record(whole)


@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.long)]
)
def test_weights_and_metrics_are_those_of_a_run_left_alone(kills, tiny_recipe, tmp_path):
    draw = random.Random(kills)

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    words = command(tiny_recipe, broken, *FLAGS)
    began = time.monotonic()
    finish(command(tiny_recipe, whole, *FLAGS))
    whole_s = time.monotonic() - began
    killed = 0
    while killed < kills:
        began = time.monotonic()
        process = start(words)
        try:
            # Half of the time is start-up, when there is little to lose.
            _, said = process.communicate(timeout=draw.uniform(0.4, 0.9) * whole_s)
            # Finished before enough kills, as the machine has grown less busy: start a new run.
            assert process.returncode == 0, said
            same(broken, whole)
            shutil.rmtree(broken)
            whole_s = time.monotonic() - began
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
    finish(words)
    same(broken, whole)
