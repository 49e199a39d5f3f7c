"""Log-likelihoods of endings, and what accuracy and validation loss make of log-likelihoods.

Whatever maps ids to logits is scored alike: a GPT, or a Hugging Face model behind a lambda. One that also has
`hidden` and `head`, as GPT has, is asked for logits only where a token is predicted. Logits of any type are
taken in float32; autocast, where it is wanted, is the caller's.
Axes: B batch, T time, N predicted tokens, V vocabulary.
"""

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from gptlab.errors import TaskError
from gptlab.eval.item import Item, Pair
from gptlab.progress import Progress

Logits = Callable[[Tensor], Tensor]  # ids_BT -> logits_BTV
Stop = Callable[[], bool]

CHUNK_TOKENS = 1024  # the rows of float32 logits that exist at once


class StopEvaluation(Exception):  # noqa: N818 (a wish, as StopIteration is, and no error)
    """The caller's `stop` said so; there is no result."""


@dataclass(frozen=True)
class Score:
    """What a model makes of one ending."""

    log_likelihood: float
    """Sum of the natural logarithms of its tokens' probabilities."""
    tokens: int
    """How many of its tokens were scored: all, unless it is longer than the model's context."""
    greedy: bool
    """Whether each of them is the one that the model finds most probable."""
    cut: int
    """Tokens dropped from the start of a pair that was too long for the model."""


@torch.inference_mode()
def log_likelihoods(
    logits: Logits,
    pairs: Sequence[Pair],
    *,
    context: int,
    batch_tokens: int,
    device: torch.device | str,
    stop: Stop | None = None,
    quiet: bool = False,
) -> list[Score]:
    """Score the ending of every pair, in the order given; a pair that is too long loses its start.

    Args:
        logits: a causal model.
        pairs: contexts and endings.
        context: the longest input that the model takes, in tokens.
        batch_tokens: bound of a batch in tokens, padding counted; a batch holds one sequence at least.
        device: where the model is.
        stop: asked before each batch.
        quiet: show no progress; for every process but the first.

    Raises:
        StopEvaluation: `stop` returned true.

    Source: lm-evaluation-harness, models/huggingface.py, for where it cuts.
    """
    for number, (before, ending) in enumerate(pairs):
        if not before or not ending:
            raise ValueError(f"choice {number}: {len(before)} ids before {len(ending)}; both need one")
    excess = [len(before) + len(ending) - 1 - context for before, ending in pairs]
    lengths = [context + min(0, tokens) for tokens in excess]
    scored = [min(len(ending), context) for _, ending in pairs]
    scores: dict[int, Score] = {}
    with _progress("scoring", len(pairs), " endings", quiet) as progress:
        for batch in _batches(lengths, batch_tokens):
            _heed(stop)
            # Right padding: no position of a causal model sees what follows it, so any id will do.
            ids_BT = torch.zeros(len(batch), lengths[batch[0]], dtype=torch.int64)
            rows: list[int] = []
            columns: list[int] = []
            targets: list[int] = []
            for row, number in enumerate(batch):
                before, ending = pairs[number]
                length = lengths[number]
                ids_BT[row, :length] = torch.tensor((before + ending)[-length - 1 : -1])
                rows += [row] * scored[number]
                columns += range(length - scored[number], length)
                targets += ending[-scored[number] :]
            where = torch.tensor(rows), torch.tensor(columns)
            log_probs_N, greedy_N = _predictions(logits, ids_BT.to(device), where, torch.tensor(targets))
            sizes = [scored[number] for number in batch]
            for number, log_probs, greedy in zip(
                batch, log_probs_N.split(sizes), greedy_N.split(sizes), strict=True
            ):
                scores[number] = Score(
                    log_likelihood=log_probs.double().sum().item(),
                    tokens=len(log_probs),
                    greedy=bool(greedy.all()),
                    cut=max(0, excess[number]),
                )
            progress.advance(len(batch))
    return [scores[number] for number in range(len(pairs))]


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group sequences of like length, the longest first: memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


@contextmanager
def _progress(title: str, total: int | None, unit: str, quiet: bool) -> Generator[Progress, None, None]:
    with (
        Path(os.devnull).open("w") as nowhere,
        Progress(title, total, unit, nowhere if quiet else None) as shown,
    ):
        yield shown


def _heed(stop: Stop | None) -> None:
    if stop is not None and stop():
        raise StopEvaluation


def _predictions(
    logits: Logits,
    ids_BT: Int[Tensor, "B T"],
    where: tuple[Int[Tensor, " N"], Int[Tensor, " N"]],
    targets_N: Int[Tensor, " N"],
) -> tuple[Float32[Tensor, " N"], Bool[Tensor, " N"]]:
    """Return the log-probability of the target at each (row, column), and whether none has more."""
    hidden: Logits | None = getattr(logits, "hidden", None)
    head: Logits | None = getattr(logits, "head", None)
    # Without the two, what is picked at the positions are the logits themselves.
    outputs_BT = hidden(ids_BT) if hidden and head else logits(ids_BT)
    log_probs: list[Tensor] = []
    greedy: list[Tensor] = []
    device = ids_BT.device
    for rows, columns, targets in zip(
        *(part.to(device).split(CHUNK_TOKENS) for part in (*where, targets_N)), strict=True
    ):
        picked_BN = outputs_BT[rows, columns][None]
        logits_NV = (head(picked_BN) if hidden and head else picked_BN)[0].float()
        of_targets_N = logits_NV.gather(-1, targets[:, None])[:, 0]
        log_probs.append((of_targets_N - logits_NV.logsumexp(-1)).cpu())
        greedy.append((logits_NV.argmax(-1) == targets).cpu())
    return torch.cat(log_probs), torch.cat(greedy)


class Row(TypedDict):
    """One item's outcome, as a line of the samples file holds it."""

    i: int
    label: int
    log_likelihoods: list[float]
    pred: int
    pred_norm: int


@dataclass(frozen=True)
class Accuracy:
    """How often the right choice was the most likely one; fractions, not per cent."""

    acc: float
    """By log-likelihood."""
    acc_norm: float
    """By log-likelihood divided by the ending's length."""
    stderr: float | None
    """Standard error of `acc`; None for a single item, which has none."""
    stderr_norm: float | None
    """Standard error of `acc_norm`."""
    n: int
    """Items scored."""
    truncated: int
    """Items of which a choice was too long for the model and was cut."""
    rows: list[Row]
    """Item by item, in order."""


def multiple_choice(
    logits: Logits,
    items: Sequence[Item],
    *,
    context: int,
    batch_tokens: int,
    device: torch.device | str,
    stop: Stop | None = None,
    quiet: bool = False,
) -> Accuracy:
    """Let the model choose in every item, and count how often it is right.

    The arguments and errors are those of `log_likelihoods`.

    Raises:
        TaskError: there is no item, or the model's numbers are none.
    """
    if not items:
        raise TaskError("no item to score: a task needs at least one")
    scores = iter(
        log_likelihoods(
            logits,
            [pair for item in items for pair in item.pairs],
            context=context,
            batch_tokens=batch_tokens,
            device=device,
            stop=stop,
            quiet=quiet,
        )
    )
    rows: list[Row] = []
    truncated = 0
    for i, item in enumerate(items):
        choices = [next(scores) for _ in item.pairs]
        sums = [choice.log_likelihood for choice in choices]
        means = [
            total / length if length else -math.inf for total, length in zip(sums, item.lengths, strict=True)
        ]
        if any(map(math.isnan, sums)):
            raise TaskError(
                f"item {i}: the log-likelihoods are {sums}; the model has diverged, score another"
            )
        truncated += any(choice.cut for choice in choices)
        rows.append(
            {
                "i": i,
                "label": item.label,
                "log_likelihoods": sums,
                "pred": sums.index(max(sums)),
                "pred_norm": means.index(max(means)),
            }
        )
    return summarise(rows, truncated)


def summarise(rows: list[Row], truncated: int) -> Accuracy:
    """Count how often the outcomes of items are right; those of several processes may be joined first."""
    n = len(rows)
    acc = sum(row["pred"] == row["label"] for row in rows) / n
    acc_norm = sum(row["pred_norm"] == row["label"] for row in rows) / n
    return Accuracy(
        acc=acc,
        acc_norm=acc_norm,
        stderr=_stderr(acc, n),
        stderr_norm=_stderr(acc_norm, n),
        n=n,
        truncated=truncated,
        rows=rows,
    )


def _stderr(fraction: float, n: int) -> float | None:
    """Return the sample standard error of a mean of n zeros and ones, as lm-evaluation-harness does."""
    return math.sqrt(fraction * (1 - fraction) / (n - 1)) if n > 1 else None


@dataclass(frozen=True)
class Loss:
    """The sums of a validation pass; those of several processes add up."""

    nats: float
    """Summed cross entropy of the targets."""
    tokens: int
    """Targets, end-of-text among them."""
    text_bytes: int | None
    """UTF-8 bytes of text that the targets stand for; None where the tokenizer was not given."""

    @property
    def per_token(self) -> float:
        """Nats a token.

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
        """Bits for a byte of text, end-of-text paid for too: comparable across tokenizers."""
        return self.nats / math.log(2) / self.text_bytes if self.text_bytes else None


@torch.inference_mode()
def mean_loss(
    logits: Logits,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str,
    token_bytes: npt.NDArray[np.integer] | None = None,
    stop: Stop | None = None,
    quiet: bool = False,
) -> Loss:
    """Return the cross entropy of batches of (ids_BT, targets_BT); of none, sums of zero.

    Args:
        logits: a causal model.
        batches: int64 ids and what follows each.
        device: where the model is.
        token_bytes: the UTF-8 bytes that each id stands for, for bits per byte.
        stop: asked before each batch.
        quiet: show no progress; for every process but the first.

    Raises:
        StopEvaluation: `stop` returned true.
    """
    nats, tokens, text_bytes = 0.0, 0, 0
    with _progress("validating", None, " tokens", quiet) as progress:
        for ids_BT, targets_BT in batches:
            _heed(stop)
            where = torch.unravel_index(torch.arange(ids_BT.numel()), ids_BT.shape)
            targets_N = targets_BT.flatten()
            log_probs_N, _ = _predictions(logits, ids_BT.to(device), (where[0], where[1]), targets_N)
            nats -= log_probs_N.double().sum().item()
            tokens += len(targets_N)
            if token_bytes is not None:
                text_bytes += int(token_bytes[targets_N.cpu().numpy()].sum())
            progress.advance(len(targets_N))
    return Loss(nats, tokens, text_bytes if token_bytes is not None else None)
