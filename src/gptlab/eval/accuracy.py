"""How often the right choice is the likeliest, and by how much."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from gptlab.errors import TaskError
from gptlab.eval.item import Item
from gptlab.eval.score import Score, Stop, log_likelihoods
from gptlab.model.causal_lm import CausalLM
from gptlab.progress import Progress

# Items are built and scored in windows of about this many tokens, so that memory does not grow with their number.
WINDOW_TOKENS = 1 << 18
LARGEST_NATS = 700.0  # e to the power of more is no float
SAMPLE = ("i", "label", "log_likelihoods", "pred", "pred_norm")
"""What a samples file says of an item."""


class ItemResult(TypedDict):
    """One item's outcome."""

    i: int
    label: int
    log_likelihoods: list[float]
    pred: int
    """The choice with the highest log-likelihood; of a single choice -1 if the model would not write it."""
    pred_norm: int | None
    """The choice with the highest log-likelihood per unit of length; None if the task has no such unit."""
    margin: float | None
    """The right choice's log-likelihood per unit of length, minus the mean of the wrong ones'."""
    answer_bits_per_byte: float | None
    """Bits that the right choice costs, over its bytes of UTF-8; None if these are not known."""


@dataclass(frozen=True)
class Accuracy:
    """How often the right choice was the most likely one; fractions, not per cent.

    Each number has its standard error, which is None for a single item; the perplexity's is from that of its logarithm.
    """

    acc: float
    """By log-likelihood."""
    acc_norm: float | None
    """By log-likelihood divided by the ending's length; None if the task does not divide."""
    stderr: float | None
    stderr_norm: float | None
    margin: float | None
    """Nats per unit of length by which the right choice is likelier than the wrong ones on average.

    It moves before accuracy does, and is zero for any model that cannot tell the choices apart, whatever its loss;
    measured against the likeliest wrong choice it would only follow the loss.
    """
    stderr_margin: float | None
    answer_bits_per_byte: float | None
    """Mean over the items of the right choice's negative log2-likelihood over its bytes of UTF-8, with the space before
    it; lower is better. It is less noisy than accuracy.

    Source: `bits_per_byte_corr` in allenai/olmes and allenai/signal-and-noise (https://arxiv.org/abs/2508.13144).
    """
    answer_bits_per_byte_stderr: float | None
    perplexity: float | None
    """Of the answers, where the model is to write them: e to the power of the mean negative log-likelihood."""
    perplexity_stderr: float | None
    n: int
    """Items scored."""
    truncated: int
    """Items with a choice that was too long for the model and was cut."""
    rows: list[ItemResult]
    """Item by item, in order."""

    def samples(self) -> list[dict[str, Any]]:
        """Return the outcome of each item, as lines of a samples file."""
        return [{key: row[key] for key in SAMPLE} for row in self.rows]


def multiple_choice(
    model: CausalLM,
    items: Sequence[Item],
    *,
    context: int,
    device: torch.device | str,
    batch_tokens: int | None = None,
    stop: Stop | None = None,
    quiet: bool = False,
) -> Accuracy:
    """Let the model choose in every item, and count how often it is right.

    Arguments as in `score.log_likelihoods`; `quiet` hides the progress, for every process but the first.

    Raises:
        TaskError: there is no item, or the model's numbers are NaN.
        StopEvaluation: `stop` returned true.
    """
    rows: list[ItemResult] = []
    truncated = 0
    with Progress("scoring", len(items), " items", quiet=quiet) as progress:
        for window in _windows(items):
            choices = len(window[0].pairs)
            scores = iter(
                log_likelihoods(
                    model,
                    [pair for item in window for pair in item.pairs],
                    context=context,
                    device=device,
                    batch_tokens=batch_tokens,
                    stop=stop,
                    advance=lambda pairs, choices=choices: progress.advance(pairs / choices),
                )
            )
            for item in window:
                choice = [next(scores) for _ in item.pairs]
                rows.append(_row(len(rows), item, choice))
                truncated += any(score.cut for score in choice)
    return summarise(rows, truncated)


def _windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    window: list[Item] = []
    tokens = 0
    for item in items:
        window.append(item)
        # A context that pairs share counts once.
        tokens += len({id(before): before for before, _ in item.pairs}) * len(item.pairs[0][0])
        tokens += sum(len(ending) for _, ending in item.pairs)
        if tokens >= WINDOW_TOKENS:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _row(i: int, item: Item, choice: Sequence[Score]) -> ItemResult:
    sums = [score.log_likelihood for score in choice]
    # Of an answer longer than the context only its end is scored, which is taken to have its share of the bytes.
    answer_bytes = (item.answer_bytes or 0) * choice[item.label].tokens / len(item.pairs[item.label][1])
    if any(map(math.isnan, sums)):
        raise TaskError(f"item {i}: the log-likelihoods are {sums}; the model has diverged; score another")
    row: ItemResult = {
        "i": i,
        "label": item.label,
        "log_likelihoods": sums,
        "pred": sums.index(max(sums)) if len(sums) > 1 else choice[0].greedy - 1,
        "pred_norm": None,
        "margin": None,
        "answer_bits_per_byte": -sums[item.label] / math.log(2) / answer_bytes if answer_bytes else None,
    }
    if item.lengths:
        means = [
            total / length if length else -math.inf for total, length in zip(sums, item.lengths, strict=True)
        ]
        wrong = [value for choice, value in enumerate(means) if choice != item.label and math.isfinite(value)]
        right = means[item.label]
        row["pred_norm"] = means.index(max(means))
        row["margin"] = right - sum(wrong) / len(wrong) if wrong and math.isfinite(right) else 0.0
    return row


def summarise(rows: list[ItemResult], truncated: int) -> Accuracy:
    """Summarise the outcomes of items; join several processes' outcomes first.

    Raises:
        TaskError: there is no item.
    """
    if not rows:
        raise TaskError("no item to score: a task needs at least one")
    acc, stderr = mean([row["pred"] == row["label"] for row in rows])
    acc_norm, stderr_norm = _mean_known(
        [None if row["pred_norm"] is None else row["pred_norm"] == row["label"] for row in rows]
    )
    margin, stderr_margin = _mean_known([row["margin"] for row in rows])
    bits, stderr_bits = _mean_known([row["answer_bits_per_byte"] for row in rows])
    perplexity, stderr_perplexity = None, None
    if all(len(row["log_likelihoods"]) == 1 for row in rows):
        nats, error = mean([-row["log_likelihoods"][0] for row in rows])
        perplexity = math.exp(nats) if nats < LARGEST_NATS else math.inf
        stderr_perplexity = error * perplexity if error is not None else None
    return Accuracy(
        acc=acc,
        acc_norm=acc_norm,
        stderr=stderr,
        stderr_norm=stderr_norm,
        margin=margin,
        stderr_margin=stderr_margin,
        answer_bits_per_byte=bits,
        answer_bits_per_byte_stderr=stderr_bits,
        perplexity=perplexity,
        perplexity_stderr=stderr_perplexity,
        n=len(rows),
        truncated=truncated,
        rows=rows,
    )


def _mean_known(values: Sequence[float | int | None]) -> tuple[float | None, float | None]:
    """Return the mean and its error; None for both if a value is not known."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else (None, None)


def mean(values: Sequence[float | int]) -> tuple[float, float | None]:
    """Return the mean and its standard error (None for a single value), as lm-evaluation-harness does."""
    n = len(values)
    average = math.fsum(values) / n
    if n == 1:
        return average, None
    return average, math.sqrt(math.fsum((value - average) ** 2 for value in values) / (n - 1) / n)
