"""MODEL on the command line, `gptlab.load` in Python: a run, a checkpoint or a Hugging Face folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.data.hugging_face_files import CONFIG
from gptlab.data.load_tokenizer import TOKENIZERS, load_tokenizer
from gptlab.data.tokenizer import FILE, Tokenizer
from gptlab.errors import CheckpointError
from gptlab.formats.checked import checked_state
from gptlab.formats.huggingface.read import UnfitError, read_ours
from gptlab.formats.huggingface.wrap import HuggingFaceModel, folder_tokenizer, load_hugging_face
from gptlab.machine.device import DeviceName, choose_device
from gptlab.model.gpt import ModelConfig
from gptlab.model.unset import Unset
from gptlab.parsing import typed
from gptlab.runs import checkpoint
from gptlab.runs.folder import BEST, LATEST, run_of
from gptlab.sample import GeneratingGPT

Model = GeneratingGPT | HuggingFaceModel


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to read and write text, and where it comes from."""

    model: Model
    tokenizer: Tokenizer
    state: Mapping[str, Any]
    """What its checkpoint says of itself; nothing for a Hugging Face folder."""


@dataclass(frozen=True)
class ModelPath:
    """A folder that MODEL names."""

    path: Path
    """As it was given."""
    checkpoint: Path | None
    """The checkpoint to read; None for a Hugging Face folder."""

    @property
    def run(self) -> Path | None:
        """The run that the checkpoint is of, if any."""
        return run_of(self.path) if self.checkpoint is not None else None

    def open(self, device: DeviceName = "auto") -> LoadedModel:
        """Load the model and its tokenizer.

        Raises:
            CheckpointError: a damaged folder.
        """
        where, state = choose_device(device), {}
        if self.checkpoint is None:
            model, tokenizer = _load_folder(self.path, where)
        else:
            found = checkpoint.load(self.checkpoint, for_reading=True)
            try:
                config = typed(ModelConfig, found.state.get("model"))
                model = _gpt(config, checked_state(config, found.model())).to(where).eval()
            except ValueError as error:
                raise CheckpointError(
                    f"{self.checkpoint}: {checkpoint.STATE} and the weights do not fit each other, or are of a "
                    f"newer gptlab: {error}"
                ) from None
            tokenizer, state = read_tokenizer(found), found.state
        _match_vocabulary(self.path, model, tokenizer)
        return LoadedModel(model, tokenizer, state)


def find(model: Path) -> ModelPath:
    """Say what MODEL names: a run (its best checkpoint), a checkpoint folder, or a Hugging Face folder.

    Raises:
        CheckpointError: it names nothing of the kind.
    """
    if not model.is_dir():
        raise CheckpointError(f"{model}: no such folder; give a run, a checkpoint or a Hugging Face folder")
    if (model / CONFIG).is_file():
        return ModelPath(model, None)
    pointed = (checkpoint.pointed(model / pointer) for pointer in (BEST, LATEST))
    folder = model if (model / checkpoint.STATE).is_file() else next(filter(None, pointed), None)
    if folder is None:
        raise CheckpointError(
            f"{model}: holds neither checkpoints, nor {checkpoint.STATE}, nor a Hugging Face {CONFIG}"
        )
    return ModelPath(model, folder)


def load(model: str | Path, device: DeviceName = "auto") -> tuple[Model, Tokenizer]:
    """Load a model and its tokenizer, ready to read and write text.

        model, tokenizer = gptlab.load("runs/tiny")
        ids = model.generate(tokenizer.encode("Once upon a time"), max_new_tokens=40)

    Args:
        model: a run folder (its best checkpoint), a checkpoint folder, or a Hugging Face folder.
        device: where to put it.

    Raises:
        CheckpointError: it is none of these, or damaged.
    """
    loaded = find(Path(model)).open(device)
    return loaded.model, loaded.tokenizer


def _match_vocabulary(path: Path, model: Model, tokenizer: Tokenizer) -> None:
    """Tell the model which of its rows stand for no token; refuse a tokenizer with ids that it has no row for."""
    rows = model.vocab_size if isinstance(model, HuggingFaceModel) else model.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{path}: its tokenizer has {tokenizer.vocab_size:,} ids, its model {rows:,}; put the model's own there"
        )
    model.unknown_ids = tokenizer.unknown_below(rows)


def _gpt(config: ModelConfig, state: Mapping[str, Tensor]) -> GeneratingGPT:
    with Unset():
        model = GeneratingGPT(config)
    model.load_state_dict(state)
    return model


def _load_folder(folder: Path, where: torch.device) -> tuple[Model, Tokenizer]:
    # What is one of our models runs as one, which spares transformers' detours and never runs a folder's code.
    try:
        config, state = read_ours(folder)
    except UnfitError:
        return load_hugging_face(folder, where)
    return _gpt(config, state).to(where).eval(), folder_tokenizer(folder)


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
