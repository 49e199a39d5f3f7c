import pytest

from gptlab.errors import ConfigError
from gptlab.study.study_file import read_study

STUDY = """
base = "base.toml"
seeds = [1, 2, 3]
tune = [1e-3, "2x"]
paired = false

[budget]
tokens = 1_000_000

[train]
batch_tokens = 512

[[variant]]
name = "GPT-2"

[[variant]]
name = "RoPE"
with = ["with/rope.toml"]
match = "parameters"
optim.lr = 1e-5
"""


def read(tmp_path, text):
    file = tmp_path / "study.toml"
    file.write_text(text)
    return read_study(file)


def test_a_study_is_read_as_it_is_written(tmp_path):
    study = read(tmp_path, STUDY)
    assert study.base == (tmp_path / "base.toml",)
    assert study.seeds == (1, 2, 3)
    assert study.budget.tokens == 1_000_000
    assert study.rates(3e-4) == [1e-3, 6e-4]
    assert not study.paired
    assert study.values == {"train": {"batch_tokens": 512}}
    assert study.baseline.name == "GPT-2"
    rope = study.variants[1]
    assert rope.recipes == (tmp_path / "with/rope.toml",)
    assert rope.values == {"optim": {"lr": 1e-5}}
    assert (study.baseline.match, rope.match, rope.slug) == ("none", "parameters", "rope")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("seeds = [1, 2, 3]", "seeds = [1, 2, 2]", r"seeds = \[1, 2, 2\]: names one twice"),
        ("seeds = [1, 2, 3]", "seed = [1]", r"seed: there is no such key; did you mean seeds\?"),
        ("seeds = [1, 2, 3]", "", "seeds: is missing"),
        ("seeds = [1, 2, 3]", "seeds = []", "give whole numbers"),
        ("seeds = [1, 2, 3]", 'seeds = ["a"]', "seeds.0 = 'a'"),
        ("tokens = 1_000_000", "tokens = 1\nflops = 2.0", "names tokens and flops"),
        ("tokens = 1_000_000", "tokens = 0", "must be above 0"),
        ("tokens = 1_000_000", "flops = inf", "budget.flops = inf"),
        ('"2x"', "inf", "tune = inf"),
        ("tokens = 1_000_000", "tune = 2.0", "budget.tune = 2.0"),
        ("tokens = 1_000_000", "steps = 5", "steps"),
        ('"2x"', '"fast"', "tune = 'fast'"),
        ("paired = false", "paired = 3", "paired = 3"),
        ("paired = false", 'variance = "same"', "variance = 'same'"),
        ('match = "parameters"', 'match = "width"', "match = 'width'"),
        ('name = "RoPE"', 'name = "gpt 2"', "the same file names"),
        ('name = "RoPE"', 'name = "?"', "no letter"),
        ('name = "RoPE"', "", "has no name"),
        (
            "optim.lr",
            "optimizer.lr",
            r"variant.optimizer: there is no such key; did you mean variant.optim\?",
        ),
        ('with = ["with/rope.toml"]', "with = 3", "with = 3"),
        ("[budget]", "budget", "not valid TOML"),
    ],
)
def test_a_mistake_is_named(old, new, complaint, tmp_path):
    assert old in STUDY
    with pytest.raises(ConfigError, match=complaint) as refused:
        read(tmp_path, STUDY.replace(old, new, 1))
    assert "\n" not in str(refused.value)


def test_no_variant_is_named(tmp_path):
    with pytest.raises(ConfigError, match="variant: is empty"):
        read(tmp_path, 'base = "b.toml"\nseeds = [1]\nvariant = []\n')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_study(tmp_path / "none.toml")
