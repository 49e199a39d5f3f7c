"""A model of any kind, ready to be scored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptlab.data.tokenizer import Tokenizer
from gptlab.loading import find
from gptlab.machine.device import DeviceName, DTypeName, choose_device, warn_if_emulated
from gptlab.model.autocast import AutocastModel
from gptlab.model.packed import packed
from gptlab.runs.score_log import ScoreLog, score_log_of


@dataclass(frozen=True)
class ScoredModel:
    """A model ready to be scored."""

    path: Path
    bare_model: Any
    """Without autocast, for writing."""
    model: AutocastModel
    tokenizer: Tokenizer
    context: int
    device: torch.device
    score_log: ScoreLog | None = None
    """Keeps its scores; None if it belongs to no run."""


def open_to_score(path: Path, device: DeviceName, dtype: DTypeName) -> ScoredModel:
    """Open a model in a number format.

    Raises:
        GptlabError: there is none, or it cannot be read.
    """
    where = choose_device(device)
    warn_if_emulated(dtype, where, "--dtype")
    found = find(path)
    # Before the weights are read, as the run may go on meanwhile.
    score_log = score_log_of(found.run, found.checkpoint)
    loaded = found.open(device)
    model = loaded.model
    if dtype == "float32":  # in bfloat16 it gains nothing with rows of this length
        model = packed(model)
    return ScoredModel(
        path,
        model,
        AutocastModel(model, dtype, where),
        loaded.tokenizer,
        model.context,
        where,
        score_log,
    )
