"""A config.json compared with what an export of the same model would say.

transformers keeps every key of the file, and a class may act on any of them. So each key must have the value that an
export gives it, unless this file or the format lists it as one that decides no number.
"""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

from gptlab.data.hugging_face_files import CONFIG
from gptlab.errors import CheckpointError
from gptlab.formats.huggingface.classes import FORMATS, MARK, Format
from gptlab.formats.huggingface.wrap import MISSING, quiet_transformers
from gptlab.model.gpt import ModelConfig
from gptlab.parsing import parse_json

# Names, special tokens, the number format of stored weights, and settings of training and of other heads.
HARMLESS = frozenset(
    {
        *("architectures", "_name_or_path", "name_or_path", "transformers_version", "tokenizer_class", MARK),
        *(
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "unk_token_id",
            "dtype",
            "torch_dtype",
            "use_cache",
        ),
        *("initializer_range", "task_specific_params", "id2label", "label2id", "num_labels", "problem_type"),
        *("finetuning_task", "gradient_checkpointing", "pretraining_tp", "transformers.js_config"),
    }
)
# Number formats of stored weights; gptlab reads them as float32.
NUMBERS = (None, "auto", "float32", "float16", "bfloat16", "float64")
UNKNOWN = "gptlab has no such key"
# Keys that may say how RoPE turns; transformers moves all of it into the last.
ROPE = ("rope_theta", "partial_rotary_factor", "rope_scaling", "rope_parameters")
# Keys for which null is not the default: transformers takes it for false.
NULLS = ("is_causal",)


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return content


def resolved(folder: Path, why: str) -> Any:
    """Return the config of a class of transformers, with defaults for what its file leaves out.

    Args:
        folder: a Hugging Face folder.
        why: what in the file only transformers understands; if empty, and transformers is not installed, the result
            is None.

    Raises:
        CheckpointError: transformers cannot read it, or is needed and not installed.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        if not why:
            return None
        raise CheckpointError(f"{folder}: its {CONFIG} has {why}: {MISSING}") from error
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers passes on whatever its parts raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{folder}: transformers cannot read its {CONFIG} ({reason})") from error


def as_written(raw: Mapping[str, Any], name: str, config: ModelConfig) -> bool:
    """Tell whether a file is exactly what an export of a model writes."""
    expected = FORMATS[name].written(config) | {
        "architectures": [name],
        "torch_dtype": "float32",
        "pad_token_id": None,
    }
    ends = ("bos_token_id", "eos_token_id")
    if any(type(raw.get(key)) not in (int, type(None)) for key in ends):
        return False
    said = {key: value for key, value in raw.items() if key not in (MARK, *ends)}
    return json.dumps(said, sort_keys=True) == json.dumps(expected, sort_keys=True)


def deciding(form: Format, raw: Mapping[str, Any], config: ModelConfig) -> str:
    """Return a change to an export of a model that may decide a number; empty if none does.

    A key that exports do not have means nothing if it is null, except for NULLS.
    """
    written = form.written(config)
    lost = sorted(written.keys() - raw.keys() - HARMLESS - set(form.free))
    if lost:
        return f"no {lost[0]}"
    said = {key: value for key, value in raw.items() if value is not None or key in written or key in NULLS}
    return next(chain(_impossible(form, raw), _unequal(form, said, written, config)), "")


def differences(form: Format, theirs: Any, raw: Mapping[str, Any], config: ModelConfig) -> list[str]:
    """Return the keys of a config.json that an export of a model would write differently.

    Args:
        form: the class.
        theirs: transformers' config, or the file itself if the class is ours.
        raw: the file.
        config: the model.
    """
    written = form.written(config)
    found = list(_impossible(form, raw))
    if not form.native:
        return [*found, *_unequal(form, raw, written, config)]
    with quiet_transformers():  # the class's own special tokens may exceed the vocabulary
        said, ours = theirs.to_dict(), type(theirs).from_dict(deepcopy(written)).to_dict()
    return [*found, *_unequal(form, said, ours, config), *_lost(form, theirs, raw, said)]


def _impossible(form: Format, raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys that decide no number but keep transformers from making the model."""
    drops = form.free if form.native else ()
    for key in ("dtype", "torch_dtype", "pad_token_id", *drops):
        value = raw.get(key)
        if key in drops:
            possible = value is None or (isinstance(value, int | float) and 0 <= value <= 1)
        else:
            possible = type(value) in (int, type(None)) if key == "pad_token_id" else value in NUMBERS
        if not possible:
            yield _told(key, value)


def _unequal(
    form: Format, theirs: Mapping[str, Any], ours: Mapping[str, Any], config: ModelConfig
) -> Iterator[str]:
    unread = HARMLESS | set(form.unread) | (set(form.free) if form.native else set())
    # A file may leave out numbers that follow from others, and the place of our own code, which transformers drops
    # when it saves a model again.
    follows = {form.numbers.get("n_kv_head"), form.numbers.get("n_hidden")} if form.native else set(form.free)
    for key in sorted((theirs.keys() | ours.keys()) - unread):
        there, here = theirs.get(key), ours.get(key)
        if key == form.activation and form.native and there in form.activations[config.mlp]:
            continue
        if there is None and key in follows:
            continue
        if key not in ours:
            yield f"{_told(key, there)} ({UNKNOWN})"
            continue
        pairs = [(key, there, here)]
        if isinstance(there, dict) and isinstance(here, dict):
            parts = sorted(there.keys() | here.keys())
            pairs = [(f"{key}.{part}", there.get(part), here.get(part)) for part in parts]
        for name, one, other in pairs:
            if not _same(one, other):
                yield f"{_told(name, one)} (gptlab has {_short(other)} there)"


def _lost(form: Format, config: Any, raw: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys of the file that transformers ignored, or overruled by another key."""
    aliases: Mapping[str, str] = type(config).attribute_map
    for key in sorted(raw.keys() - HARMLESS - set(form.unread) - set(form.free)):
        value = raw[key]
        if form.rope is not None and key in ROPE:
            parts = value if isinstance(value, dict) else {key: value} if value is not None else {}
            rope: Mapping[str, Any] = said.get("rope_parameters") or {}
            if any(part in rope and not _same(rope[part], there) for part, there in parts.items()):
                yield f"{_told(key, value)} (another key of RoPE's says otherwise)"
        elif key in aliases and not _same(said.get(aliases[key]), value):
            yield f"{_told(key, value)} ({aliases[key]} says otherwise)"
        elif key not in said and key not in aliases:
            yield f"{_told(key, value)} ({UNKNOWN})"


def _same(one: Any, other: Any) -> bool:
    """Compare a JSON value with ours; true is not 1, and 2.0 is not a number of layers."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, int):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _told(key: str, value: object) -> str:
    return f"{_short(key)} = {_short(value)}"


def _short(value: object, most: int = 80) -> str:
    text = str(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else f"{text[:most]}..."
