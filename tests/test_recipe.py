import dataclasses
import tomllib
import typing
from pathlib import Path

import pytest

from gptlab import cli, recipe, recipe_keys
from gptlab.data.manifest import Manifest, TokenizerRecord
from gptlab.data.mixture import DataConfig, Part
from gptlab.errors import ConfigError
from gptlab.eval.eval_config import EvalConfig
from gptlab.eval.tasks import SUITES, TASKS
from gptlab.model.gpt import SIZES, ModelConfig
from gptlab.model.norm import NORMS
from gptlab.recipe import RunConfig
from gptlab.runs.mirrors import MirrorConfig
from gptlab.sample import SampleConfig
from gptlab.train.config import TrainConfig
from gptlab.train.guard import GuardConfig
from gptlab.train.muon import MuonConfig
from gptlab.train.optim import OPTIMIZERS, AdamWConfig
from gptlab.train.schedule import ScheduleConfig


def one_of(table):
    """Write the names of a table as an error does."""
    return " or ".join(f'"{name}"' for name in table)


RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))

# One value that is not the default for every key, so that no key can be forgotten on the way.
EVERYTHING = RunConfig(
    model=ModelConfig(
        n_layer=3,
        n_head=6,
        n_kv_head=2,
        n_embd=96,
        n_hidden=100,
        context=64,
        vocab_size=300,
        norm="rmsnorm",
        norm_order="post",
        norm_eps=2e-6,
        position="rope",
        rope_theta=5e5,
        mlp="swiglu",
        bias=False,
        tie_embeddings=False,
        embed_norm=True,
        qk_norm=True,
        logit_soft_cap=30.0,
        residual_init="zero",
    ),
    data=DataConfig(train=(Part(path="a folder/of data", weight=0.25), Part(path="another")), seed=5),
    guard=GuardConfig(patience=3, spike=None),
    mirror=MirrorConfig(to=("tensorboard",), project="a thesis"),
    train=TrainConfig(
        steps=7,
        hours=0.5,
        batch_tokens=128,
        micro_batch=2,
        dtype="float16",
        residual="products",
        attention_kernel="math",
        device="cpu",
        parallel="zero1",
        reduce_dtype="bfloat16",
        init_from="runs/first",
        seed=2**40,
        compile=True,
        recompute=True,
        average=0.99,
        grad_clip=0.1,
        deterministic=False,
        save_every_steps=3,
        save_every_s=1.5,
        keep=9,
        keep_every_steps=5,
    ),
    optim=AdamWConfig(lr=1e-05, betas=(0.8, 0.999), eps=1e-6, weight_decay=0.0),
    schedule=ScheduleConfig(
        name="wsd", warmup_steps=2, warmup_start_fraction=0.1, final_fraction=0.0, decay_fraction=0.5
    ),
    eval=EvalConfig(
        every_steps=2,
        tasks=("hellaswag", "continuation"),
        val_tokens=99,
        protocol="harness",
        limit=5,
        hellaswag_file="f",
        task_data="t",
    ),
    sample=SampleConfig(prompts=("Once",), max_tokens=3, temperature=0.0, top_k=1),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No prepared folder named `data` lies where the tests are started from."""
    monkeypatch.chdir(tmp_path)


def write(name, text):
    file = Path(name)
    file.write_text(text, encoding="utf-8")
    return file


def load(*texts, **flags):
    files = [write(f"{number}.toml", text) for number, text in enumerate(texts)]
    return recipe.load(files, flags)


def complaint(*texts, **flags):
    with pytest.raises(ConfigError) as caught:
        load(*texts, **flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_is_the_defaults():
    assert load() == RunConfig()
    assert load().model == ModelConfig()  # GPT-2 small


def test_later_files_win_key_by_key():
    config = load("[model]\nn_layer = 2\nn_head = 4\n", "[model]\nn_layer = 3\n[train]\nsteps = 5\n")
    assert (config.model.n_layer, config.model.n_head, config.train.steps) == (3, 4, 5)
    swapped = load("[model]\nn_layer = 3\n[train]\nsteps = 5\n", "[model]\nn_layer = 2\nn_head = 4\n")
    assert (swapped.model.n_layer, swapped.model.n_head, swapped.train.steps) == (2, 4, 5)


def test_flags_come_last():
    config = load("[optim]\nlr = 1e-3\nweight_decay = 0.2\n", optim={"lr": 3e-4})
    assert (config.optim.lr, config.optim.weight_decay) == (3e-4, 0.2)


def test_a_section_whose_name_changes_to_one_with_other_keys_is_replaced():
    config = load("[optim]\nlr = 1e-3\nweight_decay = 0.2\n", '[optim]\nname = "muon"\n')
    assert config.optim == MuonConfig()
    assert load("[optim]\nname = 'muon'\nmomentum = 0.8\n", optim={"name": "adamw"}).optim == AdamWConfig()


def test_another_schedule_keeps_the_warm_up():
    below = "[schedule]\nwarmup_steps = 50\nfinal_fraction = 0.5\n"
    config = load(below, '[schedule]\nname = "wsd"\ndecay_fraction = 0.7\n')
    assert config.schedule == ScheduleConfig(
        name="wsd", warmup_steps=50, final_fraction=0.5, decay_fraction=0.7
    )
    assert load(below, schedule={"name": "constant"}).schedule.warmup_steps == 50


def test_a_section_whose_name_stays_is_merged():
    below = "[schedule]\nwarmup_steps = 50\n"
    for same in ('name = "cosine"\n', ""):  # cosine is the default, so it is no change
        config = load(below, f"[schedule]\n{same}final_fraction = 0.5\n")
        assert config.schedule == ScheduleConfig(warmup_steps=50, final_fraction=0.5)


def test_merging_changes_neither_side():
    below, above = {"model": {"n_layer": 1}}, {"model": {"n_head": 2}}
    assert recipe.merge(below, above) == {"model": {"n_layer": 1, "n_head": 2}}
    assert (below, above) == ({"model": {"n_layer": 1}}, {"model": {"n_head": 2}})


@pytest.mark.parametrize("size", SIZES)
def test_a_size_stands_for_its_numbers(size):
    model = load(f'[model]\nsize = "{size}"\n').model
    assert {key: getattr(model, key) for key in SIZES[size]} == SIZES[size]


def test_a_size_is_written_out_file_by_file():
    own = load('[model]\nsize = "gpt2-350m"\nn_layer = 2\n').model
    assert (own.n_layer, own.n_embd) == (2, 1024)
    over = load('[model]\nsize = "tiny"\nn_layer = 2\n', '[model]\nsize = "gpt2-350m"\n').model
    assert (over.n_layer, over.n_embd, over.context) == (24, 1024, 1024)
    under = load('[model]\nsize = "gpt2-350m"\n', "[model]\nn_layer = 2\n").model
    assert (under.n_layer, under.n_embd) == (2, 1024)
    flag = load('[model]\nsize = "gpt2-350m"\nn_kv_head = 2\n', model={"size": "tiny"}).model
    assert (flag.n_layer, flag.n_embd, flag.n_kv_head) == (4, 128, 2)


@pytest.mark.parametrize(
    ("texts", "heads"),
    [
        (("[model]\nkv_group = 2\n",), 6),
        (("[model]\nkv_group = 2\n", '[model]\nsize = "gpt2-350m"\n'), 8),
        (("[model]\nn_kv_head = 1\n", "[model]\nkv_group = 3\n"), 4),
        (("[model]\nkv_group = 3\n", "[model]\nn_kv_head = 1\n"), 1),
    ],
)
def test_query_heads_a_key_value_head(texts, heads):
    config = load(*texts)
    assert config.model.n_kv_head == heads
    assert f"n_kv_head = {heads}\n" in recipe.to_toml(config)


def test_an_unknown_size():
    assert complaint('[model]\nsize = "gpt3"\n') == (
        "model.size = 'gpt3': is not known; choose one of " + ", ".join(SIZES)
    )
    assert complaint("[model.size]\nn_layer = 3\n").startswith("model.size = {'n_layer': 3}: is not known")


@pytest.fixture
def prepared():
    record = TokenizerRecord(name="bytes", hash="0" * 64, vocab_size=257, end_of_text=256)
    folder = Path("prepared")
    folder.mkdir()
    manifest = Manifest(tokenizer=record, source="s", revision="r", settings={}, validation="v", shards=())
    manifest.save(folder)
    return folder


def test_the_vocabulary_is_the_data_s(prepared):
    assert load('[data]\npath = "prepared"\n').model.vocab_size == 257
    assert load(data={"path": "prepared"}).model.vocab_size == 257
    assert load('[model]\nvocab_size = 300\n[data]\npath = "prepared"\n').model.vocab_size == 300
    assert load('[data]\npath = "elsewhere"\n').model.vocab_size == 50257


def test_the_vocabulary_of_the_default_folder(prepared):
    prepared.rename("data")
    assert load().model.vocab_size == 257


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nn_layers = 3\n", "model.n_layers: there is no such key; did you mean model.n_layer?"),
        ("[modle]\nn_layer = 3\n", "modle: there is no such key; did you mean model?"),
        (
            "[optim]\nlearning = 3\n",
            "optim.learning: there is no such key; known are name, lr, betas, eps, weight_decay",
        ),
        ("[data]\nzzz = 1\n", "data.zzz: there is no such key; known are path"),
        ("steps = 5\n", "steps stands outside a section; put it under one of [model], [data], [train]"),
        ("[[model]]\nn_layer = 1\n", "model stands outside a section"),
    ],
)
def test_unknown_keys(text, message):
    assert message in complaint(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nn_layer = '3'\n", "model.n_layer = '3': must be int"),
        ("[model]\nn_layer = 3.0\n", "model.n_layer = 3.0: must be int"),
        ("[model]\nn_layer = true\n", "model.n_layer = True: must be int"),
        ("[model]\nbias = 1\n", "model.bias = 1: must be true or false"),
        ("[model]\nbias = 'no'\n", "model.bias = 'no': must be true or false"),
        (
            "[model]\nnorm = 'rmsnrm'\n",
            f"model.norm = 'rmsnrm': must be {one_of(NORMS)}",
        ),
        ("[model]\nlogit_soft_cap = 'big'\n", "model.logit_soft_cap = 'big': must be float or none"),
        ("[model]\nlogit_soft_cap = false\n", "model.logit_soft_cap = False: must be float or none"),
        ("[train]\nmicro_batch = 'big'\n", "train.micro_batch = 'big': must be int or \"auto\""),
        ("[optim]\nname = 'lion'\n", f"optim.name = 'lion': must be {one_of(OPTIMIZERS)}"),
        ("[optim]\nbetas = [0.9]\n", "optim.betas = [0.9]: must be list of float, 2 of them"),
        (
            "[eval]\ntasks = 'hellaswag'\n",
            f"eval.tasks = 'hellaswag': must be list of {one_of((*TASKS, *SUITES))}",
        ),
        ("[data]\npath = 3\n", "data.path = 3: must be text"),
        ("[sample]\nprompts = [1]\n", "sample.prompts = [1]: must be list of text"),
    ],
)
def test_wrong_types(text, message):
    assert complaint(text) == message


def test_all_mistakes_are_told_at_once():
    said = complaint("[model]\nn_layer = 'x'\nheads = 2\n[train]\nsteps = 'y'\n")
    assert said.count(";") == 3  # two between the mistakes, one within the unknown key's
    for key in ("model.n_layer", "model.heads", "train.steps"):
        assert key in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nn_head = 5\n", "model: n_head = 5 does not divide n_embd = 768; 4 does"),
        ("[model]\nkv_group = 5\n", "model.kv_group = 5: must be a number that divides n_head = 12"),
        ("[model]\nkv_group = true\n", "model.kv_group = True: must be a number that divides n_head = 12"),
        (
            "[model]\nkv_group = 2\nn_kv_head = 2\n",
            "model.n_kv_head and model.kv_group: are two forms of one thing",
        ),
        ("[model]\nn_kv_head = 5\n", "model: n_kv_head = 5 does not divide n_head = 12; 4 does"),
        (
            "[model]\nn_embd = 4611686018427387901\n",
            "model: n_embd = 4611686018427387901: must lie between 1 and",
        ),
        ("[model]\nn_layer = 0\n", "model: n_layer = 0: must lie between 1 and 1,024"),
        (
            "[model]\nposition = 'rope'\nn_embd = 12\n",
            "model: position = rope needs a head dimension that is a multiple of 2",
        ),
        ("[train]\nsteps = 0\n", "train: steps = 0: must be above 0"),
        (
            "[train]\nsteps = 10\n[schedule]\nwarmup_steps = 11\n",
            "schedule.warmup_steps = 11 is longer than train.steps = 10",
        ),
        (
            "[train]\nbatch_tokens = 1000\n",
            "train.batch_tokens = 1000 is no multiple of model.context = 1024; 1 sequences would be 1024",
        ),
        ("[train]\ngrad_clip = 0.0\n", "train: grad_clip = 0.0: must be above 0; leave it out for no bound"),
        ("[optim]\nlr = 0\n", "optim: lr = 0"),
        ("[optim]\nlr = nan\n", "optim: lr = nan: must be above 0"),
        ("[optim]\nbetas = [0.9, 1.0]\n", "optim: betas = (0.9, 1.0): each must lie in [0, 1)"),
        ("[schedule]\nfinal_fraction = 1.5\n", "schedule: final_fraction = 1.5: must lie between 0 and 1"),
        ("[eval]\nevery_steps = 0\n", "eval: every_steps = 0: must be at least 1"),
        ("[eval]\ntasks = ['hellaswag', 'hellaswag']\n", "names one twice"),
    ],
)
def test_contradictions(text, message):
    assert message in complaint(text)


def test_contradictions_between_files_are_seen_after_the_merge():
    short, long = "[train]\nsteps = 10\n", "[train]\nsteps = 100\n"
    warm = "[schedule]\nwarmup_steps = 50\n"
    assert "warmup_steps = 50 is longer" in complaint(warm, short)
    assert load(warm, short, long).schedule.warmup_steps == 50
    assert "warmup_steps = 11 is longer" in complaint(short, schedule={"warmup_steps": 11})


def test_hours_replace_the_steps_of_an_earlier_recipe():
    steps, hours = "[train]\nsteps = 10\n", "[train]\nhours = 2.0\n"
    assert (load(steps, hours).train.steps, load(steps, hours).train.hours) == (None, 2.0)
    assert load(steps, train={"hours": 2.0}).train.steps is None
    assert load(steps, train={"hours": 2.0, "steps": 20}).train.steps == 20
    assert load(hours, steps).train.steps == 10
    assert load(steps, '[train]\nhours = "none"\n').train.steps == 10


def test_what_other_programs_call_a_key_is_told():
    assert complaint("[train]\nlearning_rate = 1\n") == (
        "train.learning_rate: there is no such key; did you mean optim.lr?"
    )
    for name, key in recipe_keys.ELSEWHERE.items():
        section, _, own = key.partition(".")
        assert own in {item.name for item in dataclasses.fields(recipe.SECTIONS[section])}, key
        assert name != own


def test_files_that_are_no_recipes():
    with pytest.raises(ConfigError, match=r"^recipe nowhere\.toml: no such file; gptlab's own are "):
        recipe.load([Path("nowhere.toml")])
    assert complaint("[model\nn_layer = 1\n").startswith("recipe 0.toml: not valid TOML: Expected ']'")
    assert "not valid TOML" in complaint("[model]\nn_layer = 1\nn_layer = 2\n")
    assert "nested too deeply" in complaint(f"[data]\npath = {'[' * 9000}{']' * 9000}\n")
    assert "not valid TOML" in complaint(f"[train]\nsteps = 0x{'f' * 9000}\n")
    Path("latin.toml").write_bytes(b"[data]\npath = '\xe9'\n")
    with pytest.raises(ConfigError, match=r"^recipe latin\.toml: not valid TOML"):
        recipe.load([Path("latin.toml")])


@pytest.mark.parametrize("section", recipe.SECTIONS)
def test_the_config_with_everything_has_no_default(section):
    for item in dataclasses.fields(recipe.SECTIONS[section]):
        choices = typing.get_args(typing.get_type_hints(recipe.SECTIONS[section])[item.name])
        one_choice = len(choices) == 1  # [optim] name: it is its default
        other_form = (section, item.name) in (("data", "path"), ("train", "anneal_from"))
        if not one_choice and not other_form:
            assert getattr(getattr(EVERYTHING, section), item.name) != item.default, f"{section}.{item.name}"


@pytest.mark.parametrize("config", [RunConfig(), EVERYTHING], ids=["defaults", "everything"])
def test_to_toml_is_a_recipe(config):
    assert load(recipe.to_toml(config)) == config


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_to_toml_of_every_recipe(file):
    config = recipe.load([file])
    text = recipe.to_toml(config)
    assert load(text) == config
    assert recipe.to_toml(load(text)) == text


@pytest.mark.parametrize("section", recipe.SECTIONS)
def test_to_toml_of_none(section):
    kind = recipe.SECTIONS[section]
    optional = [
        name for name, hint in typing.get_type_hints(kind).items() if type(None) in typing.get_args(hint)
    ]
    off = dataclasses.replace(getattr(RunConfig(), section), **dict.fromkeys(optional))
    config = dataclasses.replace(RunConfig(), **{section: off})
    assert load(recipe.to_toml(config)) == config


def test_none_in_a_recipe():
    assert load('[train]\ngrad_clip = "none"\n').train.grad_clip is None
    assert load("[model]\nn_kv_head = 2\n", '[model]\nn_kv_head = "none"\n').model.n_kv_head is None
    assert load('[data]\npath = "none"\n').data.path == "none"
    assert load('[eval]\nhellaswag_file = "none"\n').eval.hellaswag_file == "none"
    assert load('[model]\nposition = "none"\n').model.position == "none"
    assert "train.seed = 'none': must be int" in complaint('[train]\nseed = "none"\n')


@pytest.mark.parametrize(
    "text",
    [
        'say "yes"',
        "back\\slash \\n \\u0041",
        "two\nlines\r\nand\ttabs",
        "'''\"\"\"",
        "\N{GREEK SMALL LETTER ALPHA}\N{SNOWMAN}\N{GRINNING FACE}\u2028\u00a0",
        "\x00\x01\x1b\x7f\x80",
        "#]=[",
        "",
    ],
    ids=ascii,
)
def test_strings_survive(text):
    config = RunConfig(data=DataConfig(path=text + "x"), sample=SampleConfig(prompts=(text, text)))
    written = recipe.to_toml(config)
    assert load(written) == config
    assert tomllib.loads(written)["sample"]["prompts"] == [text, text]


@pytest.mark.parametrize("number", [1e-5, 1e22, 0.1, 3.0, 1e-300, 123456789.125])
def test_numbers_survive(number):
    config = RunConfig(optim=AdamWConfig(lr=number))
    written = recipe.to_toml(config)
    assert load(written).optim.lr == number
    assert isinstance(tomllib.loads(written)["optim"]["lr"], float)


def test_differences():
    assert recipe.differences(EVERYTHING, EVERYTHING) == {}
    changed = dataclasses.replace(EVERYTHING, data=DataConfig(path="p", seed=5), optim=AdamWConfig(lr=1.0))
    found = recipe.differences(EVERYTHING, changed)
    assert found["data.path"] == ("data", "p")
    assert found["optim.lr"] == (1e-05, 1.0)
    optim = {"optim.lr", "optim.betas", "optim.eps", "optim.weight_decay"}
    assert set(found) == {"data.path", "data.train"} | optim


def test_differences_see_every_key():
    found = recipe.differences(RunConfig(), EVERYTHING)
    everything = {
        f"{name}.{item.name}" for name, kind in recipe.SECTIONS.items() for item in dataclasses.fields(kind)
    }
    assert set(found) == everything - {
        "optim.name",
        "data.path",
        "train.anneal_from",
    }  # a constant, and the other forms of data.train and train.init_from


@pytest.mark.parametrize("section", recipe.SECTIONS)
def test_every_key_has_a_sentence(section):
    entries = list(recipe_keys.entries(recipe.SECTIONS[section]))
    assert [name for name, *_ in entries] == [
        item.name for item in dataclasses.fields(recipe.SECTIONS[section])
    ]
    for name, _, _, text in entries:
        assert text[0].isupper(), name
        assert text.endswith("."), name
        assert "  " not in text, name


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (int, "int"),
        (str, "text"),
        (bool, "true or false"),
        (int | None, "int or none"),
        (int | typing.Literal["auto"], 'int or "auto"'),
        (tuple[float, float], "list of float, 2 of them"),
        (tuple[str, ...], "list of text"),
    ],
)
def test_type_names(hint, name):
    assert recipe_keys.type_name(hint) == name


def flags(*words):
    import tyro

    parsed = tyro.cli(cli.flags_type(), args=words, config=(tyro.conf.FlagConversionOff,))
    return {section: keys for section, keys in parsed.items() if keys}


def test_flags_that_were_not_given_are_absent():
    assert flags() == {}
    assert flags("--optim.lr", "3e-4") == {"optim": {"lr": 3e-4}}


def test_flags():
    given = flags(
        *("--model.bias", "False", "--model.n-kv-head", "None", "--train.batch-tokens", "1024"),
        *("--model.size", "tiny", "--train.micro-batch", "auto", "--eval.tasks", "continuation"),
        *("--train.grad-clip", "None", "--optim.betas", "0.5", "0.6"),
    )
    model = {"bias": False, "n_kv_head": None, "size": "tiny"}
    train = {"batch_tokens": 1024, "micro_batch": "auto", "grad_clip": None}
    assert given == {
        "model": model,
        "train": train,
        "eval": {"tasks": ("continuation",)},
        "optim": {"betas": (0.5, 0.6)},
    }
    config = load("[model]\nn_kv_head = 2\n", **given)
    assert (config.model.bias, config.model.n_kv_head, config.model.n_layer) == (False, None, 4)
    assert (config.train.grad_clip, config.train.micro_batch) == (None, "auto")
    assert (config.eval.tasks, config.optim.betas) == (("continuation",), (0.5, 0.6))


def test_every_key_is_a_flag():
    every = typing.get_type_hints(cli.flags_type(), include_extras=False)
    assert set(every) == set(recipe.SECTIONS)
    for section, kind in every.items():
        (keys,) = typing.get_args(kind) or (kind,)
        kinds = recipe.KINDS.get(section, {"": recipe.SECTIONS[section]}).values()
        known = {item.name for kind in kinds for item in dataclasses.fields(kind)}
        known -= {"train"} if section == "data" else set()  # tables take a file
        assert set(keys.__annotations__) == known | (set(recipe.SHORTHANDS) if section == "model" else set())


MIXTURE = """
[[data.train]]
path = "a"
weight = 3
[[data.train]]
path = "b"
"""


def test_a_mixture_is_a_list_of_tables():
    assert load(MIXTURE).data.parts == (Part(path="a", weight=3.0), Part(path="b", weight=1.0))
    assert load('[data]\npath = "c"\n').data.parts == (Part(path="c"),)


def test_the_later_form_of_the_data_counts():
    one = '[data]\npath = "c"\n'
    assert load(one, MIXTURE).data.parts == load(MIXTURE).data.parts
    assert load(MIXTURE, one).data.parts == (Part(path="c"),)
    assert load(MIXTURE, data={"path": "d"}).data.parts == (Part(path="d"),)
    assert "two forms of one thing" in complaint(one + MIXTURE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight = 3", "weight = 0", "data.train[0]: weight = 0.0: must be above 0"),
        ("weight = 3", "weight = -1", "data.train[0]: weight = -1.0: must be above 0"),
        ("weight = 3", 'weight = "3"', "data.train[0].weight = '3': must be float"),
        (
            "weight = 3",
            "wieght = 3",
            "data.train[0].wieght: there is no such key; did you mean data.train[0].weight?",
        ),
        ('path = "b"', "weight = 1", "data.train[1].path: is missing"),
        ('"b"', '"a"', "data: train: names a twice"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_place(old, new, message):
    assert message in complaint(MIXTURE.replace(old, new))


def test_the_vocabulary_of_a_mixture_is_that_of_its_first_set(tiny_data):
    text = MIXTURE.replace('"a"', f'"{tiny_data}"')
    assert load(text).model.vocab_size == 257


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path, capsys):
    from gptlab import cli

    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nsteps = 7\r\n")
    assert cli.main(["config", str(tmp_path / "marked.toml")]) == 0
    assert "steps = 7\n" in capsys.readouterr().out


def test_a_date_is_no_text():
    with pytest.raises(ConfigError, match=r"mirror\.project = .*1979.*: must be text"):
        recipe.load([write("a", "[mirror]\nproject = 1979-05-27\n")])


def test_a_base_lies_below_from_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "first.toml").write_text('[model]\nsize = "tiny"\nmlp = "swiglu"\n[optim]\nlr = 1e-3\n')
    (tmp_path / "deep" / "second.toml").write_text('base = "../first.toml"\n[model]\nn_layer = 2\n')
    (tmp_path / "third.toml").write_text('base = "deep/second.toml"\n[optim]\nlr = 2e-3\n')
    monkeypatch.chdir(tmp_path / "deep")
    config = recipe.load([tmp_path / "third.toml"])
    assert (config.model.n_layer, config.model.n_embd, config.model.mlp) == (2, 128, "swiglu")
    assert config.optim.lr == 2e-3
    assert "base" not in recipe.to_toml(config)


def test_a_variant_of_a_base_merges_as_several_recipes_do(tmp_path):
    (tmp_path / "one.toml").write_text("[optim]\nlr = 1e-3\n[schedule]\nwarmup_steps = 7\n")
    changed = '[optim]\nname = "muon"\n[schedule]\nname = "wsd"\n'
    (tmp_path / "two.toml").write_text(f'base = "one.toml"\n{changed}')
    (tmp_path / "over.toml").write_text(changed)
    given = recipe.load([tmp_path / "one.toml", tmp_path / "over.toml"])
    assert recipe.load([tmp_path / "two.toml"]) == given
    assert (given.optim, given.schedule.warmup_steps) == (MuonConfig(), 7)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a": 'base = "b.toml"', "b": 'base = "a.toml"'}, "its base a.toml leads back to itself"),
        ({"a": 'base = "./a.toml"'}, "its base ./a.toml leads back to itself"),
        ({"a": 'base = "none.toml"'}, "none.toml: no such file; .*a.toml names it as its base"),
        ({"a": "base = 3"}, "base = 3: must name a recipe"),
        ({"a": 'base = "b.toml"', "b": "model = 1"}, "b.toml: model stands outside a section"),
        ({"a": '[base]\nfile = "b.toml"'}, "must name a recipe"),
    ],
)
def test_a_base_that_is_none(tmp_path, files, complaint):
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        recipe.load([tmp_path / "a.toml"])
