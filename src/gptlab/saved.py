"""MODEL on the command line, `gptlab.load` in Python: a run, a checkpoint or a Hugging Face folder."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.data.tokenizer import Tokenizer, load_tokenizer
from gptlab.errors import CheckpointError
from gptlab.model.gpt import ModelConfig
from gptlab.publish.huggingface import (
    HuggingFaceModel,
    UnfitError,
    folder_tokenizer,
    load_hugging_face,
    read_ours,
)
from gptlab.sample import GeneratingGPT
from gptlab.train import checkpoint
from gptlab.train.device import DeviceName, choose_device


def load(
    model: str | Path, device: DeviceName = "auto"
) -> tuple[GeneratingGPT | HuggingFaceModel, Tokenizer]:
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
        return _load_hugging_face(path, where)
    folder = checkpoint_folder(path)
    if folder is None:
        raise CheckpointError(
            f"{path}: holds neither checkpoints, nor {checkpoint.STATE}, nor a Hugging Face config.json"
        )
    found = checkpoint.load(folder)
    try:
        network = _network(_config(found), found.model())
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights and state.json do not fit each other ({error})") from None
    return network.to(where).eval(), read_tokenizer(found)


def _network(config: ModelConfig, state: Mapping[str, Tensor]) -> GeneratingGPT:
    network = GeneratingGPT(config)
    network.load_state_dict(state)
    return network


def _load_hugging_face(
    folder: Path, where: torch.device
) -> tuple[GeneratingGPT | HuggingFaceModel, Tokenizer]:
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
    for pointer in ("best", "latest"):
        if (folder := checkpoint.pointed(path / pointer)) is not None:
            return folder
    return None


def _config(found: checkpoint.Checkpoint) -> ModelConfig:
    raw: dict[str, Any] = found.state.get("model", {})
    known = {item.name for item in fields(ModelConfig)}
    if not raw or not raw.keys() <= known:
        raise CheckpointError(
            f"{found.folder}: its model has {sorted(raw.keys() - known)}, which this gptlab does not know; "
            "it may come from a newer one"
        )
    return ModelConfig(**raw)


def read_tokenizer(found: checkpoint.Checkpoint) -> Tokenizer:
    """Load the tokenizer that a checkpoint was trained with, and check that it is the same."""
    record, file = found.state["tokenizer"], found.folder / "tokenizer.json"
    tokenizer = load_tokenizer(file if file.is_file() else record["name"])
    if tokenizer.hash != record["hash"]:
        raise CheckpointError(f"{found.folder}: its tokenizer {record['name']} is not the one found here")
    return tokenizer
