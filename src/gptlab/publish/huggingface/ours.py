"""A Hugging Face folder as one of our own models, where its class and its config fit our switches.

Nothing is taken on trust: the config and the tensors that we would write for what was read must be those that
were read.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.model.gpt import ModelConfig
from gptlab.parsing import parse_json, typed
from gptlab.publish.checked import checked_state

from .foreign import CONFIG, MISSING, WEIGHTS, WEIGHTS_INDEX, quiet_transformers, require_safetensors
from .formats import FORMATS, MARK, Format

# What transformers' older classes saved besides their parameters: masks, and wavelengths of RoPE.
BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


class UnfitError(CheckpointError):
    """A whole Hugging Face folder whose model is none of ours."""


def read_ours(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the state dict, in float32, of the model of ours that computes the same.

    Raises:
        UnfitError: there is none, and the message says what does not fit.
        CheckpointError: the folder is damaged or holds only pickles.
    """
    require_safetensors(folder)
    raw = _json(folder / CONFIG)
    kind = raw.get("model_type")
    form = next((form for form in FORMATS.values() if form.model_type == kind), None)
    if form is None:
        known = ", ".join(form.model_type for form in FORMATS.values())
        raise UnfitError(f"{folder}: gptlab has no model_type {kind}; it has {known}")
    tensors = _tensors(folder, form)
    misfits = ""
    try:
        for theirs, config in _candidates(folder, form, raw):
            misfits = _misfits(form, theirs, config, tensors)
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


def _json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return content


def _candidates(
    folder: Path, form: Format, raw: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], ModelConfig]]:
    """Yield what the model may be, the likeliest first, with the keys that it must agree with.

    An export of ours says of which model it was made, which tells a repeated head from one of many. Somebody may
    have trained it further since, and then what the class can hold decides.
    """
    try:
        marked = typed(ModelConfig, raw[MARK]["model"])
    except (KeyError, TypeError, ValueError):
        marked = None
    if marked is not None:
        yield raw, marked
    theirs = _resolved(folder) if form.native else raw
    if marked is not None:
        yield theirs, marked
    yield theirs, form.guess(theirs)


def _resolved(folder: Path) -> dict[str, Any]:
    """Return a config with what it leaves out, which only transformers knows."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise CheckpointError(f"{folder}: {MISSING}") from error
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers passes on whatever its parts raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{folder}: transformers cannot read its {CONFIG} ({reason})") from error
    return config.to_dict()


def _misfits(
    form: Format, theirs: Mapping[str, Any], config: ModelConfig, tensors: Mapping[str, Tensor]
) -> str:
    """Return what the config.json of such a model of ours would have otherwise, or an empty text."""
    found = form.misfits(config)
    layers = len({number for name in tensors for number in re.findall(r"\.(\d+)\.", name)[:1]})
    if config.n_layer != layers:
        found.append(f"n_layer = {config.n_layer} (there are tensors of {layers})")
    for key, value in form.config(config).items():
        given = theirs.get(key)
        if isinstance(value, dict) and isinstance(given, dict):
            pairs = [(f"{key}.{part}", given.get(part), value[part]) for part in value]
        elif key == form.activation and given in form.activations[config.mlp]:
            continue
        else:
            pairs = [(key, given, value)]
        unsaid = form.numbers.values()  # where None stands for what follows from the others
        found += [
            f"{name} = {there} (gptlab has {here} there)"
            for name, there, here in pairs
            if there != here and not (there is None and name in unsaid)
        ]
    return ", ".join(found)


def _tensors(folder: Path, form: Format) -> dict[str, Tensor]:
    files = [folder / WEIGHTS]
    if not files[0].is_file():
        named = _json(folder / WEIGHTS_INDEX).get("weight_map", {})
        # A name with folders in it would lead out of this one.
        files = [folder / Path(str(name)).name for name in sorted(set(named.values()))]
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            found |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: not a readable safetensors file ({error})") from None
    found = {name: tensor.to(torch.float32) for name, tensor in found.items() if not BUFFERS.search(name)}
    if any(name.startswith(form.prefix) for name in found):
        return found
    # OpenAI's own files name the tensors of the network without its head.
    return {name if name.startswith("lm_head.") else form.prefix + name: t for name, t in found.items()}
