"""What is recorded about a step, and by which process."""

import json
from types import SimpleNamespace

import pytest
import torch

from gptlab import progress
from gptlab.machine.world import World
from gptlab.runs.metrics import MetricsLog
from gptlab.train import step_reporter
from gptlab.train.step_reporter import StepReporter, Work
from gptlab.train.step_stats import StepStats


def recorded(log, rank=0, peak_flops=8e6):
    return StepReporter(
        log,
        World(rank, 2, torch.device("cpu")),
        Work(batch_tokens=100, flops_per_token=1e4, peak_flops=peak_flops),
        steps=10,
        step=4,
    )


@pytest.mark.parametrize(("peak", "mfu"), [(8e6, 0.25), (None, None)])
def test_the_row_of_a_step(tmp_path, peak, mfu):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        recorded(log, peak_flops=peak).step(5, 500, StepStats(2.5, float("inf")), lr=1e-3, step_s=0.5)
    # 100 tokens in half a second make 200 tokens/s and 2e6 FLOP/s.
    row = {"kind": "step", "step": 5, "tokens": 500, "loss": 2.5, "grad_norm": None, "lr": 1e-3}
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        **row,
        "step_s": 0.5,
        "tokens_per_s": 200.0,
        "mfu": mfu,
    }


def test_only_the_first_process_writes_and_speaks(tmp_path, capsys):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for rank in (0, 1):
            spoken = recorded(log, rank)
            spoken.step(10, 1000, StepStats(2.5, 1.0), lr=1e-3, step_s=0.5)
            spoken.event("skip", 10, samples=[1, 2])
            spoken.say("a word")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    told = capsys.readouterr()
    assert told.out == "a word\n"
    assert told.err.count("step 10/10 | loss 2.5000 | lr 1.00e-03 | 200 tokens/s | MFU 25.0 %") == 1


def test_the_time_left_is_reckoned_from_the_steps_of_this_start(tmp_path, monkeypatch, capsys):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(step_reporter, "time", clock)
    monkeypatch.setattr(progress, "LOG_FILE_EVERY_S", 0.0)
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        resumed = recorded(log)
        clock.now += 3600  # compiling, and an evaluation before the first step
        for step in (5, 6, 7):
            clock.now += 30
            resumed.step(step, 100 * step, StepStats(2.5, 1.0), lr=1e-3, step_s=30.0)
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition("ETA ")[2] for line in told] == ["2m30s", "2m00s", "1m30s"]


def test_a_step_back_behind_the_first_one_is_reckoned_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_FILE_EVERY_S", 0.0)
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        resumed = recorded(log)
        for step in (5, 6, 2, 3, 4, 5):
            resumed.step(step, 100 * step, StepStats(2.5, 1.0), lr=1e-3, step_s=30.0)
    told = capsys.readouterr().err.splitlines()
    assert told[2].endswith("ETA 4m00s")  # eight steps to go
