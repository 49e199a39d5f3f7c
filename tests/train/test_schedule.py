"""The learning rate: against others' formulas, at its corners, and what all shapes have in common."""

import math
from itertools import pairwise

import pytest
import torch

from gptlab.train.budget import Plan
from gptlab.train.schedule import SCHEDULES, ScheduleConfig, rate

STEPS = 100


def rates(config: ScheduleConfig, steps: int = STEPS) -> list[float]:
    plan = Plan(config.warmup_steps, 0.0, steps)
    return [rate(config, step, plan.progress(step)) for step in range(steps)]


def build_nanogpt(step: int, warmup_steps: int, steps: int, min_fraction: float) -> float:
    """The cosine of build-nanogpt (train_gpt2.py) and llm.c (llmc/schedulers.h)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decay_ratio = (step - warmup_steps) / (steps - warmup_steps)
    coefficient = 0.5 * (1.0 + math.cos(math.pi * decay_ratio))
    return min_fraction + coefficient * (1.0 - min_fraction)


@pytest.mark.parametrize(("warmup", "final"), [(0, 0.0), (7, 0.1), (100, 0.1)])
def test_cosine_is_build_nanogpts(warmup: int, final: float):
    config = ScheduleConfig(name="cosine", warmup_steps=warmup, final_fraction=final)
    expected = [build_nanogpt(step, warmup, STEPS, final) for step in range(STEPS)]
    assert rates(config) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_cosine_after_a_warm_up_from_a_fraction_is_torchs():
    warmup, start, final, peak = 10, 0.1, 0.25, 3e-4
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    schedulers = torch.optim.lr_scheduler
    rise = schedulers.LinearLR(optimizer, start, 1.0, warmup)
    fall = schedulers.CosineAnnealingLR(optimizer, STEPS - warmup, final * peak)
    both = schedulers.SequentialLR(optimizer, [rise, fall], [warmup])
    expected: list[float] = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        both.step()
    config = ScheduleConfig(warmup_steps=warmup, warmup_start_fraction=start, final_fraction=final)
    ours = [peak * fraction for fraction in rates(config)]
    # torch's first step is at the start of the line, ours is one step above it.
    assert ours[: warmup - 1] == pytest.approx(expected[1:warmup])
    assert ours[warmup:] == pytest.approx(expected[warmup:])


def test_wsd_at_its_corners():
    config = ScheduleConfig(name="wsd", warmup_steps=20, final_fraction=0.1, decay_fraction=0.25)
    got = rates(config)
    assert got[0] == pytest.approx(1 / 20)
    assert got[19:81] == [1.0] * 62  # the decay takes a quarter of the 80 steps after the warm-up
    assert got[81] == pytest.approx(1 - 0.9 / 20)
    assert got[90] == pytest.approx(0.55)
    assert got[99] == pytest.approx(0.1 + 0.9 / 20)


def test_wsd_that_decays_from_the_start_is_a_straight_line():
    config = ScheduleConfig(name="wsd", final_fraction=0.0, decay_fraction=1.0)
    assert rates(config) == pytest.approx([1 - step / STEPS for step in range(STEPS)])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("start", [0.0, 0.1, 1.0])
def test_every_schedule_rises_in_a_line_to_the_peak_and_never_rises_again(name: str, start: float):
    config = ScheduleConfig(name=name, warmup_steps=10, warmup_start_fraction=start, final_fraction=0.1)
    got = rates(config)
    assert got[:10] == pytest.approx([start + (1 - start) * (step + 1) / 10 for step in range(10)])
    assert got[9] == got[10] == 1.0
    assert all(later <= earlier for earlier, later in pairwise(got[9:]))
    assert rate(config, STEPS, 1.0) == pytest.approx(1.0 if name == "constant" else 0.1)
    assert got[-1] >= rate(config, STEPS, 1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_takes_a_run_of_one_step_and_one_that_only_warms_up(name: str):
    assert rates(ScheduleConfig(name=name), 1) == [1.0]
    assert rates(ScheduleConfig(name=name, warmup_steps=4), 4) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("warmup_steps", -1, "at least 0"),
        ("warmup_start_fraction", 1.5, "between 0 and 1"),
        ("final_fraction", -0.1, "between 0 and 1"),
        ("decay_fraction", 2.0, "between 0 and 1"),
        ("decay_fraction", 0.0, "constant schedule"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(field: str, value: float, rule: str):
    with pytest.raises(ValueError, match=rf"{field} = {value:g}.*{rule}"):
        ScheduleConfig(**{field: value})
