"""Every recipe and overlay, as it stands: what it says of itself is what it builds."""

import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from gptlab import recipe
from gptlab.data.sources.table import SOURCES
from gptlab.model.size import measure
from gptlab.train.schedule import rate

ROOT = Path(__file__).parents[1] / "recipes"
RECIPES = {file.stem: file for file in sorted(ROOT.glob("*.toml"))}
OVERLAYS = {file.stem: file for file in sorted((ROOT / "with").glob("*.toml"))}
A100_FLOPS = 0.4 * 312e12  # what the estimated hours are reckoned with
LONG = {"train": {"steps": 19073}}  # an overlay may bring a warm-up that a recipe of minutes has no room for

every_recipe = pytest.mark.parametrize("name", RECIPES)
every_overlay = pytest.mark.parametrize("name", OVERLAYS)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No prepared folder lies where the recipes look for one."""
    monkeypatch.chdir(tmp_path)


def header(name):
    """The lines of a recipe's head, and of its fields by name."""
    lines = RECIPES[name].read_text().partition("\n\n")[0].splitlines()
    assert all(re.match("#( |$)", line) for line in lines if line)
    fields = dict(match.groups() for line in lines if (match := re.match(r"# ([A-Z]\w+): (.+)$", line)))
    return lines, fields


def commands(name):
    """The commands of a recipe's head, in words."""
    lines, _ = header(name)
    text = "\n".join(line[4:] for line in lines if line.startswith("#   ")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines()]


def config_of(name, *overlays, **flags):
    return recipe.load([RECIPES[name], *(OVERLAYS[overlay] for overlay in overlays)], flags)


def test_the_recipes_there_must_be():
    shapes = ["gpt2_{}m", "rope_gqa_swiglu_rmsnorm_{}m"]
    wanted = {shape.format(size) for shape in shapes for size in (124, 350)}
    wanted |= {"tiny_cpu", "rope_gelu_124m", "rope_gqa_gelu_124m", "gpt2_124m_fineweb_edu"}
    wanted |= {"gpt2_wide_2048", "rope_gqa_swiglu_rmsnorm_wide_2048"}
    assert wanted <= set(RECIPES)
    assert {"rmsnorm", "swiglu", "rope", "gqa"} <= set(OVERLAYS)


@every_recipe
def test_parameters_are_those_of_the_header(name):
    said = re.fullmatch(r"([\d,]+)(?: with a vocabulary of (\d+))?", header(name)[1]["Parameters"])
    assert said, "write `# Parameters: 1,234` or `# Parameters: 1,234 with a vocabulary of 56`"
    model = replace(config_of(name).model, vocab_size=int(said[2] or 50257))
    assert f"{measure(model).parameters:,}" == said[1]


@every_recipe
def test_header(name):
    lines, fields = header(name)
    assert re.fullmatch(r"# [A-Z].+[.?]", lines[0]), "the first line is one sentence"
    assert list(fields) == ["Data", "Hardware", "Hours", "Parameters", "Loss", "HellaSwag"]
    for field in ("Hours", "Loss", "HellaSwag"):
        figures = re.search(r"\d", fields[field].partition("(")[0])
        assert figures or "depends on the data" in fields[field], field
        assert re.search(r"\((published|estimated|measured)\b|\b(published|measured)\b", fields[field]), field
    # What is published has a source: a work that can be looked up, or the users who wrote it down.
    for text in re.findall(r"\(published: ([^)]*)\)", " ".join(fields.values())):
        assert re.search(r"discussion \d+|README of \w+/\w+|user", text), text


@every_recipe
def test_commands_of_the_header(name):
    *_, prepare, train = commands(name)
    config = config_of(name)
    assert prepare[:3] == ["gptlab", "data", "prepare"]
    assert prepare[4] == config.data.path
    at = train.index("train")
    assert train[at + 1 : at + 3] == [f"recipes/{name}.toml", "--out"]
    if train[0] == "torchrun":
        processes = int(train[train.index("--nproc-per-node") + 1])
        assert header(name)[1]["Hardware"].startswith(f"{processes} ")
        assert config.train.batch_tokens // config.model.context >= processes
    else:
        assert train[0] == "gptlab"


@every_recipe
def test_estimated_hours_follow_from_the_flops(name):
    config, hours = config_of(name), header(name)[1]["Hours"]
    reckoned = (
        measure(config.model).flops_per_token
        * config.train.steps
        * config.train.batch_tokens
        / A100_FLOPS
        / 3600
    )
    on_one = re.search(r"([\d.]+) on one \(estimated", hours)
    if config.model.n_embd < 768:
        assert on_one is None
        return
    assert on_one
    assert float(on_one[1]) == pytest.approx(reckoned, rel=0.03)
    on_many = re.match(r"([\d.]+) on (six|eight), ", hours)
    if on_many:
        assert float(on_many[1]) == pytest.approx(reckoned / {"six": 6, "eight": 8}[on_many[2]], rel=0.03)


@every_recipe
def test_lines_fit_a_screen(name):
    assert max(map(len, RECIPES[name].read_text().splitlines())) <= 110


@every_overlay
def test_overlays_are_short_and_say_what_they_are(name):
    first, *rest = OVERLAYS[name].read_text().splitlines()
    assert re.fullmatch(r"# [A-Z].+\.", first), "the first line is a comment of one sentence"
    assert 2 <= len(rest) <= 6
    assert max(map(len, [first, *rest])) <= 110


@every_overlay
def test_overlays_change_tiny_cpu_and_build(name):
    plain, changed = config_of("tiny_cpu", **LONG), config_of("tiny_cpu", name, **LONG)
    assert recipe.differences(plain, changed)
    assert measure(changed.model).parameters > 0


@every_recipe
def test_every_overlay_fits(name):
    for overlay in OVERLAYS:
        config_of(name, overlay, **LONG)  # refuses what contradicts itself


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("rmsnorm", -25 * 768),  # no biases: two norms a layer, and the last
        ("no_bias", -(25 * 768 + 12 * (3 * 768 + 768 + 3072 + 768))),
        ("rope", -1024 * 768),
        ("alibi", -1024 * 768),
        ("nope", -1024 * 768),
        ("untied", 50257 * 768),
        ("gqa", -12 * 2 * (12 - 6) * 64 * (768 + 1)),
        ("mqa", -12 * 2 * (12 - 1) * 64 * (768 + 1)),
        ("swiglu", 12 * (2 * 2048 - 3072)),  # the matrices hold as many, the biases not
        ("qk_norm", 12 * 2 * 64),
        ("post_norm", -2 * 768),  # no norm at the end
        ("embed_norm", 2 * 768),
        ("relu2", 0),
        ("zero_residual", 0),
        ("muon", 0),
        ("soft_cap", 0),
        ("wsd", 0),
        ("fp16", 0),
        ("recompute", 0),
        ("cpu", 0),
    ],
)
def test_what_overlays_do_to_gpt2_small(name, difference):
    plain, changed = config_of("gpt2_124m"), config_of("gpt2_124m", name)
    assert recipe.differences(plain, changed)
    assert measure(changed.model).parameters - measure(plain.model).parameters == difference


@pytest.mark.parametrize("name", ["gpt2_124m", "gpt2_350m"])
def test_the_baseline_s_numbers(name):
    config = config_of(name)
    assert (config.train.batch_tokens, config.train.steps, config.train.grad_clip) == (524_288, 19_073, 1.0)
    assert (config.optim.lr, config.optim.betas, config.optim.weight_decay) == (6e-4, (0.9, 0.95), 0.1)
    assert rate(config.schedule, 0, 19_073) == pytest.approx(1 / 715)
    assert rate(config.schedule, 714, 19_073) == 1
    assert rate(config.schedule, 19_073, 19_073) == pytest.approx(0)


@pytest.mark.parametrize("size", ["124m", "350m", "wide_2048"])
def test_the_variant_s_numbers(size):
    config = config_of(f"rope_gqa_swiglu_rmsnorm_{size}")
    model = config.model
    assert (model.position, model.mlp, model.norm) == ("rope", "swiglu", "rmsnorm")
    assert model.kv_heads * 2 == model.n_head
    assert config.optim.lr == 1.2e-3
    assert rate(config.schedule, 0, 19_073) == pytest.approx(0.1 + 0.9 / 715)
    assert rate(config.schedule, 19_073, 19_073) == pytest.approx(0.1)


def test_variants_are_the_baseline_with_overlays():
    for name, overlays in {
        "rope_gelu_124m": ["rope"],
        "rope_gqa_gelu_124m": ["rope", "gqa"],
        "gpt2_124m_fineweb_edu": [],
    }.items():
        found = recipe.differences(config_of("gpt2_124m", *overlays), config_of(name))
        assert set(found) <= {"data.path"}, name
    for size in ("124m", "350m"):
        overlaid = config_of(f"gpt2_{size}", "rope", "gqa", "swiglu", "rmsnorm", "no_bias")
        assert overlaid.model == config_of(f"rope_gqa_swiglu_rmsnorm_{size}").model


def test_the_wide_pair():
    first, second = config_of("gpt2_wide_2048"), config_of("rope_gqa_swiglu_rmsnorm_wide_2048")
    for config in (first, second):
        assert (config.model.context, config.model.n_embd, config.model.n_layer) == (2048, 1024, 12)
    assert first.train == second.train
    # The flags that the second one's header gives, so that the two differ in architecture alone.
    same = {"lr": 6e-4}, {"final_fraction": 0.0, "warmup_start_fraction": 0.0}
    alike = config_of("rope_gqa_swiglu_rmsnorm_wide_2048", optim=same[0], schedule=same[1])
    assert all(key.startswith("model.") for key in recipe.differences(first, alike))


@pytest.mark.parametrize("name", [name for name in RECIPES if "swiglu" in name])
def test_what_is_called_a_llama_exports_as_one(name):
    formats = pytest.importorskip("gptlab.formats.huggingface.classes")
    assert "Without biases it is a Llama" in RECIPES[name].read_text()
    assert formats.format_of(config_of(name).model) == "LlamaForCausalLM"


@every_recipe
def test_a_variant_is_the_keys_that_differ(name):
    raw = tomllib.loads(RECIPES[name].read_text())
    if "base" in raw:
        below = recipe.read(RECIPES[name].parent / raw.pop("base"))
        repeated = [
            f"{section}.{key}"
            for section, values in raw.items()
            if values.get("name") == below.get(section, {}).get("name") or "name" not in values
            for key, value in values.items()
            if below.get(section, {}).get(key) == value
        ]
        assert not repeated


@every_recipe
def test_its_text_is_of_a_source_that_gptlab_knows(name):
    prepare = next(words for words in commands(name) if words[:3] == ["gptlab", "data", "prepare"])
    assert prepare[3] in SOURCES
    assert config_of(name).data.path == prepare[4]
