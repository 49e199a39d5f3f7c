"""Warnings before a start: only for settings outside of what is known to train."""

from pathlib import Path

import pytest

from gptlab import recipe
from gptlab.model.size import measure
from gptlab.train.optim import AdamWConfig
from gptlab.train.plausible import RATES, complaints
from gptlab.train.schedule import ScheduleConfig

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def told(lr=6e-4, parameters=124_000_000, dtype="bfloat16", bfloat16=True, **schedule):
    optim, schedule = AdamWConfig(lr=lr), ScheduleConfig(**schedule)
    return list(complaints(optim, schedule, dtype=dtype, parameters=parameters, bfloat16=bfloat16))


@pytest.mark.parametrize("file", RECIPES, ids=[file.stem for file in RECIPES])
def test_no_recipe_is_remarkable(file):
    config = recipe.load([file])
    parameters = measure(config.model).parameters
    assert (
        list(complaints(config.optim, config.schedule, dtype="float32", parameters=parameters, bfloat16=True))
        == []
    )


def test_the_rate_at_which_a_users_model_was_lost():
    [line] = told(lr=4e-3)
    assert line == ("optim.lr = 0.004: models of 124M parameters train with 0.0003 to 0.0024; it may diverge")


@pytest.mark.parametrize(("parameters", "lr"), [(85e6, 6e-4), (1.3e9, 2e-4), (1.75e11, 6e-5), (175e9, 1.0)])
def test_rates_of_gpt_3_are_not_remarkable_and_sizes_beyond_it_not_known(parameters, lr):
    assert told(lr=lr, parameters=int(parameters)) == []


def test_both_ends_of_every_range():
    below = 0.0
    for most, (low, high) in RATES.items():
        for parameters in (below + 1, most):
            assert told(lr=low, parameters=parameters) == told(lr=high, parameters=parameters) == []
            assert "it will learn slowly" in told(lr=0.99 * low, parameters=parameters)[0]
            assert "it may diverge" in told(lr=1.01 * high, parameters=parameters)[0]
        below = most


def test_a_decay_that_stops_half_way():
    [line] = told(final_fraction=0.5)
    assert line.startswith("schedule.final_fraction = 0.5: a decay that ends above 0.1")
    assert told(final_fraction=0.1) == []
    assert told(name="constant", final_fraction=0.5) == []


def test_float16_where_there_is_something_better():
    [line] = told(dtype="float16")
    assert line.startswith("train.dtype = float16: this device supports bfloat16")
    assert told(dtype="float16", bfloat16=False) == []
