"""The mean cross entropy of held-out text, per token and per byte."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gptlab.data.batches import Windows, validation_windows
from gptlab.errors import TaskError
from gptlab.eval.score import Stop, heed, predictions
from gptlab.machine.memory import in_parts
from gptlab.model.causal_lm import CausalLM
from gptlab.progress import Progress


@dataclass(frozen=True)
class Loss:
    """The sums of a validation pass; several processes' sums add up."""

    nats: float
    """Summed cross entropy of the targets."""
    tokens: int
    """Targets, including end-of-text."""
    text_bytes: int | None
    """UTF-8 bytes of text that the targets stand for; None if the tokenizer was not given."""
    windows: Sequence[float] = ()
    """Nats per token of each window, in order; empty for a sum over processes."""

    @property
    def per_token(self) -> float:
        """Nats per token.

        Raises:
            TaskError: no process had a token.
        """
        if not self.tokens:
            raise TaskError(
                "no token to validate on: the validation split is shorter than one window of the context; "
                "prepare the data again with a larger --val-tokens"
            )
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text, end-of-text included: comparable across tokenizers."""
        return self.nats / math.log(2) / self.text_bytes if self.text_bytes else None


def windows_sha256(windows: Windows, max_tokens: int | None = None) -> str:
    """Return a hash of the held-out windows that a loss is taken over: other windows, another loss."""
    shards = [(shard.sha256, shard.tokens) for shard in windows.manifest.split(windows.split)]
    count = validation_windows(windows, max_tokens)
    said = [windows.manifest.tokenizer.hash, windows.context, count, shards]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _nats(model: CausalLM, device: torch.device | str, rows: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Return the summed cross entropy of each row of ids and targets."""
    ids_BT = torch.stack([ids for ids, _ in rows]).to(device)
    targets_N = torch.cat([targets for _, targets in rows]).to(device)
    places_N = torch.arange(len(targets_N), device=device)
    hidden_ND = model.hidden_states(ids_BT).flatten(0, 1)
    log_probs_N, _ = predictions(model, hidden_ND, places_N, targets_N)
    return (-log_probs_N.cpu().double()).view(len(rows), -1).sum(1).tolist()


@torch.inference_mode()
def mean_loss(
    model: CausalLM,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str,
    total: int | None = None,
    token_bytes: npt.NDArray[np.integer] | None = None,
    stop: Stop | None = None,
    quiet: bool = False,
) -> Loss:
    """Sum the cross entropy of batches of (ids_BT, targets_BT); without any, the sums are zero.

    Args:
        model: a causal model.
        batches: int64 ids and their targets.
        device: where the model is.
        total: how many targets there are, for the progress's ETA.
        token_bytes: the UTF-8 bytes that each id stands for, for bits per byte.
        stop: checked before each batch.
        quiet: hide the progress, for every process but the first.

    Raises:
        StopEvaluation: `stop` returned true.
    """
    nats, tokens, text_bytes = 0.0, 0, 0
    means: list[float] = []
    with Progress("validating", total, " tokens", quiet=quiet) as progress:
        for ids_BT, targets_BT in batches:
            heed(stop)
            rows = list(zip(ids_BT, targets_BT, strict=True))
            found = [one for _, part in in_parts(partial(_nats, model, device), rows) for one in part]
            nats += sum(found)
            means += [one / targets_BT.shape[1] for one in found]
            targets_N = targets_BT.flatten()
            tokens += len(targets_N)
            if token_bytes is not None:
                text_bytes += int(token_bytes[targets_N.cpu().numpy()].sum())
            progress.advance(len(targets_N))
    return Loss(nats, tokens, text_bytes if token_bytes is not None else None, means)
