import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from gptlab import __version__, cli
from gptlab.data.shards import HEADER_BYTES, TOKEN
from gptlab.formats.huggingface.classes import own

ROOT = Path(__file__).parents[1]
TRAIN = "shard {}/train_000000.bin: "
REBUILD = 'run "gptlab data prepare" again to rebuild it'


class Answer:
    """What a command left behind: its exit code and what it wrote."""

    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err


@pytest.fixture
def gptlab(capsys, torch_settings):
    """Run a command in this process."""

    def run(*words):
        capsys.readouterr()
        try:
            code = cli.main(list(map(str, words)))
        except SystemExit as stopped:  # the parser's own
            code = stopped.code
        return Answer(code, capsys.readouterr())

    return run


@pytest.fixture
def refused(gptlab):
    """Run a command that must end with exit code 1 and one line; return it without the command's name."""

    def run(*words):
        answer = gptlab(*words)
        assert answer.code == 1
        *progress, line = answer.err.splitlines()
        assert not any("Traceback" in other or "Error" in other for other in progress)
        name = next(name for name in cli.COMMANDS if list(words)[: len(name.split())] == name.split())
        assert line.startswith(f"gptlab {name}: ")
        return line.removeprefix(f"gptlab {name}: ")

    return run


@pytest.fixture(scope="module")
def run(tiny_recipe, tmp_path_factory):
    """A finished run of two steps; tests read it only."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["train", str(tiny_recipe), "--train.steps", "2", "--eval.tasks", "--out", str(out)]) == 0
    return out


@pytest.fixture
def damaged(tiny_data, tmp_path):
    """A copy of the prepared folder, whose first shard is made into what `damage` returns of it."""

    def copy(damage):
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_data, folder)
        shard = folder / "train_000000.bin"
        shard.write_bytes(damage(shard.read_bytes()))
        return folder

    return copy


def subprocess_environment():
    return {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}


def test_help_is_there_in_an_instant():
    script = "import sys; from gptlab.cli import main; sys.exit(main(['--help']))"
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env=subprocess_environment(),
            check=True,
        )
        seconds.append(time.perf_counter() - start)
        assert done.stdout.startswith("usage: gptlab COMMAND")
    # Others may be using the machine: the quickest tells what gptlab itself needs.
    assert min(seconds) < 0.3


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from gptlab.cli import main; main(['--help']); main(['--version']);"
        "print(*sorted(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=subprocess_environment(),
        check=True,
    )
    heavy = {
        "torch",
        "numpy",
        "tyro",
        "pydantic",
        "tiktoken",
        "tokenizers",
        "pyarrow",
        "transformers",
        "matplotlib",
    }
    assert heavy.isdisjoint(done.stderr.split())
    assert "gptlab" in done.stderr.split()


def test_no_command_needs_torch_for_its_help():
    script = """
import sys
from gptlab.cli import COMMANDS, main
for name in COMMANDS:
    try:
        main([*name.split(), "--help"])
    except SystemExit:
        pass
    sys.exit(f"{name} imports torch") if "torch" in sys.modules else None
"""
    environment = subprocess_environment()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_overview(gptlab):
    for words in ([], ["--help"], ["-h"], ["help"]):
        answer = gptlab(*words)
        assert (answer.code, answer.err) == (0, "")
        for name in cli.COMMANDS:
            assert f"\n  {name} " in answer.out
    assert gptlab("--version").out == f"gptlab {__version__}\n"


def test_unknown_commands(gptlab):
    for words, meant in (
        (["trian"], '; did you mean "train"?'),
        (["data", "prepair"], '; did you mean "data prepare"?'),
        (["--out", "x"], ""),
    ):
        answer = gptlab(*words)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.endswith(f"gptlab: there is no command {' '.join(words)!r}{meant}\n")


def test_the_file_for_programs(gptlab, refused, tmp_path):
    for words in (["--json", tmp_path / "new" / "a.json"], [f"--json={tmp_path / 'b.json'}"]):
        assert gptlab("data", "list", *words).code == 0
    first, second = ((tmp_path / name).read_text() for name in ("new/a.json", "b.json"))
    assert json.loads(first) == json.loads(second)
    assert refused("data", "list", "--json") == "--json: names no file; write --json FILE"
    assert refused("data", "list", "--json", tmp_path).endswith("is a folder; name a file in it")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(gptlab, name):
    answer = gptlab(*name.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"usage: gptlab {name} ")
    first, *_ = cli.command(name).__doc__.splitlines()
    assert first == cli.COMMANDS[name]
    assert first in " ".join(answer.out.split())
    assert "Args:" not in answer.out
    assert "flags" not in answer.out


def literals(name):
    """Return the choices of a command's flags, by flag."""
    found = {}
    for flag, hint in get_type_hints(cli.command(name)).items():
        for kind in (hint, *get_args(hint)):
            if get_origin(kind) is Literal:
                found[flag] = get_args(kind)
    return found


def test_choices_are_those_of_the_tables():
    """A command spells its choices out, as their tables import torch, for which its help would have to wait."""
    from gptlab.actions import contamination
    from gptlab.actions import eval as evaluate
    from gptlab.data.prepare.engines import ENGINES
    from gptlab.data.prepare.request import Deduplicate
    from gptlab.eval.hellaswag import PROTOCOLS
    from gptlab.formats.gguf.write import GGUFDType
    from gptlab.formats.nanogpt import RopePairs
    from gptlab.machine.device import DeviceName, DTypeName

    of_tables = {
        "eval": {
            "protocol": (*PROTOCOLS, evaluate.LM_EVAL),
            "dtype": ("float32", "bfloat16", "float16"),
            "device": get_args(DeviceName),
        },
        "sample": {"dtype": ("auto", "float32", "bfloat16")},
        "export": {"to": ("huggingface", "gguf"), "dtype": get_args(GGUFDType)},
        "import": {"rope_pairs": get_args(RopePairs)},
        "data prepare": {"deduplicate": get_args(Deduplicate), "engine": tuple(ENGINES)},
        "data contamination": {"task": tuple(contamination.ITEM_TEXTS)},
    }
    assert of_tables.keys() <= cli.COMMANDS.keys()
    for name in cli.COMMANDS:
        written = f"{cli.command(name).__module__} must spell the choices of its table"
        assert literals(name) == of_tables.get(name, {}), written
    for name in ("eval", "sample"):
        assert set(of_tables[name]["dtype"]) <= set(get_args(DTypeName))


def test_help_of_train_has_every_key(gptlab):
    from gptlab import recipe, recipe_keys

    out = gptlab("train", "--help").out
    for section, kind in recipe.SECTIONS.items():
        for name, *_ in recipe_keys.entries(kind):
            if (section, name) == ("data", "train"):  # tables take a file
                continue
            assert f"--{section}.{name.replace('_', '-')} " in out


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "--out"],
        ["data", "verify"],
        ["data", "list", "more"],
        ["config", "--model.n-layr", "3"],
        ["config", "--model.n-layer", "many"],
        ["config", "--model.size", "huge"],
        ["config", "--model.bias"],
        ["eval", "model", "--task", "hellaswag", "--protocol", "mine"],
        ["sample", "model", "--temperature", "hot"],
    ],
    ids=" ".join,
)
def test_usage(gptlab, words):
    answer = gptlab(*words)
    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err
    assert "--help" in answer.err


def test_what_other_programs_call_a_key_is_told(gptlab, tmp_path):
    answer = gptlab("config", "--optim.learning-rate", "3", "--block_size=4")
    assert answer.code == 2
    assert answer.err.endswith(
        "gptlab config: --optim.learning-rate is --optim.lr here\n"
        "gptlab config: --block_size is --model.context here\n"
    )
    assert "here" not in gptlab("config", "--optim.lr", "many").err


def test_gptlab_s_own_recipes_go_by_name(gptlab, monkeypatch, tmp_path):
    own = gptlab("config", Path(__file__).parents[1] / "recipes/tiny_cpu.toml").out
    monkeypatch.chdir(tmp_path)
    assert gptlab("config", "tiny_cpu").out == own
    assert 'position = "rope"' in gptlab("config", "tiny_cpu", "with/rope").out
    (tmp_path / "mine.toml").write_text('base = "tiny_cpu"\n')
    assert gptlab("config", "mine.toml").out == own
    (tmp_path / "tiny_cpu").write_text("[model]\nn_layer = 7\n")
    assert "n_layer = 7\n" in gptlab("config", "tiny_cpu").out


def test_a_mistyped_flag_is_told_its_neighbour(gptlab):
    assert "--model.n-layer" in gptlab("config", "--model.n-layr", "3").err


def test_config_prints_a_recipe(gptlab, tiny_recipe, tmp_path):
    first = gptlab("config", tiny_recipe, "--model.bias", "False", "--model.n-kv-head", "2")
    (tmp_path / "resolved.toml").write_text(first.out)
    second = gptlab("config", tmp_path / "resolved.toml")
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out
    assert "bias = false\n" in first.out
    assert "n_kv_head = 2\n" in first.out
    assert "n_kv_head" not in gptlab("config", tmp_path / "resolved.toml", "--model.n-kv-head", "None").out


def test_prepare_verify_and_list(gptlab, tmp_path):
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"text {n} " * 9}) + "\n" for n in range(30))
    )
    words = [
        "data",
        "prepare",
        tmp_path / "text.jsonl",
        tmp_path / "out",
        "--tokenizer",
        "bytes",
        "--workers",
        1,
    ]
    first = gptlab(*words, "--json", tmp_path / "first.json")
    assert first.code == 0
    assert "prepared in 0 s" in first.out
    assert "already prepared" in gptlab(*words).out
    facts = json.loads((tmp_path / "first.json").read_text())
    checked = gptlab("data", "verify", tmp_path / "out", "--json", tmp_path / "second.json")
    assert checked.code == 0
    assert f"{facts['train']['tokens']:,} tokens to train on" in checked.out
    assert json.loads((tmp_path / "second.json").read_text())["val"] == facts["val"]
    assert "python-docs" in gptlab("data", "list").out


def test_tokenizer(gptlab, refused, tmp_path):
    (tmp_path / "text.txt").write_text("she sells sea shells by the sea shore " * 9)
    words = ["data", "tokenizer", tmp_path / "text.txt", tmp_path / "bpe.json", "--vocab-size"]
    assert gptlab(*words, "270").out.endswith("bpe.json: 270 entries\n")
    assert refused(*words, "270").endswith("bpe.json: exists; choose another file, or delete it first")
    words[3] = tmp_path / "nowhere" / "bpe.json"
    assert refused(*words, "270").endswith("make it first")
    words[3] = tmp_path / "all.json"
    assert "(the text gives no more)" in gptlab(*words, "9999", "--json", tmp_path / "facts.json").out
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert 270 < facts["vocab_size"] < 400
    out = ["data", "prepare", tmp_path / "text.txt", tmp_path / "out", "--val-tokens", "9", "--workers", "1"]
    prepared = gptlab(*out, "--tokenizer", tmp_path / "all.json", "--json", tmp_path / "prepared.json")
    assert prepared.code == 0
    assert json.loads((tmp_path / "prepared.json").read_text())["vocab_size"] == facts["vocab_size"]


def test_train_twice(gptlab, run, tmp_path):
    before = (run / "checkpoints" / "step_00000002" / "model.safetensors").read_bytes()
    again = gptlab("train", "--out", run, "--json", tmp_path / "again.json")
    assert again.code == 0
    assert "finished, 2 steps" in again.out
    facts = json.loads((tmp_path / "again.json").read_text())
    assert (facts["status"], facts["step"], facts["run"]) == ("finished", 2, str(run))
    assert (run / "checkpoints" / "step_00000002" / "model.safetensors").read_bytes() == before


def test_no_time_at_all(gptlab, tiny_recipe, tmp_path):
    words = ["train", tiny_recipe, "--train.steps", "2", "--eval.tasks", "--out", tmp_path / "run"]
    answer = gptlab(*words, "--max-hours", "0", "--json", tmp_path / "facts.json")
    assert answer.code == 75
    assert "Run the same command again to continue" in answer.out
    assert json.loads((tmp_path / "facts.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run" / "latest").is_file()
    assert gptlab(*words).code == 0


def test_the_exit_code_reaches_the_shell(tmp_path):
    script = "import sys; from gptlab.cli import main; sys.exit(main())"
    for words, code in ((["--version"], 0), (["data", "verify", str(tmp_path)], 1), (["nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            capture_output=True,
            text=True,
            env=subprocess_environment(),
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("task", ["loss", "continuation"])
def test_eval(gptlab, run, tiny_data, tmp_path, task):
    words = [
        "eval",
        run,
        "--task",
        task,
        "--data",
        tiny_data,
        "--limit",
        "40",
        "--json",
        tmp_path / "facts.json",
    ]
    answer = gptlab(*words)
    assert answer.code == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["task"], facts["dtype"], facts["model"]) == (task, "float32", str(run))
    if task == "loss":
        assert f"{facts['loss']:.4f} nats per token" in answer.out
        assert 4 < facts["loss"] < 6.5  # two steps from ln(257)
    else:
        assert facts["n"] == 40
        assert 0 <= facts["acc"] <= 1


def test_samples_of_an_evaluation(gptlab, run, tiny_data, tmp_path):
    words = ["eval", run, "--task", "continuation", "--data", tiny_data, "--limit", "3"]
    assert gptlab(*words, "--samples", tmp_path / "items.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [row["i"] for row in rows] == [0, 1, 2]
    assert all(set(row) == {"i", "label", "log_likelihoods", "pred", "pred_norm"} for row in rows)


def test_sample(gptlab, run, tmp_path):
    words = [
        "sample",
        run,
        "--prompt",
        "The old",
        "--max-tokens",
        "5",
        "--seed",
        "1",
        "--json",
        tmp_path / "facts.json",
    ]
    one = gptlab(*words)
    assert one.code == 0
    (text,) = json.loads((tmp_path / "facts.json").read_text())["texts"]
    assert one.out == f"The old{text}\n"
    assert gptlab(*words).out == one.out
    assert gptlab(*words, "--samples", "2").out.count("The old") == 2
    for dtype in ("float32", "bfloat16"):
        assert gptlab(*words, "--dtype", dtype).out.startswith("The old")
        assert json.loads((tmp_path / "facts.json").read_text())["dtype"] == dtype


def test_check(gptlab, tmp_path):
    (tmp_path / "nope.toml").write_text('[model]\nsize = "tiny"\nposition = "none"\nvocab_size = 300\n')
    answer = gptlab(
        "check", tmp_path / "nope.toml", "--model.n-kv-head", "2", "--json", tmp_path / "facts.json"
    )
    assert answer.code == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["causality"]["status"] == "passed"
    assert facts["order"]["status"] == "exempt"
    assert "overfit" not in facts
    assert all(name in answer.out for name in facts)


def test_check_names_the_file_that_an_export_lacks(gptlab, tmp_path, monkeypatch, request):
    (tmp_path / own.MODELING.name).write_text(own.MODELING.read_text().replace('"none": Position, ', ""))
    monkeypatch.setattr(own, "MODELING", tmp_path / own.MODELING.name)
    own.parts.cache_clear()
    request.addfinalizer(own.parts.cache_clear)
    words = ["check", "--model.size", "tiny", "--model.vocab-size", 300, "--model.position", "none"]
    answer = gptlab(*words, "--model.embed-norm", "True", "--json", tmp_path / "facts.json")
    assert answer.code == 0
    assert answer.out.count("modeling_gptlab.py") == 1
    said = json.loads((tmp_path / "facts.json").read_text())["export"]
    assert said["status"] == "exempt"
    assert "huggingface/modeling_gptlab.py lacks position = none; add the class there" in said["detail"]
    assert "modeling_gptlab.py" not in gptlab(*words).out  # a GPT-2 with positions of zeros


def test_a_flag_of_a_command_needs_no_value(gptlab, monkeypatch):
    seen = []
    monkeypatch.setattr("gptlab.model.check.run_checks", lambda config: seen.append(config.bias) or [])
    monkeypatch.setattr("gptlab.actions.overfit.first_batch", lambda config: seen.append("overfit"))
    for words in (["--overfit"], ["--no-overfit"], [], ["--overfit", "--model.bias", "False"]):
        assert gptlab("check", *words).code == 0
    assert seen == ["overfit", True, True, True, "overfit", False]


# What bad input gets: one clear line, exit code 1, nothing half-written.


def test_an_unknown_key(refused, tmp_path):
    (tmp_path / "r.toml").write_text("[model]\nn_layers = 3\n")
    expected = "model.n_layers: there is no such key; did you mean model.n_layer?"
    for command in ("config", "check"):
        assert refused(command, tmp_path / "r.toml") == expected
    assert refused("train", tmp_path / "r.toml", "--out", tmp_path / "run") == expected
    assert not (tmp_path / "run").exists()


def test_no_recipe(refused, tmp_path):
    assert refused("train", "--out", tmp_path / "run").endswith(
        "holds no run to continue; name a recipe to start one"
    )
    assert "none.toml: no such file; gptlab's own are fast_124m, " in refused(
        "config", tmp_path / "none.toml"
    )
    assert refused("config", "tiny_cp") == 'recipe tiny_cp: no such file; did you mean "tiny_cpu"?'
    assert not (tmp_path / "run").exists()


def outside_the_vocabulary(shard):
    tokens = np.frombuffer(shard[HEADER_BYTES:], TOKEN).copy()
    tokens[:] = 300
    return shard[:HEADER_BYTES] + tokens.tobytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: b"", "the file is empty"),
        (lambda shard: shard[:100], "has 100 bytes, less than a header of 1,024"),
        (lambda shard: shard[:-200], "file holds"),
        (lambda shard: shard + b"\x00", "and a half"),
        (lambda shard: b"PK" * 5000, "begins with magic 1263553360"),
    ],
    ids=["empty", "stump", "truncated", "odd", "foreign"],
)
def test_damaged_shards(refused, damaged, tiny_recipe, tmp_path, damage, message):
    folder = damaged(damage)
    words = ["train", tiny_recipe, "--data.path", folder, "--out", tmp_path / "run"]
    for line in (refused(*words), refused("data", "verify", folder)):
        assert line.startswith(TRAIN.format(folder))
        assert message in line
    assert not (tmp_path / "run").exists()


def test_a_missing_shard(refused, damaged, tiny_recipe, tmp_path):
    folder = damaged(lambda shard: shard)
    (folder / "train_000000.bin").unlink()
    expected = TRAIN.format(folder) + f"is missing; {REBUILD}"
    assert refused("train", tiny_recipe, "--data.path", folder, "--out", tmp_path / "run") == expected
    assert refused("data", "verify", folder) == expected
    assert not (tmp_path / "run").exists()


def test_a_token_outside_the_vocabulary(refused, damaged, tiny_recipe, tmp_path):
    folder = damaged(outside_the_vocabulary)
    line = refused("train", tiny_recipe, "--data.path", folder, "--out", tmp_path / "run")
    assert line.startswith(TRAIN.format(folder) + "token 300 at position ")
    assert "is outside the vocabulary of 257" in line
    assert not (tmp_path / "run" / "latest").exists()


def test_no_prepared_folder(refused, tiny_recipe, tmp_path):
    words = ["train", tiny_recipe, "--data.path", tmp_path / "nothing", "--out", tmp_path / "run"]
    assert "nothing: there is no such folder; make it with" in refused(*words)
    (tmp_path / "nothing").mkdir()
    assert refused(*words).endswith(
        'has no manifest.json, so it is not a finished data folder; run "gptlab data prepare"'
    )
    assert not (tmp_path / "run").exists()


def test_a_context_longer_than_a_shard(refused, tiny_recipe, tmp_path):
    words = [
        "train",
        tiny_recipe,
        "--model.context",
        "100000",
        "--train.batch-tokens",
        "100000",
        "--out",
        tmp_path / "run",
    ]
    assert "context 100,000 needs a train shard of 100,001 tokens" in refused(*words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.n-layer", "3"], "model.n_layer = 3: the run in {} was started with 2"),
        (["--model.norm", "rmsnorm"], "model.norm = rmsnorm: the run in {} was started with layernorm"),
        (["--train.seed", "2"], "train.seed = 2: the run in {} was started with 1337"),
    ],
    ids=["layers", "norm", "seed"],
)
def test_another_architecture(refused, run, tiny_recipe, words, message):
    before = (run / "config.toml").read_bytes(), (run / "metrics.jsonl").read_bytes()
    line = refused("train", tiny_recipe, "--train.steps", "2", "--eval.tasks", *words, "--out", run)
    assert line.startswith(message.format(run))
    assert "choose another --out for a new run" in line
    assert ((run / "config.toml").read_bytes(), (run / "metrics.jsonl").read_bytes()) == before


def test_a_checkpoint_of_another_architecture(refused, run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    config = copied / "config.toml"
    config.write_text(config.read_text().replace("n_layer = 2\n", "n_layer = 3\n"))
    line = refused("train", "--out", copied)
    assert line.startswith(
        f"{copied / 'checkpoints' / 'step_00000002'}: its model.n_layer is 2, the recipe's is 3; "
    )
    config.unlink()
    assert refused("train", run / "config.toml", "--out", copied) == (
        f"--out {copied}: holds files but no run; choose a new folder"
    )


def test_other_data(refused, run, damaged, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    other = damaged(lambda shard: shard)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    before = (copied / "config.toml").read_bytes()
    assert "its data is " in refused("train", "--data.path", other, "--out", copied)
    assert (copied / "config.toml").read_bytes() == before


def test_a_damaged_checkpoint(refused, run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (weights,) = copied.glob("checkpoints/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    assert "its sha256 differs from the one in state.json" in refused("sample", copied)
    assert refused("train", "--out", copied).endswith("are damaged; move the folder away to start over")


@pytest.mark.parametrize("field", ["activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"])
def test_hellaswag_without_a_field(refused, run, tmp_path, field):
    item = {
        "activity_label": "a",
        "ctx_a": "a",
        "ctx_b": "b",
        "ctx": "a b",
        "endings": list("cdef"),
        "label": 1,
    }
    del item[field]
    file = tmp_path / "hellaswag.jsonl"
    file.write_text(json.dumps(item) + "\n")
    line = refused("eval", run, "--task", "hellaswag", "--data", file, "--samples", tmp_path / "items.jsonl")
    assert line.startswith(f"{file} line 1: field '{field}' is missing; ")
    assert not (tmp_path / "items.jsonl").exists()


def test_hellaswag_that_is_not_there_is_told_before_training(refused, tiny_recipe, tmp_path):
    words = [
        "train",
        tiny_recipe,
        "--eval.tasks",
        "hellaswag",
        "--eval.hellaswag-file",
        tmp_path / "none.jsonl",
    ]
    assert "none.jsonl: cannot be read as a HellaSwag file" in refused(*words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Below a file nobody may write, not even root, whom permissions do not stop.
BELOW_A_FILE = "/dev/null/x"


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs /dev/null")
def test_nowhere_to_write(refused, gptlab, run, tiny_recipe, tiny_data, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("words " * 99)
    for words in (
        ["train", tiny_recipe, "--train.steps", "2", "--out", BELOW_A_FILE],
        ["data", "prepare", text, BELOW_A_FILE, "--tokenizer", "bytes"],
        ["data", "tokenizer", text, BELOW_A_FILE, "--vocab-size", "257"],
        ["report", run, "--out", BELOW_A_FILE],
        [
            "eval",
            run,
            "--task",
            "continuation",
            "--data",
            tiny_data,
            "--limit",
            "1",
            "--samples",
            BELOW_A_FILE,
        ],
        ["data", "list", "--json", BELOW_A_FILE],
    ):
        assert "/dev/null" in refused(*words)


def test_models_that_are_not_there(refused, tiny_data, tmp_path):
    nothing, empty = tmp_path / "nothing", tmp_path / "empty"
    empty.mkdir()
    for words in (["sample"], ["export"], ["eval"]):
        more = {"export": [tmp_path / "out"], "eval": ["--task", "loss", "--data", tiny_data]}.get(
            words[0], []
        )
        assert (
            refused(*words, nothing, *more)
            == f"{nothing}: no such folder; give a run, a checkpoint or a Hugging Face folder"
        )
        assert (
            refused(*words, empty, *more)
            == f"{empty}: holds neither checkpoints, nor state.json, nor a Hugging Face config.json"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sample", "RUN", "--temperature", "-1"],
            "temperature = -1.0: must be 0 (the likeliest token) or above",
        ),
        (["sample", "RUN", "--max-tokens", "0"], "max_tokens = 0: must be at least 1"),
        (
            ["eval", "RUN", "--task", "loss"],
            "task loss: needs a prepared folder; name it with --data DIR",
        ),
        (
            ["eval", "RUN", "--task", "loss", "--data", "DATA", "--limit", "0"],
            "--limit 0: must be at least 1",
        ),
        (
            ["eval", "RUN", "--task", "loss", "--data", "DATA", "--samples", "x"],
            "--samples: the task loss has no items",
        ),
        (["eval", "RUN", "--task", "continuation"], "task continuation: is made from a prepared folder"),
        (["report", "--out", "x"], "there is no run to report"),
        (["report", "nothing", "--out", "x"], "nothing: holds no metrics.jsonl"),
        (
            ["data", "prepare", "nothing", "x", "--tokenizer", "bytes"],
            'source "nothing": no such file or folder',
        ),
        (["data", "list", "--json"], "--json: names no file; write --json FILE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_refusals(refused, run, tiny_data, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*({"RUN": run, "DATA": tiny_data}.get(word, word) for word in words))
    assert list(tmp_path.iterdir()) == []


def test_a_refused_sample_shows_no_prompt(gptlab, run):
    assert gptlab("sample", run, "--prompt", "The old", "--top-p", "2").out == ""


@pytest.mark.parametrize("word", ["caf\udce9", "\ud800"])
def test_an_argument_that_is_no_text_is_refused(gptlab, run, word):
    answer = gptlab("sample", run, "--prompt", word, "--max-tokens", 2)
    assert (answer.code, answer.out) == (1, "")
    assert "which is not UTF-8; write it in UTF-8 under" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_terminal_of_ascii(run):
    """What it was given is read as it was meant, or refused; what it cannot show is spelled out."""
    environment = subprocess_environment() | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [
        sys.executable,
        "-m",
        "gptlab",
        "sample",
        str(run),
        "--max-tokens",
        "40",
        "--seed",
        "1",
        "--prompt",
    ]
    refused = subprocess.run([*command, "caf\u00e9".encode()], env=environment, capture_output=True)
    assert refused.returncode == 1
    assert b"an argument has the byte 0xC3 after 'caf', which is not ASCII" in refused.stderr
    told = subprocess.run([*command, "cafe"], env=environment, capture_output=True, check=True)
    assert told.stdout.isascii()
    assert b"\\u" in told.stdout
    assert told.stderr == b""


BEYOND = 2**63


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("sample RUN --seed NUMBER", "--seed = NUMBER"),
        ("sample RUN --top-k NUMBER", "--top-k = NUMBER"),
        ("sample RUN --samples NUMBER", "--samples = NUMBER"),
        ("eval RUN --task continuation --data DATA --limit NUMBER", "--limit = NUMBER"),
        ("train RECIPE --train.seed NUMBER --out NEW", "train.seed = NUMBER"),
        ("train RECIPE --train.seed -NUMBER --out NEW", "train.seed = -NUMBER"),
        ("data tokenizer TEXT NEW --vocab-size NUMBER", "--vocab-size = NUMBER"),
    ],
)
def test_whole_numbers_have_64_bits(refused, run, tiny_recipe, tiny_data, tmp_path, words, named):
    places = {"RUN": run, "RECIPE": tiny_recipe, "DATA": tiny_data, "NEW": tmp_path / "new", "TEXT": __file__}
    words = words.replace("-NUMBER", str(-BEYOND - 1)).replace("NUMBER", str(BEYOND))
    named = named.replace("-NUMBER", str(-BEYOND - 1)).replace("NUMBER", str(BEYOND))
    assert refused(*(places.get(word, word) for word in words.split())).startswith(
        f"{named}: does not fit 64 bits"
    )
    assert not (tmp_path / "new").exists()


def test_the_largest_seed_is_one(gptlab, run):
    for seed in (BEYOND - 1, -BEYOND):
        assert gptlab("sample", run, "--seed", seed, "--max-tokens", 2, "--samples", 2).code == 0


def test_more_samples_than_memory_holds_are_refused(refused, run):
    assert "must be at most 65,536" in refused("sample", run, "--samples", 10**12)
