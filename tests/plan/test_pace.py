"""How many tokens fit into a time."""

import pytest

from gptlab import recipe
from gptlab.bench import bench
from gptlab.errors import ConfigError
from gptlab.machine.gpus import GPUS
from gptlab.model.size import measure
from gptlab.plan.pace import OVERHEAD, SHARE, Pace, assumed, calibrated
from gptlab.runs import checkpoint
from gptlab.train import budget
from gptlab.train.budget import SPARE, Budget
from gptlab.train.config import TrainConfig


@pytest.fixture
def briefly(monkeypatch):
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)


def a_pace(**keys):
    return Pace("any", **{"flops_per_s": 1e12, "overhead": 0.0, "usd_per_hour": None, "memory": None} | keys)


def test_an_assumed_share_of_the_time_is_no_training():
    pace = a_pace(overhead=0.1, start_s=600)
    assert pace.hours(1e6, 1e9) == pytest.approx((600 + 1000 / 0.9) / 3600)
    assert pace.steps(1, 1000, 1e9) == int((0.98 * 3600 - 600) * 0.9)
    assert pace.steps(0.1, 1000, 1e9) == 0


def simulated(steps, *, every, step_s, pause_s, start_s):
    """The seconds of a run, evaluation by evaluation."""
    now = start_s
    for step in range(steps + 1):
        now += pause_s * (step == steps or step % every == 0)
        now += step_s * (step < steps)
    return now


@pytest.mark.parametrize("steps", [1, 9, 10, 11, 19, 20, 62])
@pytest.mark.parametrize("size", [1.0, 12.0])
def test_measured_evaluations_are_counted_one_by_one(steps, size):
    """A step takes 2 s and an evaluation 5 s; of a larger model both take as much longer."""
    pace = a_pace(start_s=30.0, pause=2.5 * 1000, every=10 * 1000)
    flops = size * 2e9  # a token
    took = simulated(steps, every=10, step_s=2 * size, pause_s=5 * size, start_s=30.0)
    assert 3600 * pace.hours(steps * 1000, flops) == pytest.approx(took)
    hours = took / 3600 / (1 - SPARE)
    assert pace.steps(1.0001 * hours, 1000, flops) == steps
    assert pace.steps(0.9999 * hours, 1000, flops) == steps - 1


def test_a_run_at_that_pace_is_not_cut_short_by_its_hours(monkeypatch):
    """The steps of a plan are made although train.hours keeps a reserve."""
    pace = a_pace(start_s=5.0, pause=4000.0, every=45_000)
    step_s, pause_s = 3.0, 12.0
    hours = 0.0833
    steps = pace.steps(hours, 1000, 3e9)
    now = [5.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    left = Budget(TrainConfig(steps=steps, hours=hours), warmup_steps=6, evaluate_every=45)
    step = 0
    while not left.finished(step):
        due = step % 45 == 0
        if due:
            now[0] += pause_s
            left.note_evaluation(pause_s)
        if left.may_replan(step, evaluated=due) and (plan := left.new_plan(step, save_s=0.0)):
            left.follow(plan)
        now[0] += step_s
        left.note_step(step_s)
        step += 1
    assert step == steps
    assert now[0] + pause_s == pytest.approx(3600 * pace.hours(steps * 1000, 3e9), abs=0.01)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_of_the_table(name):
    for called in (name, name.lower()):
        pace = assumed(called, 2)
        assert pace.flops_per_s == 2 * SHARE * GPUS[name].half
        assert pace.memory == GPUS[name].memory


def test_a_measured_pace(tiny_recipe, torch_settings, briefly, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = recipe.load([tiny_recipe])
    pace = calibrated(config)
    batch = config.train.batch_tokens
    step_s = measure(config.model).flops_per_token * batch / pace.flops_per_s
    assert f"{step_s:.3g} s a step" in pace.name
    assert f"{pace.pause / batch * step_s:.3g} s an evaluation with its checkpoint" in pace.name
    assert pace.every == config.eval.every_steps * batch
    assert pace.overhead == 0
    assert pace.start_s > 0.5  # torch alone takes as long
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_no_checkpoint_is_timed(
    tiny_recipe, torch_settings, briefly, tmp_path, monkeypatch
):
    def full(*what, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(
        ConfigError, match=r"no checkpoint can be written to .* \(No space left on device\); start"
    ):
        calibrated(recipe.load([tiny_recipe]))


def test_without_data_the_evaluations_are_assumed(tiny_recipe, torch_settings, briefly):
    pace = calibrated(recipe.load([tiny_recipe], {"data": {"path": "nowhere"}, "model": {"vocab_size": 257}}))
    assert (pace.overhead, pace.pause) == (OVERHEAD, 0)
    assert "evaluations assumed" in pace.name
