"""A project begun with `gptlab new`."""

import re

import pytest

from gptlab import cli, recipe


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_data):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "thesis"]) == 0
    monkeypatch.chdir(tmp_path / "thesis")
    (tmp_path / "thesis/data").mkdir()
    (tmp_path / "thesis/data/python-docs").symlink_to(tiny_data)
    return tmp_path / "thesis"


def test_its_recipe_is_laid_over_one_of_gptlab_s(project):
    own, base = recipe.load([project / "recipe.toml"]), recipe.load([recipe.RECIPES / "tiny_cpu.toml"])
    assert recipe.differences(own, base) == {}


def test_its_study_can_be_run(project, capsys):
    assert cli.main(["study", "study.toml", "--out", "comparison", "--dry-run"]) == 0
    assert "6 runs" in capsys.readouterr().out


def test_its_readme_types_commands_that_there_are(project):
    text = (project / "README.md").read_text()
    assert text.startswith("# thesis\n")
    lines = re.findall(r"^    gptlab (.+)$", text, re.MULTILINE)
    assert len(lines) == 9
    for line in lines:
        assert any(line.startswith(f"{name} ") for name in cli.COMMANDS), line
    assert lines[0] == "data prepare python-docs data/python-docs --tokenizer bytes"


def test_a_larger_recipe_reads_gpt_2_s_tokens(project):
    assert cli.main(["new", "large", "--recipe", "gpt2_124m"]) == 0
    assert "data prepare fineweb-edu data/english --max-tokens" in (project / "large/README.md").read_text()
    assert (
        recipe.load([project / "large/recipe.toml"]).model
        == recipe.load([recipe.RECIPES / "gpt2_124m.toml"]).model
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["thesis.md"], "thesis.md: exists already; choose a new folder"),
        (["other", "--recipe", "tiny"], 'recipe tiny: no such file; did you mean "tiny_cpu"?'),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.md").write_text("years of work")
    assert cli.main(["new", *words]) == 1
    assert capsys.readouterr().err == f"gptlab new: {said}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.md"]
