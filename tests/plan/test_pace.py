"""How many tokens fit into a time."""

import pytest

from gptlab import recipe
from gptlab.bench import bench
from gptlab.machine.gpus import GPUS
from gptlab.model.size import measure
from gptlab.plan.pace import OVERHEAD, SHARE, Pace, assumed, calibrated


@pytest.fixture
def briefly(monkeypatch):
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)


def test_tokens_of_a_time():
    pace = Pace("any", flops_per_s=1e12, overhead=0.1, usd_per_hour=None, memory=None, start_s=600)
    assert pace.tokens(1, 1e9) == pytest.approx(3000 * 0.9 * 1000)
    assert pace.tokens(0.1, 1e9) == 0
    assert pace.hours(pace.tokens(1, 1e9), 1e9) == pytest.approx(1)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_of_the_table(name):
    for called in (name, name.lower()):
        pace = assumed(called, 2)
        assert pace.flops_per_s == 2 * SHARE * GPUS[name].half
        assert pace.memory == GPUS[name].memory


def test_a_measured_pace(tiny_recipe, torch_settings, briefly):
    config = recipe.load([tiny_recipe])
    pace = calibrated(config)
    seconds = measure(config.model).flops_per_token * config.train.batch_tokens / pace.flops_per_s
    assert f"{seconds:.3g} s a step" in pace.name
    assert 0 < pace.overhead < 1
    evaluation_s = pace.overhead / (1 - pace.overhead) * config.eval.every_steps * seconds
    assert f"{evaluation_s:.3g} s an evaluation" in pace.name
    assert pace.start_s > evaluation_s


def test_without_data_the_evaluations_are_assumed(tiny_recipe, torch_settings, briefly):
    pace = calibrated(recipe.load([tiny_recipe], {"data": {"path": "nowhere"}, "model": {"vocab_size": 257}}))
    assert pace.overhead == OVERHEAD
    assert "evaluations assumed" in pace.name
