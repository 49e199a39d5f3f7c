"""A Hugging Face folder as one of our own models, if its class and config fit our switches.

Nothing is taken on trust: an export of the model that was read must give the config and tensors that were read, and
unknown keys of the config must decide nothing.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gptlab.data.hugging_face_files import CONFIG
from gptlab.errors import CheckpointError
from gptlab.formats.checked import checked_state
from gptlab.formats.huggingface.classes import FORMATS, MARK, Format
from gptlab.formats.huggingface.keys import as_written, deciding, differences, json_object, resolved
from gptlab.formats.huggingface.tensors import read_tensors
from gptlab.formats.huggingface.wrap import require_safetensors
from gptlab.model.gpt import ModelConfig
from gptlab.parsing import typed

ADAPTER = "adapter_config.json"
MOST = 6  # misfits to name


class UnfitError(CheckpointError):
    """A sound Hugging Face folder whose model does not fit ours."""


def read_ours(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the float32 state dict of our model that computes the same.

    Raises:
        UnfitError: there is none; the message says what does not fit.
        CheckpointError: the folder is damaged, or holds only pickles or an adapter.
    """
    require_safetensors(folder)
    if (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder}: has an {ADAPTER}, which changes the model only where peft is installed; merge the adapter, "
            "or remove the file"
        )
    raw = json_object(folder / CONFIG)
    kind = raw.get("model_type")
    name = next((name for name, form in FORMATS.items() if form.model_type == kind), None)
    if name is None:
        known = ", ".join(form.model_type for form in FORMATS.values())
        raise UnfitError(f"{folder}: gptlab has no model_type {kind}; it has {known}")
    form = FORMATS[name]
    misfits = ""
    try:
        tensors, marked = read_tensors(folder, form), _marked(raw, form)
        odd = deciding(form, raw, marked) if marked is not None else "no mark of an export"
        # An untouched export needs no transformers.
        whole = marked is not None and as_written(raw, name, marked)
        theirs: Any = resolved(folder, odd) if form.native and not whole else None
        for config in _candidates(form, raw if theirs is None else theirs.to_dict(), marked):
            found = _misfits(form, config, tensors)
            if form.native and theirs is None:
                found += [key for key in [deciding(form, raw, config)] if key]
            else:
                found += differences(form, theirs, raw, config)
            misfits = ", ".join(found[:MOST]) + (f" and {len(found) - MOST} more" if found[MOST:] else "")
            if misfits:
                continue
            try:
                return config, checked_state(config, form.state(tensors, config))
            except ValueError as error:
                misfits = str(error)
    except (KeyError, TypeError, ValueError) as error:
        misfits = f"{CONFIG} has no {error}" if isinstance(error, KeyError) else str(error)
    complaint = f"{folder}: does not fit gptlab's switches: {misfits}"
    raise UnfitError(complaint) if form.native else CheckpointError(complaint)


def _marked(raw: Mapping[str, Any], form: Format) -> ModelConfig | None:
    """Return the model named by an export of ours, if it fits the export's class."""
    try:
        marked = typed(ModelConfig, raw[MARK]["model"])
    except (KeyError, TypeError, ValueError):
        return None
    return None if form.misfits(marked) else marked


def _candidates(form: Format, theirs: Mapping[str, Any], marked: ModelConfig | None) -> Iterator[ModelConfig]:
    """Yield the possible models, the likeliest first.

    An export's mark tells a repeated head from one of many. If somebody has trained the folder further since, the mark
    may no longer hold, and the class decides.
    """
    if marked is not None:
        yield marked
    yield form.guess(theirs)


def _misfits(form: Format, config: ModelConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what does not fit such a model of ours, apart from the keys of its config."""
    layers = len({number for name in tensors for number in re.findall(r"\.(\d+)\.", name)[:1]})
    number = (
        [f"n_layer = {config.n_layer} (there are tensors of {layers})"] if config.n_layer != layers else []
    )
    return form.misfits(config) + number
