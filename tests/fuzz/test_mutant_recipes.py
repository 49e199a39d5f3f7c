"""Mutants of recipes: each is refused in a line, or says exactly what its TOML says, and the defaults besides."""

import dataclasses
import random
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from forms import mutate
from mutations import Traps

from gptlab import recipe
from gptlab.errors import GptlabError
from gptlab.model.gpt import SIZES

FEW, MANY = 150, 5_000
DEFAULTS = recipe.RunConfig()


def originals() -> list[bytes]:
    """Recipes with every section, a size, a list of tables and keys that are switched off."""
    texts = [
        recipe.to_toml(DEFAULTS),
        '[[data.train]]\npath = "a"\nweight = 0.5\n\n[[data.train]]\npath = "b"\nweight = 2.0\n\n'
        '[model]\nsize = "tiny"\nn_kv_head = 2\nmlp = "swiglu"\n\n[schedule]\nname = "wsd"\nwarmup_steps = 3\n\n'
        '[train]\nsteps = 50\ngrad_clip = "none"\nmicro_batch = "auto"\n\n[eval]\ntasks = ["continuation"]\n',
    ]
    return [text.encode() for text in texts]


def same(said: Any, taken: Any) -> bool:
    """Compare a value of TOML with what became of it."""
    if said == "none":
        return taken in (None, "none")
    if dataclasses.is_dataclass(taken) and not isinstance(taken, type) and isinstance(said, dict):
        return all(same(value, getattr(taken, key)) for key, value in said.items())
    if isinstance(said, list) and isinstance(taken, tuple | list):
        return len(said) == len(taken) and all(map(same, said, taken))
    if type(said) is int and type(taken) is float:  # a whole number where any may stand
        return float(said) == taken
    return type(said) is type(taken) and said == taken


def difference(file: Path) -> str | None:
    """Load a recipe; say in what it is not what it says, "refused" where it is not taken."""
    try:
        config = recipe.load([file])
    except GptlabError as error:
        return "refused" if "\n" not in str(error) else "refused on several lines"
    raw = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    for name in recipe.SECTIONS:
        said, taken, usual = raw.get(name, {}), getattr(config, name), getattr(DEFAULTS, name)
        said = {**SIZES.get(said.get("size"), {}), **said} if name == "model" else said
        keys = {item.name for item in dataclasses.fields(taken)} | ({"size"} if name == "model" else set())
        if set(said) - keys or set(raw) - set(recipe.SECTIONS):
            return f"{name} has keys that nothing reads: {set(said) - keys or set(raw)}"
        for key in keys - {"size"}:
            value = getattr(taken, key)
            # Without steps there is a number of them; without a path, there are the parts of a mixture.
            if not same(said[key], value) if key in said else value != getattr(usual, key) and key != "steps":
                return f"{name}.{key}: {said.get(key, 'not there')!r} became {value!r}"
    return None


def go_through(count: int, folder: Path, seed: int) -> Counter[str]:
    traps = Traps(folder / "canary", folder / "secret")
    file, found = folder / "recipe.toml", Counter[str]()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        content = mutate(draw.choice(originals()), "toml", draw, traps)
        file.write_bytes(content)
        try:
            told = difference(file)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
        assert told in (None, "refused"), f"mutant {number}: {told}\n{content[:3000]!r}"
        found[told or "taken"] += 1
    return found


def test_some_recipes(tmp_path: Path) -> None:
    found = go_through(FEW, tmp_path, 0)
    assert min(found["taken"], found["refused"]) > FEW // 20


@pytest.mark.long
def test_many_recipes(tmp_path: Path) -> None:
    go_through(MANY, tmp_path, 1)
