"""Runs at all stages, judged."""

import json

import pytest

from gptlab import cli


@pytest.fixture
def judged(tmp_path, capsys):
    """Write a run of GPT-2 124M on FineWeb and return `gptlab plan RUN`'s JSON and text."""

    def run(*, loss, step=10_000, steps=19_073, hours=None, step_s=3.6, n_layer=12):
        out = tmp_path / "run"
        out.mkdir(exist_ok=True)
        limit = f"hours = {hours}\n" if hours is not None else ""
        (out / "config.toml").write_text(
            f'[model]\nn_layer = {n_layer}\n[data]\npath = "data/fineweb10B"\n[train]\nsteps = {steps}\n{limit}'
        )
        tokens = 524_288
        rows = [
            {"kind": "step", "step": at, "tokens": at * tokens, "loss": loss, "step_s": step_s}
            for at in range(max(1, step - 99), step + 1)
        ]
        rows.append({"kind": "val", "step": step, "loss": loss})
        (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert cli.main(["plan", str(out), "--json", str(tmp_path / "plan.json")]) == 0
        return json.loads((tmp_path / "plan.json").read_text()), capsys.readouterr().out

    return run


def test_a_finished_run_as_llm_c_s(judged):
    facts, told = judged(loss=3.28, step=19_073)
    assert facts["verdict"] == "on course"
    assert facts["expected"] == pytest.approx(3.28, abs=0.02)
    assert "3.28 expected of this size after as many tokens\n" in told


def test_a_finished_run_that_learned_less(judged):
    facts, told = judged(loss=3.40, step=19_073)
    assert facts["verdict"] == "above the band"
    assert "look at the learning rate" in told


def test_half_way_a_loss_may_be_higher(judged):
    assert judged(loss=3.45)[0]["verdict"] == "on course"
    assert judged(loss=3.8)[0]["verdict"] == "above the band"


def test_time(judged):
    facts, told = judged(loss=3.45)
    assert facts["hours_left"] == pytest.approx(9073 * 3.6 / 3600)
    assert "9h04m left" in told
    assert judged(loss=3.45, hours=24)[0]["verdict"] == "on course"
    facts, told = judged(loss=3.45, hours=5)
    assert facts["verdict"] == "too slow"
    assert "about 14,900 steps fit; the decay ends with them if the run is continued with --replan" in told


def test_what_no_fit_covers(judged):
    facts, told = judged(loss=3.3, n_layer=400)
    assert (facts["expected"], facts["verdict"]) == (None, "on course")
    assert "no published fit covers this size" in told


def test_what_is_no_run(tmp_path, capsys):
    assert cli.main(["plan", str(tmp_path)]) == 1
    assert "is not a run folder; name one that `gptlab train` made" in capsys.readouterr().err
