"""No key of a recipe may be there for nothing: some code reads it, besides its declaration and its checks."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import gptlab
from gptlab import recipe

SOURCE = Path(gptlab.__file__).parent
DESCRIBERS = {"recipe.py"}  # it copies, compares and prints every key, whatever it is
KINDS = {name: {kind, *recipe.KINDS.get(name, {}).values()} for name, kind in recipe.SECTIONS.items()}
KEYS = sorted({(name, item.name) for name, kinds in KINDS.items() for kind in kinds for item in fields(kind)})


def last_name(node):
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def names_for(section, tree, file):
    """What a section goes by in a file: SECTION, what that is assigned to, `config` where it is at home."""
    names = {section}
    homes = {Path(inspect.getfile(kind)) for kind in KINDS[section]}
    # A section whose folder it is goes by `config` in all of its files.
    if file in homes or (section in ("model", "train") and file.parent in {home.parent for home in homes}):
        names |= {"config", "_config", "c"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        targets, values = node.targets, [node.value]
        if isinstance(targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            targets, values = targets[0].elts, node.value.elts
        for target, value in zip(targets, values, strict=False):
            if isinstance(value, ast.Attribute) and value.attr == section and isinstance(target, ast.Name):
                names.add(target.id)
    return names


def reads(section, tree, file):
    """The attributes that a file reads of a section."""
    names = names_for(section, tree, file)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in {kind.__name__ for kind in KINDS[section]}:
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            for method in methods:
                if method.name != "__post_init__":
                    found |= {
                        part.attr
                        for part in ast.walk(method)
                        if isinstance(part, ast.Attribute) and last_name(part.value) == "self"
                    }
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Load)
            and last_name(node.value) in names
        ):
            found.add(node.attr)
    return found


@pytest.fixture(scope="module")
def read():
    files = [file for file in SOURCE.rglob("*.py") if file.name not in DESCRIBERS]
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    return {
        section: set().union(*(reads(section, tree, file) for file, tree in trees.items()))
        for section in recipe.SECTIONS
    }


@pytest.mark.parametrize(("section", "key"), KEYS, ids=map(".".join, KEYS))
def test_is_read(read, section, key):
    assert key in read[section], f"nothing reads {section}.{key}: use it or delete it"


def test_what_only_checks_or_declares_does_not_count():
    text = """
class TrainConfig:
    steps: int = 1
    def __post_init__(self): self.keep
    def twice(self): return self.seed
def fit(config):
    return config.optim.dtype, config.train.compile
"""
    assert reads("train", ast.parse(text), Path("elsewhere.py")) == {"seed", "compile"}


def test_the_keys_are_few_enough_to_be_read():
    assert len(KEYS) <= 76
