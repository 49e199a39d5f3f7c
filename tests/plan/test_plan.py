"""A budget on the command line, and the recipe that comes of it."""

import json
from pathlib import Path

import pytest

from gptlab import cli, recipe
from gptlab.bench import bench
from gptlab.model.size import measure
from gptlab.plan import options
from gptlab.plan.pace import assumed

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def planned(tmp_path, capsys):
    """Run `gptlab plan` and return its exit code, its JSON and what it printed."""

    def run(*words):
        out = tmp_path / "plan.json"
        out.unlink(missing_ok=True)
        code = cli.main(["plan", *map(str, words), "--json", str(out)])
        return code, json.loads(out.read_text()) if out.exists() else None, capsys.readouterr()

    return run


def test_one_a100_for_a_day(planned, tmp_path):
    code, facts, told = planned("--gpu", "a100", "--gpus", 1, "--hours", 24, "--write", tmp_path / "my.toml")
    assert code == 0
    assert facts["best"]["size"] == "gpt2-350m"
    assert [row["size"] for row in facts["rows"]] == ["gpt2-124m", "gpt2-350m", "gpt2-774m", "gpt2-1558m"]
    assert "best: gpt2-350m" in told.out
    config, base = recipe.load([tmp_path / "my.toml"]), recipe.load([RECIPES / "gpt2_350m.toml"])
    assert config.model == base.model
    assert (config.train.steps, config.train.hours) == (facts["best"]["steps"], 24)
    assert config.optim.lr == 3e-4  # GPT-3's, half of 124M's
    assert config.schedule.warmup_steps <= config.train.steps / 10
    tokens = config.train.steps * config.train.batch_tokens
    seconds = tokens * measure(config.model).flops_per_token / (0.4 * 312e12)
    assert 0.95 * 24 < seconds / 3600 < 24
    assert facts["best"]["hours"] <= 24


def test_a_row_of_the_json(planned):
    _, facts, _ = planned("--hours", 10, "--gpu", "H100", "--data", "fineweb-edu")
    wanted = "parameters tokens loss loss_band hellaswag hellaswag_band protocol hours dollars memory_bytes disk_bytes"
    for row in facts["rows"]:
        assert set(wanted.split()) <= set(row)
        assert row["loss_band"][0] < row["loss"] < row["loss_band"][1]
        assert row["hellaswag_band"][0] < row["hellaswag"] < row["hellaswag_band"][1]
        assert row["dollars"] == pytest.approx(3.0 * row["hours"])
        assert (
            row["memory_bytes"] > 16 * row["parameters"]
        )  # weights, gradients and two means, of 4 bytes each
        assert row["disk_bytes"] >= 4 * 12 * row["parameters"] + 2 * 10e9


def test_within_the_fits_deviation_the_smaller_model_is_best(planned):
    _, facts, _ = planned("--hours", 24)
    by_size = {row["size"]: row["loss"] for row in facts["rows"]}
    for hours in (2, 4, 8, 16, 32):
        _, facts, _ = planned("--hours", hours)
        lowest = min(row["loss"] for row in facts["rows"])
        near = [row["parameters"] for row in facts["rows"] if row["loss"] <= lowest + 0.008]
        assert facts["best"]["parameters"] == min(near)
    assert by_size["gpt2-350m"] == min(by_size.values())


def test_dollars_limit_the_hours(planned):
    _, facts, _ = planned("--dollars", 15)
    assert facts["best"]["hours"] == pytest.approx(9.8, rel=0.01)  # train.hours keeps 2 % in reserve
    _, facts, _ = planned("--dollars", 15, "--hours", 2)
    assert facts["best"]["hours"] == pytest.approx(1.96, rel=0.01)


def test_what_does_not_fit_a_gpu_is_not_recommended(planned):
    _, facts, told = planned("--hours", 24, "--gpu", "T4")
    assert [row["loss"] is None for row in facts["rows"]] == [False, False, False, True]
    assert "needs 27.6GB of a device's 16GB" in told.out


def test_several_gpus_share_the_optimizers_state_where_it_does_not_fit_one(planned, tmp_path):
    _, facts, told = planned("--hours", 24, "--gpu", "T4", "--gpus", 16)
    assert [row["parallel"] for row in facts["rows"]] == ["ddp", "ddp", "ddp", "zero1"]
    large = facts["rows"][3]
    means = 8 * large["parameters"]  # two of 4 bytes each
    assert large["memory_bytes"] < 16e9 < large["memory_bytes"] + 15 / 16 * means
    assert large["loss"] is not None
    assert "GB (zero1)" in told.out
    file = tmp_path / "large.toml"
    file.write_text('base = "gpt2_124m"\n[model]\nsize = "gpt2-1558m"\n[train]\nparallel = "zero1"\n')
    _, facts, _ = planned("--hours", 24, "--gpu", "T4", "--gpus", 16, "--recipe", file)
    assert facts["rows"][0]["memory_bytes"] == large["memory_bytes"]


def test_fast_recipes_are_planned_with_their_own_gain(planned, tmp_path):
    plain = planned("--hours", 24)[1]["rows"][0]
    _, facts, told = planned("--hours", 24, "--recipe", "fast_124m", "--write", tmp_path / "fast.toml")
    assert facts["rows"][0]["loss"] < plain["loss"]
    assert facts["rows"][0]["loss_band"][0] < plain["loss_band"][0] - 0.1
    assert "1.4 times fewer tokens" in told.out
    own = recipe.load([RECIPES / "fast_350m.toml"])
    config = recipe.load([tmp_path / "fast.toml"])
    assert (config.model, config.optim.lr) == (own.model, own.optim.lr)
    assert config.optim.vector_lr == own.optim.vector_lr
    assert config.optim.embedding_lr == pytest.approx(own.optim.embedding_lr, rel=0.05)


@pytest.mark.parametrize(
    ("name", "shared"), [("rope_gqa_gelu_124m", [6, 8, 10, 5]), ("small_cpu", [2, 4, 4, 5, 5])]
)
def test_key_value_heads_stay_shared(name, shared):
    config = recipe.load([RECIPES / f"{name}.toml"])
    data = options.data_named("fineweb")
    found = [of.model.n_kv_head for _, of in options.rows(config, assumed("H100", 1), data, 5.0)]
    assert found == shared


def test_one_head_for_many_stays_one():
    config = recipe.load(
        [RECIPES / "gpt2_124m.toml"], {"model": {"n_head": 32, "n_embd": 1024, "n_kv_head": 1}}
    )
    assert options.sized(config, "gpt2-124m").model.n_kv_head == 1


def test_a_small_recipe_on_this_machine_has_its_hours_and_no_more(
    planned, tiny_recipe, torch_settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)
    code, facts, told = planned(
        "--calibrate", "--recipe", tiny_recipe, "--hours", 0.01, "--write", tmp_path / "t.toml"
    )
    assert (code, facts["best"]["loss"]) == (0, None)
    assert 0 < facts["best"]["hours"] <= 0.01
    assert "nothing is expected of it: no published fit reaches" in told.out
    assert recipe.load([tmp_path / "t.toml"]).train.steps == facts["best"]["steps"]


def test_a_prepared_folder(planned, tiny_data, tmp_path):
    _, facts, told = planned("--hours", 1, "--data", tiny_data, "--write", tmp_path / "mine.toml")
    assert facts["best"]["epochs"] > 1000
    assert "repeated text teaches less" in told.out
    config = recipe.load([tmp_path / "mine.toml"])
    assert config.data.path == str(tiny_data)
    assert config.model.vocab_size == 257  # that of bytes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hours", 24, "--gpus", 8, "--gpu", "H100"], "the largest that they cover is 1e+20 FLOPs, 8.7"),
        ([], "--hours: is missing, and so is --dollars; give one of them"),
        (
            ["--calibrate", "--gpus", 8, "--hours", 1],
            "--gpus 8: --calibrate measures one process here; leave one out",
        ),
        (
            ["runs/mine", "--hours", 1],
            "--hours: is for a new plan; a run has its own recipe, so leave it out",
        ),
        (["--hours", 0], "--hours 0.0: must be above 0"),
        (["--hours", 1, "--gpus", 0], "--gpus 0: must be above 0"),
        (["--hours", 1, "--gpu", "8800"], "--gpu 8800: is not in the table (B200, "),
        (
            ["--hours", 1, "--data", "nowhere"],
            "--data nowhere: is neither a prepared folder nor one of fineweb, ",
        ),
        (["--dollars", 1, "--gpu", "A10G"], "--dollars 1: the rent of this machine is unknown; give --hours"),
        (["--hours", 1e-3], "no size of 20M to 1.7G parameters makes a step"),
    ],
)
def test_refusals(planned, words, said):
    code, facts, told = planned(*words)
    assert (code, facts) == (1, None)
    assert said in told.err
