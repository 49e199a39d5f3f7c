import importlib.util
import re
from pathlib import Path

import pytest

from gptlab import cli, recipe, recipe_keys

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = ["config.md", "export.md", "files.md", "../README.md", "../src/gptlab/commands/flags.txt"]


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_fresh(name, generate):
    assert list(generate.PAGES) == PAGES
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == generate.PAGES[name](), f"docs/{name} is not what the code says: run `make docs`"


def test_every_class_is_on_the_page_of_exports(generate):
    page = generate.export_page()
    assert [name for name in generate.HF_CLASSES if page.count(f"`{name}`") == 0] == []
    assert "| rmsnorm_no_gain, rmsnorm | pre | rope | swiglu | `Llama` | `Llama` | - | `Qwen3` |" in page


def test_the_page_does_not_depend_on_what_ran_before(generate, capsys):
    before = generate.page()
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert generate.page() == before


def test_every_key_and_command_is_there(generate):
    page = generate.page()
    for name, kind in recipe.SECTIONS.items():
        kinds = recipe.KINDS.get(name, {"": kind})
        for which, kind in kinds.items():
            heading = f'[{name}] name = "{which}"' if which else f"[{name}]"
            part = page.split(f"\n## {heading}\n")[1].partition("\n## ")[0]
            for key, _, _, text in recipe_keys.entries(kind):
                assert f"| `{key}` |" in part, f"{name}.{key}"
                assert text.replace("|", "\\|") in part, f"{name}.{key}"
    for name in cli.COMMANDS:
        assert f"\n## gptlab {name}\n" in page


def test_every_argument_has_a_sentence(generate):
    for name, function in ((name, cli.command(name)) for name in cli.COMMANDS):
        texts = generate.arguments(function)
        assert list(texts) == [key for key in function.__annotations__ if key != "return"], name
        assert all(text.endswith(".") for text in texts.values()), name


def test_tables_have_as_many_cells_as_columns(generate):
    width = 0
    for line in (generate.page() + generate.export_page()).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = line.replace("\\|", "").count("|")
        assert width in (0, cells), line
        width = cells


def test_contributing_names_what_exists():
    text = (DOCS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|tests|recipes|docs)/[\w/.]+)`", text))
    assert len(named) > 8
    assert [name for name in named if not (DOCS.parent / name).exists()] == []
    source = "".join((DOCS.parent / name).read_text() for name in named if name.endswith(".py"))
    tables = set(re.findall(r"`([A-Z]{2,})`", text))
    assert len(tables) > 4
    assert [table for table in tables if f"\n{table}" not in source] == []


def test_the_tests_that_hold_promises_exist():
    text = (DOCS / "promises.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests/)?[\w/]*test_\w+)`", text))
    assert len(named) > 20
    places = (DOCS.parent / (name if "/" in name else f"tests/train/{name}") for name in named)
    assert [place for place in places if not place.with_suffix(".py").exists()] == []
