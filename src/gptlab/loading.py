"""MODEL on the command line, `gptlab.load` in Python: a run, a checkpoint or a Hugging Face folder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gptlab.data.load_tokenizer import TOKENIZERS, load_tokenizer
from gptlab.data.tokenizer import FILE, Tokenizer
from gptlab.errors import CheckpointError
from gptlab.formats.checked import checked_state
from gptlab.formats.huggingface import (
    HuggingFaceModel,
    UnfitError,
    folder_tokenizer,
    load_hugging_face,
    read_ours,
)
from gptlab.machine.device import DeviceName, choose_device
from gptlab.model.gpt import ModelConfig
from gptlab.parsing import typed
from gptlab.runs import checkpoint
from gptlab.runs.folder import BEST, LATEST
from gptlab.sample import GeneratingGPT

Model = GeneratingGPT | HuggingFaceModel


def load(model: str | Path, device: DeviceName = "auto") -> tuple[Model, Tokenizer]:
    """Load a model and its tokenizer, ready to read and write text.

        model, tokenizer = gptlab.load("runs/tiny")
        ids = model.generate(tokenizer.encode("Once upon a time"), max_tokens=40)

    Args:
        model: a run folder (its best checkpoint), a checkpoint folder, or a Hugging Face folder.
        device: where to put it.

    Raises:
        CheckpointError: nothing of the kind is there, or it is damaged.
    """
    path, where = Path(model), choose_device(device)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give a run, a checkpoint or a Hugging Face folder")
    if (path / "config.json").is_file():
        return _fitting(path, *_load_hugging_face(path, where))
    folder = checkpoint_folder(path)
    if folder is None:
        raise CheckpointError(
            f"{path}: holds neither checkpoints, nor {checkpoint.STATE}, nor a Hugging Face config.json"
        )
    found = checkpoint.load(folder, for_reading=True)
    try:
        config = typed(ModelConfig, found.state.get("model"))
        network = _network(config, checked_state(config, found.model()))
    except ValueError as error:
        raise CheckpointError(
            f"{folder}: {checkpoint.STATE} and the weights do not fit each other, or are of a newer gptlab: {error}"
        ) from None
    return _fitting(path, network.to(where).eval(), read_tokenizer(found))


def _fitting(path: Path, model: Model, tokenizer: Tokenizer) -> tuple[Model, Tokenizer]:
    """Refuse a tokenizer with ids that the model has no row for."""
    rows = model.vocab_size if isinstance(model, HuggingFaceModel) else model.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{path}: its tokenizer has {tokenizer.vocab_size:,} ids, its model {rows:,}; put the model's own there"
        )
    model.unknown_ids = tokenizer.unknown_below(rows)
    return model, tokenizer


def _network(config: ModelConfig, state: Mapping[str, Tensor]) -> GeneratingGPT:
    network = GeneratingGPT(config)
    network.load_state_dict(state)
    return network


def _load_hugging_face(folder: Path, where: torch.device) -> tuple[Model, Tokenizer]:
    # What is one of our models runs as one, which spares transformers' detours and never runs a folder's code.
    try:
        config, state = read_ours(folder)
    except UnfitError:
        return load_hugging_face(folder, where)
    return _network(config, state).to(where).eval(), folder_tokenizer(folder)


def checkpoint_folder(path: Path) -> Path | None:
    """Return the checkpoint that is meant by a run, which is its best, or by itself; None for neither."""
    if (path / checkpoint.STATE).is_file():
        return path
    for pointer in (BEST, LATEST):
        if (folder := checkpoint.pointed(path / pointer)) is not None:
            return folder
    return None


def read_tokenizer(found: checkpoint.Checkpoint) -> Tokenizer:
    """Load the tokenizer that a checkpoint was trained with, and check that it is the same."""
    file = found.folder / FILE
    match found.state.get("tokenizer"):
        case {"name": str(name), "hash": expected} if name in TOKENIZERS or file.is_file():
            tokenizer = load_tokenizer(file if file.is_file() else name)
        case record:
            raise CheckpointError(f"{found.folder}: its tokenizer, {record}, is neither known nor there")
    if tokenizer.hash != expected:
        raise CheckpointError(f"{found.folder}: its tokenizer {name} is not the one found here")
    return tokenizer
