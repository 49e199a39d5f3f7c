"""Recipes: TOML files and flags to one checked RunConfig, and back.

Files are merged left to right as raw mappings, flags are the last of them, and the result is checked once.
"""

import json
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import date, time
from pathlib import Path
from typing import (
    Any,
    Literal,
    get_args,
    get_type_hints,
)

from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.data.mixture import DataConfig
from gptlab.errors import ConfigError, did_you_mean, no_such_key
from gptlab.eval.eval_config import EvalConfig
from gptlab.model.gpt import SIZES, ModelConfig
from gptlab.parsing import check_numbers, parse_toml
from gptlab.recipe_keys import ELSEWHERE, table_of, type_name
from gptlab.runs.mirrors import MirrorConfig
from gptlab.sample import SampleConfig
from gptlab.train.adamw import AdamWConfig
from gptlab.train.config import TrainConfig
from gptlab.train.guard import GuardConfig
from gptlab.train.optim import OPTIMIZERS, OptimConfig
from gptlab.train.schedule import ScheduleConfig

Raw = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run is made from; each part reads its own section only."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the network."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is read."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long, in what portions and in what number format."""
    optim: OptimConfig = field(default_factory=AdamWConfig)
    """The optimizer."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the steps."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What is done when the loss runs away."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """What is measured on the way."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """What is written on the way, at the evaluations."""
    mirror: MirrorConfig = field(default_factory=MirrorConfig)
    """Where else the metrics are shown."""

    @property
    def order_seed(self) -> int:
        """What decides the order of the data."""
        return self.data.order_seed(self.train.seed)

    def __post_init__(self) -> None:
        if self.train.batch_tokens % self.model.context:
            raise ValueError(
                f"train.batch_tokens = {self.train.batch_tokens} is no multiple of model.context = "
                f"{self.model.context}; {max(1, round(self.train.batch_tokens / self.model.context))} sequences "
                f"would be {max(1, round(self.train.batch_tokens / self.model.context)) * self.model.context}"
            )
        if self.train.steps is not None and self.schedule.warmup_steps > self.train.steps:
            raise ValueError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} is longer than train.steps = "
                f"{self.train.steps}; the peak would never be reached"
            )


SECTIONS: dict[str, type[Any]] = {
    f.name: f.default_factory for f in fields(RunConfig) if f.default_factory is not MISSING
}  # type: ignore[misc]


KINDS: dict[str, dict[str, type[Any]]] = {"optim": {name: kind.config for name, kind in OPTIMIZERS.items()}}
"""Sections of which there are several kinds, told apart by their `name`."""

FORMS = {"data": ("path", "train"), "model": ("n_kv_head", "kv_group")}
"""Keys of a section that are two forms of one thing; the later recipe's form counts."""

SHORTHANDS: dict[str, tuple[Any, str]] = {
    "size": (Literal[tuple(SIZES)], "Layers, heads, width and context by name; see the table of sizes."),
    "kv_group": (int, "Query heads that share a key/value head; written out as n_kv_head."),
}
"""Keys of [model] that stand for others, which the resolved recipe holds: (type, what they say)."""


_HOMES = (
    Path(__file__).parent / "recipes",
    Path(__file__).parents[2] / "recipes",
)  # installed, in a checkout
RECIPES = next(filter(Path.is_dir, _HOMES), _HOMES[0])
"""gptlab's own recipes, which are known by name."""


def load(files: Sequence[Path], flags: Mapping[str, Any] | None = None) -> RunConfig:
    """Merge recipes and flags, left to right, and check the result.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a wrong type or a contradiction.
    """
    return resolve([*map(read, files), dict(flags or {})])


def resolve(layers: Sequence[Raw]) -> RunConfig:
    """Merge raw recipes, left to right, and check the result.

    The vocabulary of the prepared data comes before the first of them, so that a recipe need not name it.

    Raises:
        ConfigError: an unknown key, a wrong type or a contradiction.
    """
    merged: Raw = {}
    for raw in layers:
        merged = merge(merged, _sized(raw))
    merged = _grouped(merged)
    config = check(merged)
    path = Path(config.data.parts[0].path)
    if "vocab_size" not in merged.get("model", {}) and (path / MANIFEST).is_file():
        vocab_size = Manifest.load(path).tokenizer.vocab_size
        config = check(merge({"model": {"vocab_size": vocab_size}}, merged))
    return config


def read(file: Path, above: Sequence[Path] = ()) -> Raw:
    """Read one recipe, laid over the one that it names as its `base`, if any.

    Args:
        file: the recipe, or the name of one of gptlab's; a base is found from its folder, or by name.
        above: the recipes that named it as their base.
    """
    file = file if file.exists() else _own(file)
    try:
        raw = parse_toml(file.read_bytes())
    except FileNotFoundError:
        names = [str(path.relative_to(RECIPES).with_suffix("")) for path in sorted(RECIPES.rglob("*.toml"))]
        meant = did_you_mean(file.stem, names) or f"; gptlab's own are {', '.join(names)}"
        named = f"; {above[-1]} names it as its base" if above else meant
        raise ConfigError(f"recipe {file}: no such file{named}") from None
    except ValueError as error:
        raise ConfigError(f"recipe {file}: not valid TOML: {error}") from None
    base = raw.pop("base", None)
    for key, value in raw.items():
        if not isinstance(value, dict):
            sections = ", ".join(f"[{section}]" for section in SECTIONS)
            raise ConfigError(
                f"recipe {file}: {key} stands outside a section; put it under one of {sections}"
            )
    if base is None:
        return _sized(raw)
    if not isinstance(base, str):
        raise ConfigError(f'recipe {file}: base = {base!r}: must name a recipe, such as "gpt2_124m.toml"')
    below, chain = file.parent / base, (*above, file)
    below = below if below.exists() else _own(Path(base), below)
    if below.resolve() in map(Path.resolve, chain):
        raise ConfigError(f"recipe {file}: its base {base} leads back to itself; name another recipe")
    return merge(read(below, chain), _sized(raw))


def _own(name: Path, otherwise: Path | None = None) -> Path:
    """Return the file of one of gptlab's recipes by its name; the path itself, or `otherwise`, if there is none."""
    file = RECIPES / f"{name}.toml"
    return file if file.is_file() else otherwise or name


def _sized(raw: Raw) -> Raw:
    """Write out `model.size`, a name of SIZES, as the numbers that it stands for."""
    model = dict(raw.get("model", {}))
    size = model.pop("size", None)
    if size is None:
        return raw
    if not isinstance(size, str) or size not in SIZES:
        raise ConfigError(f"model.size = {size!r}: is not known; choose one of {', '.join(SIZES)}")
    return {**raw, "model": {**SIZES[size], **model}}


def _grouped(raw: Raw) -> Raw:
    """Write out `model.kv_group` as the key/value heads that it leaves of the query heads."""
    model = dict(raw.get("model", {}))
    group, heads = model.pop("kv_group", None), model.get("n_head", ModelConfig.n_head)
    if group is None:
        return raw
    if type(group) is not int or type(heads) is not int or group < 1 or heads % group:
        raise ConfigError(f"model.kv_group = {group!r}: must be a number that divides n_head = {heads!r}")
    return {**raw, "model": {**model, "n_kv_head": heads // group}}


def merge(below: Raw, above: Raw) -> Raw:
    """Lay one raw recipe over another, section by section; one whose `name` changes to one with other keys is replaced.

    Raises:
        ConfigError: a recipe has two forms of one thing.
    """
    merged = dict(below)
    for section, values in above.items():
        old = merged.get(section, {})
        default = getattr(SECTIONS.get(section), "name", None)
        replaced = section in KINDS and "name" in values and values["name"] != old.get("name", default)
        forms = FORMS.get(section, ()) if isinstance(values, dict) else ()
        for form, other in zip(forms, forms[::-1], strict=True):
            if form in values and other in values:
                raise ConfigError(
                    f"{section}.{form} and {section}.{other}: are two forms of one thing; leave one out"
                )
            if form in values:
                old = {key: value for key, value in old.items() if key != other}
        if section == "train" and isinstance(values, dict) and values.get("hours") not in (None, "none"):
            old = {key: value for key, value in old.items() if key != "steps"}
        merged[section] = dict(values) if replaced else {**old, **values}
    return merged


def check(raw: Raw) -> RunConfig:
    """Turn a raw recipe into a RunConfig.

    Raises:
        ConfigError: naming the key, what is wrong with it and, for an unknown one, the nearest right name.
    """
    from pydantic import TypeAdapter, ValidationError

    raw = {name: _named(name, values) for name, values in raw.items()}
    try:
        check_numbers(raw)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        written = json.dumps(
            {name: _read_none(name, values) for name, values in raw.items()}, default=_in_json
        )
        return TypeAdapter(RunConfig).validate_json(written, strict=True, extra="forbid")
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise ConfigError(f"recipe: cannot be read: {error.errors()[0]['msg']}") from None
        # A value that fits none of several types is one mistake, of which pydantic complains once a type.
        problems = (_of_kind(dict(problem), raw) for problem in error.errors())
        complaints = dict.fromkeys(_complaint(problem, raw) for problem in problems if problem is not None)
        raise ConfigError("; ".join(complaints)) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # of json: a number of thousands of digits, brackets too deep
        raise ConfigError(f"recipe: cannot be read: {error}") from None


def _named(section: str, values: Any) -> Any:
    """Say which kind of section is meant, where nobody did.

    Raises:
        ConfigError: there is no such kind.
    """
    if section not in KINDS or not isinstance(values, dict):
        return values
    named = {"name": SECTIONS[section].name, **values}
    if named["name"] not in list(KINDS[section]):
        known = " or ".join(f'"{name}"' for name in KINDS[section])
        raise ConfigError(f"{section}.name = {named['name']!r}: must be {known}")
    return named


def _kind(section: str, raw: Raw) -> type[Any]:
    """Return the dataclass of a section."""
    return KINDS[section][raw[section]["name"]] if section in KINDS and section in raw else SECTIONS[section]


def _of_kind(problem: Raw, raw: Raw) -> Raw | None:
    """Return a complaint without the kind that pydantic puts into its place; None if another kind is meant."""
    section, *rest = problem["loc"] or ("",)
    if len(KINDS.get(section, ())) < 2 or not rest:
        return problem
    return {**problem, "loc": (section, *rest[1:])} if rest[0] == _kind(section, raw).__name__ else None


def _in_json(value: Any) -> Any:
    """Spell what JSON has not: a path is its text; one of TOML's dates is none, and no key takes it for one."""
    return {"date": str(value)} if isinstance(value, date | time) else str(value)


def _read_none(section: str, values: Any) -> Any:
    """Read "none" as None where a key may be that: TOML has no null, and a default may be something else."""
    if section not in SECTIONS or not isinstance(values, dict):
        return values
    hints = get_type_hints(_kind(section, {section: values}))
    off = {
        key for key, hint in hints.items() if types.NoneType in get_args(hint) and str not in get_args(hint)
    }
    return {**values, **{key: None for key in off if values.get(key) == "none"}}


def _complaint(problem: Raw, raw: Raw) -> str:
    path: list[Any] = list(problem["loc"])
    key = _key(path)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        if path[-1] in ELSEWHERE:
            return f"{key}: there is no such key; did you mean {ELSEWHERE[path[-1]]}?"
        known = [*SECTIONS] if len(path) == 1 else [f.name for f in fields(_tables(path, raw))]
        return no_such_key(key.removesuffix(path[-1]), path[-1], known)
    if problem["type"] == "value_error":
        return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    if problem["type"] == "missing" and len(path) == 4:
        return f"{key}: is missing; each of these tables needs one"
    if len(path) < 2:
        return f"{key} = {problem['input']!r}: must be a section, with keys of its own"
    section, name = path[:2]
    if len(path) == 4:
        value = raw[section][name][path[2]][path[3]]
        return f"{key} = {value!r}: must be {type_name(get_type_hints(_tables(path, raw))[path[3]])}"
    hint = get_type_hints(_kind(section, raw))[name]
    return f"{section}.{name} = {raw[section][name]!r}: must be {type_name(hint)}"


def _key(path: Sequence[str | int]) -> str:
    """Write where a value stands as `data.train[1].weight`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _tables(path: Sequence[str | int], raw: Raw) -> Any:
    """Return the dataclass that a key belongs to: its section, or the tables within it."""
    kind = _kind(str(path[0]), raw)
    return table_of(get_type_hints(kind)[str(path[1])]) if len(path) == 4 else kind


def to_toml(config: RunConfig, sections: Collection[str] = ()) -> str:
    """Write a configuration as a recipe; what is None by default is left out, since TOML has no null.

    Args:
        config: what to write.
        sections: the only ones to write; none named is all.
    """
    lines: list[str] = []
    for section in fields(config):
        if sections and section.name not in sections:
            continue
        values = getattr(config, section.name)
        lines.append(f"[{section.name}]")
        hints = get_type_hints(type(values))
        tables = [
            item.name for item in fields(values) if table_of(hints[item.name]) and getattr(values, item.name)
        ]
        for item in fields(values):
            value = getattr(values, item.name)
            other_form = tables and (section.name, item.name) == ("data", "path")
            if (
                not other_form
                and not table_of(hints[item.name])
                and (value is not None or item.default is not None)
            ):
                lines.append(f"{item.name} = {_toml(value)}")
        lines.append("")
        for name in tables:
            for table in getattr(values, name):
                lines.append(f"[[{section.name}.{name}]]")
                lines += [f"{item.name} = {_toml(getattr(table, item.name))}" for item in fields(table)]
                lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return (
        json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if isinstance(value, str)
        else repr(value)
    )


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ, as `section.key: (old value, new value)`."""
    found: dict[str, tuple[Any, Any]] = {}
    for section in SECTIONS:
        before, after = getattr(old, section), getattr(new, section)
        for key in dict.fromkeys(item.name for item in (*fields(before), *fields(after))):
            pair = getattr(before, key, None), getattr(after, key, None)
            if pair[0] != pair[1]:
                found[f"{section}.{key}"] = pair
    return found
