"""STUDY.toml: the variants, the seeds, the budget, and how results are judged, all chosen beforehand."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from gptlab import recipe
from gptlab.errors import ConfigError, no_such_key
from gptlab.parsing import parse_toml, typed

Match = Literal["parameters", "none"]


@dataclass(frozen=True, kw_only=True)
class StudyBudget:
    """What each run may cost: one of the three, or else the steps of the base recipe."""

    tokens: int | None = None
    """Training tokens."""
    flops: float | None = None
    """Floating-point operations, by gptlab.model.size."""
    hours: float | None = None
    """Training time on this machine, by a step measured before the study begins."""
    tune: float = 1.0
    """Fraction of it for each run of the learning-rate search."""

    def __post_init__(self) -> None:
        given = [name for name in ("tokens", "flops", "hours") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"[budget]: names {' and '.join(given)}; give one of them")
        for name in given:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"budget.{name} = {getattr(self, name)}: must be above 0 and finite")
        if not 0 < self.tune <= 1:
            raise ValueError(f"budget.tune = {self.tune}: must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One architecture, or one setting, of a study."""

    name: str
    recipes: tuple[Path, ...] = ()
    """Recipes laid over the base."""
    values: recipe.Raw = field(default_factory=dict[str, Any])
    """Keys of a recipe, laid over these."""
    match: Match = "none"

    @property
    def slug(self) -> str:
        """The name as used in file names."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as its file describes it; the first variant is the baseline."""

    name: str
    base: tuple[Path, ...]
    seeds: tuple[int, ...]
    budget: StudyBudget
    variants: tuple[Variant, ...]
    values: recipe.Raw
    """Keys of a recipe for all variants, laid over the base."""
    tune: tuple[float | str, ...] = ()
    """Learning rates that every variant tries before the seeds, with a seed of its own: 1e-3, or 2x the recipe's."""
    paired: bool = True
    """Whether runs of one seed, which see the data in one order, are compared pair by pair."""
    variance: Literal["pooled", "unequal"] = "pooled"
    """Whether all variants are assumed to vary alike from seed to seed."""
    target: Literal["seeds", "seeds and items"] = "seeds"
    """What scores hold for: new seeds on these items, or on new items too."""

    def rates(self, recipes: float) -> list[float]:
        """Return the learning rates of the search, given the recipe's own."""
        return [recipes * float(rate[:-1]) if isinstance(rate, str) else rate for rate in self.tune]

    @property
    def baseline(self) -> Variant:
        """What the others are compared with."""
        return self.variants[0]


RATE = re.compile(r"(\d+\.?\d*)x")
OWN = ("base", "seeds", "budget", "variant", "match", "tune", "paired", "variance", "target")


def is_study(file: Path) -> bool:
    """Say whether a TOML file is a study, not a recipe."""
    try:
        return "variant" in parse_toml(file.read_bytes())
    except (OSError, ValueError):
        return False


def read_study(file: Path) -> Study:
    """Read a study; its recipe paths are relative to its folder.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, of a wrong type, or contradicts another.
    """
    try:
        return parse_study(file, file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"study {file}: cannot be read ({error.strerror}); see studies/ for examples"
        ) from None


def parse_study(file: Path, text: bytes) -> Study:
    """Read the text of a study file.

    Raises:
        ConfigError: as for `read_study`.
    """
    try:
        raw = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"study {file}: not valid TOML: {error}") from None
    try:
        return _study(file, raw)
    except ValueError as error:
        raise ConfigError(f"study {file}: {error}") from None


def _study(file: Path, raw: Mapping[str, Any]) -> Study:
    _known(raw, (*OWN, *recipe.SECTIONS), "")
    for key in ("base", "seeds", "variant"):
        if key not in raw:
            raise ValueError(
                f"{key}: is missing; a study has base, seeds, and a [[variant]] for each variant"
            )
    match = _read(Match, raw.get("match", "none"), "match")
    tables = _read(list[dict[str, Any]], raw["variant"], "variant")
    variants = tuple(
        _variant(file, table, match if number else "none") for number, table in enumerate(tables)
    )
    given = {key: raw[key] for key in ("paired", "variance", "target") if key in raw}
    kinds = {item.name: item.type for item in fields(Study)}
    study = Study(
        name=file.stem,
        base=_recipes(file, raw["base"], "base"),
        seeds=tuple(_read(list[int], raw["seeds"], "seeds")),
        budget=_read(StudyBudget, raw.get("budget", {}), "budget"),
        variants=variants,
        values={key: raw[key] for key in recipe.SECTIONS if key in raw},
        tune=tuple(_read(list[float | str], raw.get("tune", []), "tune")),
        **{key: _read(kinds[key], value, key) for key, value in given.items()},
    )
    for name, values in (("seeds", study.seeds), ("tune", study.tune)):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} = {list(values)}: names one twice")
    if not study.seeds or min(study.seeds) < 0:
        raise ValueError(f"seeds = {list(study.seeds)}: give whole numbers from 0, three or more")
    for rate in study.tune:
        if not RATE.fullmatch(rate) if isinstance(rate, str) else not 0 < rate < math.inf:
            raise ValueError(
                f'tune = {rate!r}: must be a learning rate above 0, or "2x" for twice the recipe\'s'
            )
    if not variants:
        raise ValueError("variant: is empty; write a [[variant]] for each variant, the baseline first")
    slugs = [variant.slug for variant in variants]
    for variant in variants:
        if not variant.slug:
            raise ValueError(f"variant name = {variant.name!r}: has no letter or digit; its files need one")
        if slugs.count(variant.slug) > 1:
            raise ValueError(
                f"variant name = {variant.name!r}: another variant's name gives the same file names; change one"
            )
    return study


def _variant(file: Path, table: Mapping[str, Any], match: Match) -> Variant:
    _known(table, ("name", "with", "match", *recipe.SECTIONS), "variant.")
    if not isinstance(table.get("name"), str):
        raise ValueError('[[variant]]: has no name; write name = "RoPE"')
    return Variant(
        name=table["name"],
        recipes=_recipes(file, table.get("with", []), "with"),
        values={key: table[key] for key in recipe.SECTIONS if key in table},
        match=_read(Match, table.get("match", match), "match"),
    )


def _read(kind: Any, raw: Any, key: str) -> Any:
    try:
        return typed(kind, raw)
    except ValueError as error:
        said = str(error)
        raise ValueError(
            said if said.startswith(("[", key)) else f"{key}{'' if said[0] in ' :' else '.'}{said}"
        ) from None


def _known(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise ValueError(no_such_key(where, key, known))


def _recipes(file: Path, named: Any, key: str) -> tuple[Path, ...]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} = {named!r}: must be a recipe, or a list of recipes")
    return tuple(file.parent / name for name in names)
