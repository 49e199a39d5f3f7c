"""A Hugging Face folder as one of our own models, where its class and its config fit our switches.

Nothing is taken on trust: the config and the tensors that we would write for what was read must be those that
were read, and a key of the config that we do not know must be one that decides nothing.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.formats.checked import checked_state
from gptlab.formats.huggingface.classes import FORMATS, MARK, Format
from gptlab.formats.huggingface.keys import as_written, deciding, differences, json_object, resolved
from gptlab.formats.huggingface.tensors import read_tensors
from gptlab.formats.huggingface.wrap import CONFIG, require_safetensors
from gptlab.model.gpt import ModelConfig
from gptlab.parsing import typed

ADAPTER = "adapter_config.json"
MOST = 6  # misfits that are named


class UnfitError(CheckpointError):
    """A whole Hugging Face folder whose model is none of ours."""


def read_ours(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the state dict, in float32, of the model of ours that computes the same.

    Raises:
        UnfitError: there is none, and the message says what does not fit.
        CheckpointError: the folder is damaged, holds only pickles, or an adapter besides.
    """
    require_safetensors(folder)
    if (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder}: has an {ADAPTER}, which changes the model for those who have peft and for nobody else; "
            "merge the adapter, or take the file out"
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
        # An export as it was written needs nobody to explain it.
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
    """Return of which model an export of ours says it was made, if it can be one of its class."""
    try:
        marked = typed(ModelConfig, raw[MARK]["model"])
    except (KeyError, TypeError, ValueError):
        return None
    return None if form.misfits(marked) else marked


def _candidates(form: Format, theirs: Mapping[str, Any], marked: ModelConfig | None) -> Iterator[ModelConfig]:
    """Yield what the model may be, the likeliest first.

    The mark of an export tells a repeated head from one of many. Somebody may have trained it further since, and
    then what the class can hold decides.
    """
    if marked is not None:
        yield marked
    yield form.guess(theirs)


def _misfits(form: Format, config: ModelConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what such a model of ours would have otherwise, but for the keys of its config."""
    layers = len({number for name in tensors for number in re.findall(r"\.(\d+)\.", name)[:1]})
    number = (
        [f"n_layer = {config.n_layer} (there are tensors of {layers})"] if config.n_layer != layers else []
    )
    return form.misfits(config) + number
