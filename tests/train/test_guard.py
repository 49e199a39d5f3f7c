"""Bad steps: detected, counted, and undone with their samples skipped."""

import hashlib
import json
import math
import shutil
from dataclasses import replace

import pytest

from gptlab.errors import TrainError
from gptlab.runs.metrics import read_rows
from gptlab.train import skip
from gptlab.train.guard import WINDOW, Guard, GuardConfig
from gptlab.train.step import StepStats, Updater


def stats(loss, norm=1.0, **more):
    return StepStats(loss, norm, **more)


@pytest.fixture
def guard():
    """A guard that has seen a window of losses near 3."""
    guard = Guard(GuardConfig(patience=3))
    for step in range(WINDOW):
        assert guard.judge(stats(3 + 0.02 * math.sin(step)), step=step, sample=8 * step) is None
    return guard


def test_what_is_far_above_is_bad_and_the_rest_is_not(guard):
    assert guard.judge(stats(3.4), step=200, sample=0) is None  # many deviations, but less than half a nat
    assert guard.judge(stats(0.1), step=201, sample=0) is None
    assert "far above the 3.0" in guard.judge(stats(9.0), step=202, sample=1616)
    assert (guard.seen.bad, guard.seen.since, guard.seen.skipped) == (1, (202, 1616), 0)


def test_a_new_run_may_do_what_it_likes_but_be_finite():
    guard = Guard(GuardConfig())
    assert guard.judge(stats(10.9), step=0, sample=0) is None
    assert guard.judge(stats(50.0), step=1, sample=8) is None
    assert guard.judge(stats(math.nan), step=2, sample=16) == "the loss or gradient is not finite"
    assert guard.judge(stats(3.0, math.inf), step=3, sample=24) == "the loss or gradient is not finite"
    assert (guard.seen.bad, guard.seen.skipped) == (2, 2)


def test_only_many_in_a_row_are_too_many(guard):
    for step in range(20):
        guard.judge(stats(9.0 if step % 3 else 3.0), step=step, sample=0)
        assert not guard.exhausted
    guard.judge(stats(3.0), step=99, sample=0)
    for step in range(3):
        guard.judge(stats(9.0), step=100 + step, sample=0)
    assert guard.exhausted
    assert guard.rollback_limit == 97


def test_float16_finding_its_scale_is_no_offence():
    guard = Guard(GuardConfig(patience=2))
    for step in range(10):
        assert "scale is halved" in guard.judge(stats(3.0, math.nan, overflow=True), step=step, sample=0)
    assert (guard.seen.bad, guard.seen.skipped, guard.exhausted) == (0, 10, False)


def test_spikes_need_not_be_looked_for():
    guard = Guard(GuardConfig(spike=None))
    for step in range(2 * WINDOW):
        assert guard.judge(stats(3.0 if step < WINDOW else 90.0), step=step, sample=0) is None


def test_what_it_knows_survives(guard):
    guard.judge(stats(9.0), step=300, sample=2400)
    again = Guard(guard.config)
    again.restore(json.loads(json.dumps(guard.state())))
    for one in (guard, again):
        one.judge(stats(8.0), step=301, sample=2408)
    assert again.state() == guard.state()
    assert again.seen.bad == 2


@pytest.fixture
def poison(monkeypatch):
    """Make the gradient of every batch with one of these samples infinite."""
    poisoned = set()
    plain = Updater.compute_gradient

    def spoiled(self, first, stop):
        found = plain(self, first, stop)
        skipped = self.state.batches.skip
        numbers = {
            skip.index_of(first + place, skipped) for place in range(self.micro_batches.batch_sequences)
        }
        return replace(found, norm=math.inf) if found and numbers & poisoned else found

    monkeypatch.setattr(Updater, "compute_gradient", spoiled)
    return poisoned


FLAGS = {
    "train": {"steps": 16, "save_every_steps": 1, "keep": 20},
    "guard": {"patience": 3},
    "eval": {"every_steps": 50},
}


def weights(out, step=16):
    return hashlib.sha256(
        (out / "checkpoints" / f"step_{step:08d}" / "model.safetensors").read_bytes()
    ).hexdigest()


def events(out):
    return [row for row in read_rows(out / "metrics.jsonl") if row["kind"] == "event"]


def test_a_run_goes_back_and_over_the_samples(train, tmp_path, poison, capsys):
    poison |= set(range(64, 96))  # steps 8 to 11 of eight samples
    facts = train(tmp_path / "run", FLAGS)
    assert facts["status"] == "finished"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    skips = [row for row in map(json.loads, lines) if row.get("event") == "skip"]
    assert [row["samples"] for row in skips][:3] == [[64, 71], [72, 79], [80, 87]]
    [back] = [row for row in events(tmp_path / "run") if row["event"] == "rollback"]
    assert back["left"] == 11
    assert back["step"] < 8
    steps = [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "step"]
    assert steps == list(range(1, 17))
    state = json.loads((tmp_path / "run" / "checkpoints" / "step_00000016" / "state.json").read_text())
    [(first, last)] = state["skip"]
    assert first <= 64
    assert last >= 87
    assert "back to step" in capsys.readouterr().out


def test_what_continues_after_going_back_is_what_would_have_been(train, tmp_path, poison):
    poison |= set(range(64, 96))
    train(tmp_path / "whole", FLAGS)
    train(tmp_path / "broken", FLAGS)
    for folder in (tmp_path / "broken" / "checkpoints").iterdir():
        if folder.name > "step_00000013":
            shutil.rmtree(folder)
    train(tmp_path / "broken", FLAGS)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_going_back_has_an_end(train, tmp_path, poison):
    poison |= set(range(64, 4000))
    flags = {**FLAGS, "guard": {"patience": 2}}
    with pytest.raises(
        TrainError, match=r"not finite, 2 times in a row, after 3 rollbacks; run the same command again"
    ):
        train(tmp_path / "run", flags)
    assert len([row for row in events(tmp_path / "run") if row["event"] == "rollback"]) == 3


def test_without_a_checkpoint_there_is_no_going_back(train, tmp_path, poison):
    poison |= set(range(64))
    with pytest.raises(TrainError, match="with no checkpoint to go back to"):
        train(tmp_path / "run", {**FLAGS, "train": {"steps": 16}})
