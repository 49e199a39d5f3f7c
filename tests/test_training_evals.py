"""What a run measures along the way: cut short by wishes and errors, and what that costs."""

import signal
from types import SimpleNamespace

import pytest
import torch

from gptlab import cli, training_evals
from gptlab.eval import tasks
from gptlab.model.gpt import GPT
from gptlab.runs import checkpoint
from gptlab.runs.metrics import read_rows
from gptlab.train import interrupt

FLAGS = {"sample": {"prompts": ["The", "A"], "max_tokens": 4}}
WORDS = ["--sample.prompts", "The", "A", "--sample.max-tokens", "4"]
TIMINGS = {"step_s", "tokens_per_s", "mfu"}


def record(out):
    return [
        {key: value for key, value in row.items() if key not in TIMINGS}
        for row in read_rows(out / "metrics.jsonl")
        if row["kind"] != "event"
    ]


def close(value):
    return pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value


def once(patch, happens, kind, step):
    """Let something happen in the first batch of an evaluation of a step, after `together` has begun to ask."""
    owner, name = {
        "val": (training_evals, "mean_loss"),
        "eval": (tasks.Task, "evaluate"),
        "sample": (training_evals, "sample_text"),
    }[kind]
    measure, visits = getattr(owner, name), []
    # Step 0 is the first of the evaluations; each has two prompts.
    at = step // 4 * (2 if kind == "sample" else 1)

    def measured(*arguments, **options):
        visits.append(kind)
        if len(visits) - 1 == at:
            happens()
        return measure(*arguments, **options)

    patch.setattr(owner, name, measured)


@pytest.fixture
def whole(train, tmp_path):
    """Return the record of a run left alone."""
    train(tmp_path / "whole", FLAGS)
    return record(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["val", "eval", "sample"])
def test_a_signal_is_heard_and_the_evaluation_made_up_for(whole, tiny_recipe, tmp_path, monkeypatch, kind):
    out = tmp_path / "run"
    words = ["train", str(tiny_recipe), "--out", str(out), *WORDS]
    with monkeypatch.context() as patch:
        once(patch, lambda: signal.raise_signal(signal.SIGTERM), kind, step=4)
        assert cli.main(words) == 75
    assert checkpoint.pointed(out / "latest") == checkpoint.folder_of(out, 4)
    assert [row["step"] for row in record(out) if row["kind"] == kind] == [0] * (2 if kind == "sample" else 1)
    assert read_rows(out / "metrics.jsonl")[-1]["reason"] == "SIGTERM"
    assert cli.main(words) == 0
    assert record(out) == whole


def test_the_end_of_the_time_is_noticed_in_an_evaluation(whole, train, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(interrupt, "time", clock)

    def wait():
        clock.now += 7200

    with monkeypatch.context() as patch:
        once(patch, wait, "val", step=4)
        assert train(tmp_path / "run", FLAGS, max_hours=1)["status"] == "interrupted"
    assert checkpoint.pointed(tmp_path / "run" / "latest") == checkpoint.folder_of(tmp_path / "run", 4)
    assert [row["step"] for row in record(tmp_path / "run") if row["kind"] == "val"] == [0]
    assert "--max-hours" in read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["reason"]
    assert train(tmp_path / "run", FLAGS)["status"] == "finished"
    assert record(tmp_path / "run") == whole


@pytest.mark.parametrize("kind", ["val", "eval", "sample"])
def test_what_kills_an_evaluation_does_not_cost_the_steps_before_it(
    whole, train, tmp_path, monkeypatch, kind
):
    def break_down():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        once(patch, break_down, kind, step=4)
        with pytest.raises(RuntimeError, match="illegal"):
            train(out, FLAGS)
    assert checkpoint.newest(out, print).state["step"] == 4
    assert train(out, FLAGS)["status"] == "finished"
    assert record(out) == whole


def test_where_memory_is_short_the_run_measures_in_smaller_parts(whole, train, tmp_path, monkeypatch):
    refused = []

    def bounded(plain):
        def hidden_states(self, ids, *rest, **options):
            if not self.training and len(ids) > 2:
                refused.append(len(ids))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return plain(self, ids, *rest, **options)

        return hidden_states

    for name in ("hidden_states", "hidden_states_at"):
        monkeypatch.setattr(GPT, name, bounded(getattr(GPT, name)))
    assert train(tmp_path / "run", FLAGS)["status"] == "finished"
    assert refused
    for row, expected in zip(record(tmp_path / "run"), whole, strict=True):
        # Not the accuracy: some items have an ending twice, and rounding decides between the two.
        for key in {"val": ["loss", "bits_per_byte"], "eval": ["margin", "n"]}.get(row["kind"], expected):
            assert row[key] == close(expected[key])
