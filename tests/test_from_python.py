"""gptlab as a package: what README and docs promise to whoever imports it."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import gptlab
from gptlab import cli
from gptlab.errors import GptlabError
from gptlab.formats.huggingface.wrap import HuggingFaceModel
from gptlab.runs import checkpoint
from gptlab.sample import GeneratingGPT

pytestmark = pytest.mark.usefixtures("torch_settings")

COMMANDS = Path(__file__).parents[1] / "docs" / "commands.md"


def test_the_example_of_the_docs_runs(tiny_recipe, tmp_path, monkeypatch, capsys):
    section = COMMANDS.read_text(encoding="utf-8").partition("## From Python")[2]
    code = "".join(line[4:] for line in section.splitlines(keepends=True) if line.startswith("    "))
    short = code.replace('"steps": 200', '"steps": 8')
    assert short != code
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny_cpu.toml").write_text(f'base = "{tiny_recipe}"\n')
    monkeypatch.chdir(tmp_path)
    exec(short, names := {})
    assert (names["run"]["status"], names["run"]["run"], names["run"]["step"]) == ("finished", "runs/tiny", 8)
    assert names["ids"].shape == (1, len("Return the") + 40)
    assert "\nReturn the" in capsys.readouterr().out


def test_it_trains_what_the_command_trains_and_goes_on(finished_run, tiny_recipe, tmp_path):
    run = gptlab.pretrain([str(tiny_recipe)], out=tmp_path / "run")
    saved = [checkpoint.pointed(place / "latest") for place in (Path(run["run"]), finished_run)]
    assert saved[0].name == "step_00000012"
    assert len({(folder / checkpoint.MODEL).read_bytes() for folder in saved}) == 1
    longer = gptlab.pretrain(out=str(tmp_path / "run"), keys={"train": {"steps": 14}})
    assert (longer["status"], longer["step"]) == ("finished", 14)


@pytest.mark.parametrize(
    ("recipe", "keys", "words"),
    [
        ("RECIPE", {"train": {"stepz": 3}}, None),
        ("RECIPE", {"train": {"steps": -1}}, ["--train.steps", "-1"]),
        ("nowhere.toml", {}, []),
        ((), {}, []),
    ],
)
def test_bad_input_gets_the_line_of_the_command(tiny_recipe, tmp_path, capsys, recipe, keys, words):
    recipe = str(tiny_recipe) if recipe == "RECIPE" else recipe
    with pytest.raises(GptlabError) as refused:
        gptlab.pretrain(recipe, out=tmp_path / "run", keys=keys)
    if words is None:  # the command's parser knows its flags
        assert str(refused.value) == "train.stepz: there is no such key; did you mean train.steps?"
        return
    files = [recipe] if recipe else []
    assert cli.main(["train", *files, "--out", str(tmp_path / "run"), *words]) == 1
    assert capsys.readouterr().err == f"gptlab train: {refused.value}\n"
    assert not (tmp_path / "run").exists()


def test_a_key_without_its_section_is_refused(tiny_recipe, tmp_path):
    with pytest.raises(GptlabError, match=r"keys: train.steps = 3: must be a section with its keys, as in"):
        gptlab.pretrain(tiny_recipe, out=tmp_path / "run", keys={"train.steps": 3})


@pytest.mark.parametrize("function", [gptlab.pretrain, GeneratingGPT.generate, HuggingFaceModel.generate])
def test_help_tells_every_option(function):
    options = inspect.signature(function).parameters
    said = inspect.getdoc(function)
    assert not [o for o in options.values() if o.kind in (o.VAR_KEYWORD, o.VAR_POSITIONAL)]
    assert [name for name in options if name != "self" and f"\n    {name}: " not in said] == []


def test_importing_it_imports_nothing_heavy():
    script = "import sys, gptlab; print(*{'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
