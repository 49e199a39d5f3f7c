"""Time and steps: plans with a simulated clock, and runs of a number of hours."""

import json
import os
import signal
from itertools import pairwise

import pytest

from gptlab.errors import ConfigError, TrainError
from gptlab.runs.metrics import read_rows
from gptlab.train import budget as plans
from gptlab.train.budget import ENOUGH, SPARE, UNTYPICAL, Budget, Plan
from gptlab.train.config import TrainConfig


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test advances; `clock[0]` is its time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(plans.time, "monotonic", lambda: now[0])
    return now


def budget(hours=1.0, warmup_steps=0, *, evaluate_every=100, replan=False, **train):
    config = TrainConfig(hours=hours, **train)
    return Budget(config, warmup_steps=warmup_steps, evaluate_every=evaluate_every, replan=replan)


def run(budget, clock, steps, step_s, *, start=0, evaluate_every=100, evaluation_s=0.0):
    """Take steps as the loop does, until the plan ends or earlier; return the last step and the plans made."""
    made, step = [], start
    while not budget.finished(step) and step < steps:
        due = step % evaluate_every == 0
        if due:
            clock[0] += evaluation_s
            budget.note_evaluation(evaluation_s)
        if budget.may_replan(step, evaluated=due) and (new := budget.new_plan(step, save_s=0.0)):
            budget.follow(new)
            made.append((step, new.steps))
        seconds = step_s(step) if callable(step_s) else step_s
        clock[0] += seconds
        budget.note_step(seconds)
        step += 1
    return step, made


def test_a_plan_is_a_line_from_where_it_was_made_to_the_end():
    plan = Plan(at=100, done=0.25, steps=400)
    assert [plan.progress(step) for step in (100, 200, 300, 400)] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert plan.progress(0) == 0


def test_steps_without_hours_are_the_plan_from_the_start():
    fixed = budget(None, 10, steps=50)
    assert fixed.plan == Plan(10, 0.0, 50)
    assert not any(fixed.may_replan(step, evaluated=True) for step in range(50))
    assert (fixed.finished(49), fixed.finished(50)) == (False, True)


def test_a_steady_run_uses_its_time_and_no_more(clock):
    hour = budget(1.0, 50)
    last, made = run(hour, clock, 10**6, 1.0, evaluation_s=20.0)
    assert [step for step, _ in made] == [ENOUGH + UNTYPICAL, 50]
    assert hour.used_s <= 3600
    assert hour.used_s > 3600 * (1 - 2 * SPARE)
    assert last == hour.plan.steps


def test_slow_first_steps_are_no_measure_but_count_as_time(clock):
    hour = budget()
    last, made = run(hour, clock, 10**6, lambda step: 300.0 if step < UNTYPICAL else 1.0)
    assert len(made) == 1
    assert hour.used_s <= 3600
    assert last == pytest.approx((3600 - 900) * (1 - SPARE), rel=0.02)


def test_a_machine_that_becomes_slower_ends_in_time_and_the_rate_never_jumps(clock):
    hour = budget(1.0, 10)
    progress = []

    def step_s(step):
        progress.append(hour.progress(step))
        return 1.0 if step < 1000 else 3.0

    last, made = run(hour, clock, 10**6, step_s)
    assert len(made) > 2
    assert hour.used_s <= 3600 * 1.01
    assert last < made[0][1]
    jumps = [later - earlier for earlier, later in pairwise(progress[10:])]
    assert min(jumps) >= 0
    assert max(jumps) < 0.01
    assert hour.progress(last) == pytest.approx(1)


def test_few_long_steps_are_measured_as_soon_as_a_tenth_of_the_time_is_gone(clock):
    hour = budget()
    last, made = run(hour, clock, 10**6, 100.0)
    assert made[0][0] == UNTYPICAL + 1
    assert 33 <= last <= 35


def test_steps_are_the_most_there_are(clock):
    last, _ = run(budget(steps=500), clock, 10**6, 1.0)
    assert last == 500


def test_so_few_steps_that_no_plan_is_made_are_all_and_decay_to_the_end(clock):
    few = budget(steps=16)
    assert run(few, clock, 10**6, 1.0) == (16, [])
    assert [few.progress(step) for step in (0, 4, 16)] == [0, 0.25, 1]


def test_a_warm_up_that_does_not_fit_is_refused(clock):
    with pytest.raises(
        TrainError, match=r"train.hours = 1: only 3,\d\d\d steps fit, and the warm-up has 5,000;"
    ):
        run(budget(1.0, 5000), clock, 10**6, 1.0)


def resumed(state, **changes):
    other = budget(**{"hours": 1.0, "warmup_steps": 50, **changes})
    other.restore(json.loads(json.dumps(state)))
    return other


def test_what_was_used_and_planned_outlives_the_process(clock):
    first = budget(1.0, 50)
    run(first, clock, 1000, 1.0)
    state = first.state()
    clock[0] += 10**6  # in a queue
    second = resumed(state)
    assert second.plan == first.plan
    assert second.used_s == pytest.approx(1000)
    assert run(second, clock, 10**6, 1.0, start=1000)[1] == []
    assert second.used_s == pytest.approx(3600, rel=2 * SPARE)


def test_a_faster_machine_keeps_the_plan_until_it_is_asked(clock):
    first = budget(1.0, 50)
    run(first, clock, 1000, 1.0)
    kept, asked = resumed(first.state()), resumed(first.state(), replan=True)
    assert run(kept, clock, 10**6, 0.5, start=1000) == (first.plan.steps, [])
    clock[0] -= kept.used_s - 1000
    stood = asked.progress(1000 + ENOUGH + UNTYPICAL)
    last, [(step, steps)] = run(asked, clock, 10**6, 0.5, start=1000)
    assert last == steps > 1.5 * first.plan.steps
    assert asked.plan.at == step == 1000 + ENOUGH + UNTYPICAL
    assert asked.plan.done == pytest.approx(stood)


@pytest.mark.parametrize("changes", [{"hours": 2.0}, {"steps": 3000}])
def test_other_hours_are_a_new_plan(clock, changes):
    first = budget(1.0, 50)
    run(first, clock, 1000, 1.0)
    second = resumed(first.state(), **changes)
    _, made = run(second, clock, 10**6, 1.0, start=1000)
    assert len(made) == 1


def rows(run, kind):
    return [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == kind]


HOURS = {"train": {"steps": None, "hours": 3 / 3600}, "optim": {"lr": 1e-3}}


@pytest.fixture
def even(monkeypatch):
    """Make the budget see steps of a twentieth of a second; call `even[n]` before the n-th one ends."""
    calls = {}
    note = Budget.note_step

    def note_step(budget, seconds):
        note(budget, 0.05)
        calls.get(budget._n_step, lambda: None)()

    monkeypatch.setattr(Budget, "note_step", note_step)
    new_plan = Budget.new_plan
    monkeypatch.setattr(Budget, "new_plan", lambda budget, step, save_s: new_plan(budget, step, save_s=0.0))
    monkeypatch.setattr(Budget, "note_evaluation", lambda budget, seconds: None)
    monkeypatch.setattr(Budget, "used_s", property(lambda budget: budget._before_s + 0.05 * budget._n_step))
    return calls


def test_a_run_of_hours_decays_to_the_end(train, tmp_path, capsys, even):
    result = train(tmp_path / "run", HOURS)
    steps = rows(tmp_path / "run", "step")
    planned = [row["steps"] for row in rows(tmp_path / "run", "event") if row["event"] == "plan"]
    assert result["status"] == "finished"
    assert len(steps) == planned[-1] == result["step"]
    assert 56 <= len(steps) <= 60
    assert steps[-1]["lr"] == pytest.approx(1e-4, rel=0.05)
    assert rows(tmp_path / "run", "val")[-1]["step"] == len(steps)
    told = capsys.readouterr().out
    assert "as many steps as fit into 0.000833333 h" in told
    assert f"{planned[-1]:,} steps fit into the time" in told
    assert f"finished, {len(steps)} steps in 0.00 of 0.000833333 h, " in told


def test_steps_may_end_a_run_of_hours(train, tmp_path, capsys, even):
    train(tmp_path / "run", {"train": {"steps": 30, "hours": 3 / 3600}, "optim": {"lr": 1e-3}})
    assert "30 steps in 0.00 of 0.000833333 h; train.steps = 30 ended it, " in capsys.readouterr().out


def test_a_run_of_hours_is_taken_up_with_its_plan(train, tmp_path, capsys, even):
    even[40] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert train(tmp_path / "run", HOURS)["status"] == "interrupted"
    [checkpoint, *_] = sorted((tmp_path / "run" / "checkpoints").iterdir(), reverse=True)
    plan = json.loads((checkpoint / "state.json").read_text())["budget"]["plan"]
    assert plan is not None
    capsys.readouterr()
    even.clear()
    assert train(tmp_path / "run", HOURS)["step"] == plan["steps"]
    assert f"of {plan['steps']}, with 0.00" in capsys.readouterr().out
    rates = [row["lr"] for row in rows(tmp_path / "run", "step")]
    assert all(later < earlier for earlier, later in pairwise(rates[ENOUGH + UNTYPICAL :]))


def test_replan_is_measured_anew_in_a_run(train, tiny_recipe, tmp_path, capsys, even):
    from gptlab.actions import train as run

    even[30] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert train(tmp_path / "run", HOURS)["status"] == "interrupted"
    even.clear()
    capsys.readouterr()
    assert run.train([tiny_recipe], tmp_path / "run", HOURS, replan=True)["status"] == "finished"
    assert "a new plan will be made" in capsys.readouterr().out
    plans = [row["step"] for row in rows(tmp_path / "run", "event") if row["event"] == "plan"]
    assert 30 + UNTYPICAL + 1 in plans  # by then a tenth of the remaining time is gone


def test_replan_without_hours_is_refused(tiny_recipe, tmp_path):
    from gptlab.actions import train as run

    with pytest.raises(ConfigError, match="--replan: the run has a number of steps"):
        run.train([tiny_recipe], tmp_path / "run", {}, replan=True)
