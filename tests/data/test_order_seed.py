import json

import pytest
import torch

from gptlab import recipe
from gptlab.actions.train import train
from gptlab.data.mixture import Sets
from gptlab.errors import ConfigError


def order(config):
    sets = Sets(config.data, config.model.context, config.order_seed)
    return sets.batches.batch(0, 8)[0]


def test_the_order_of_the_data_has_a_seed_of_its_own(tiny_recipe):
    plain, same = (
        recipe.load([tiny_recipe], flags) for flags in ({"train": {"seed": 7}}, {"data": {"seed": 7}})
    )
    other = recipe.load([tiny_recipe], {"train": {"seed": 8}})
    assert torch.equal(order(plain), order(same))
    assert not torch.equal(order(plain), order(other))
    written = recipe.to_toml(same)
    assert "seed = 7" in written.partition("[train]")[0]


def test_first_weights_do_not_depend_on_it(tiny_recipe, tmp_path, torch_settings):
    flags = {"train": {"steps": 1}, "schedule": {"warmup_steps": 0}, "eval": {"tasks": ()}}

    def losses(seed):
        train([tiny_recipe], tmp_path / str(seed), flags | {"data": {"seed": seed}})
        rows = map(json.loads, (tmp_path / str(seed) / "metrics.jsonl").read_text().splitlines())
        return [row["loss"] for row in rows if row["kind"] == "val"]

    one, other = losses(1), losses(2)
    assert one[0] == other[0]
    assert one[1] != other[1]
    with pytest.raises(ConfigError, match=r"data.seed = 2: the run in .* was started with 1"):
        train([tiny_recipe], tmp_path / "1", flags | {"data": {"seed": 2}})
