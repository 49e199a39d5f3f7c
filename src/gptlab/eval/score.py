"""Log-likelihoods of endings.

Logits are computed only where a token is predicted, and a model that reads trees reads a context once for all its
endings. Logits of any type become float32; autocast is up to the caller.
Axes: B batch, T time, N predicted tokens, U places of prediction, D what the head reads, V
vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from gptlab.eval import tree
from gptlab.eval.item import Pair
from gptlab.machine.memory import in_parts
from gptlab.model.causal_lm import CausalLM

Stop = Callable[[], bool]

# Tokens per batch, padding included. On a CPU more would not fit its caches.
BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
# Rows of float32 logits at a time: on a CPU so few that their memory is reused, not mapped anew.
CHUNK_TOKENS = {"cpu": 128, "cuda": 2048}


class StopEvaluation(Exception):  # noqa: N818 (a request, like StopIteration, not an error)
    """The caller's `stop` returned true; there is no result."""


def heed(stop: Stop | None) -> None:
    """Raise StopEvaluation if `stop` returns true."""
    if stop is not None and stop():
        raise StopEvaluation


def good_batch_tokens(device: torch.device | str) -> int:
    """Return how many tokens a batch should have on a device."""
    return BATCH_TOKENS.get(torch.device(device).type, 8192)


@dataclass(frozen=True)
class Score:
    """A model's score of one ending."""

    log_likelihood: float
    """Sum of the natural logarithms of its tokens' probabilities."""
    tokens: int
    """How many of its tokens were scored: all, unless it is longer than the model's context."""
    greedy: bool
    """Whether each of them is the likeliest token, the first one in a tie."""
    cut: int
    """Tokens dropped from the start of a pair that was too long for the model."""


@torch.inference_mode()
def log_likelihoods(
    model: CausalLM,
    pairs: Sequence[Pair],
    *,
    context: int,
    device: torch.device | str,
    batch_tokens: int | None = None,
    stop: Stop | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Score]:
    """Score the ending of every pair, in the order given; a pair that is too long loses its start.

    Pairs with the same context cost least next to each other.

    Args:
        model: a causal model.
        pairs: contexts and endings.
        context: the longest input that the model takes, in tokens.
        device: where the model is.
        batch_tokens: most tokens in a batch, padding included; a batch holds at least one row.
        stop: checked before each batch.
        advance: called after each batch with the number of pairs scored.

    Raises:
        StopEvaluation: `stop` returned true.
    """
    for number, (before, ending) in enumerate(pairs):
        if not before or not ending:
            raise ValueError(f"choice {number}: {len(before)} ids before {len(ending)}; both need one")
    # Equal pairs once: computed twice they might differ in the last digits and break a tie.
    different = {_key(pair): pair for pair in pairs}
    places = {key: number for number, key in enumerate(different)}
    rows = tree.rows([tree.cut(pair, context) for pair in different.values()], branching=model.reads_trees)
    sums, misses = np.zeros(len(places)), np.zeros(len(places))
    for part in tree.batches(rows, batch_tokens or good_batch_tokens(device)):
        heed(stop)
        for _, (numbers, log_probs, missed) in in_parts(partial(_score, model, device), part):
            sums += np.bincount(numbers, log_probs, len(places))
            misses += np.bincount(numbers, missed, len(places))
        if advance is not None:
            advance(sum(len(row.pairs) for row in part))
    if advance is not None and len(places) < len(pairs):
        advance(len(pairs) - len(places))
    return [
        Score(
            log_likelihood=float(sums[number]),
            tokens=min(len(pair[1]), context),
            greedy=not misses[number],
            cut=tree.excess(pair, context),
        )
        for pair, number in ((pair, places[_key(pair)]) for pair in pairs)
    ]


def _key(pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
    before, ending = pair
    return tuple(before), tuple(ending)


def _score(
    model: CausalLM, device: torch.device | str, rows: Sequence[tree.TreeRow]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return, for every token predicted in a few rows, its pair, log-probability, and whether another is likelier."""
    batch = tree.batch(rows)
    ids_BT, targets_N = batch.ids_BT.to(device), batch.targets_N.to(device)
    token_indices_U, places_N = batch.token_indices_N.to(device).unique_consecutive(return_inverse=True)
    layout: tuple[Tensor, ...] = ()
    if batch.branching:
        positions_BT, parts_BT = batch.positions_BT.to(device), batch.parts_BT.to(device)
        layout = positions_BT, tree.visible(positions_BT, parts_BT)
    (hidden_UD,) = model.hidden_states_at(ids_BT, token_indices_U, *layout)
    log_probs_N, greedy_N = predictions(model, hidden_UD, places_N, targets_N)
    return batch.pairs_N.numpy(), log_probs_N.cpu().double().numpy(), ~greedy_N.cpu().numpy()


def predictions(
    model: CausalLM,
    hidden_UD: Float[Tensor, "U D"],
    places_N: Int[Tensor, " N"],
    targets_N: Int[Tensor, " N"],
) -> tuple[Float32[Tensor, " N"], Bool[Tensor, " N"]]:
    """Return the log-probability of each target at its place, and whether it is the likeliest, the first in a tie.

    Args:
        model: a causal model.
        hidden_UD: its hidden states, a row for each place.
        places_N: the place of each target, in order; several may share one.
        targets_N: the tokens.
    """
    log_probs: list[Tensor] = []
    greedy: list[Tensor] = []
    chunk = CHUNK_TOKENS.get(hidden_UD.device.type, 1024)
    counts = torch.bincount(places_N // chunk).tolist()
    for part_UD, targets, places in zip(
        hidden_UD.split(chunk), targets_N.split(counts), places_N.split(counts), strict=True
    ):
        logits_UV = model.head(part_UD[None])[0].float()
        most_U, local = logits_UV.amax(-1), places % chunk
        of_targets_N = logits_UV[local, targets]
        likeliest = of_targets_N == most_U[local]
        # argmax decides, but takes several times as long as amax, so only a few rows need it.
        few = likeliest.nonzero()[:, 0]
        likeliest[few] = logits_UV[local[few]].argmax(-1) == targets[few]
        # Equals torch.logsumexp, which takes six times as long on a CPU.
        log_sum_U = logits_UV.sub_(most_U[:, None]).exp_().sum(-1).log_().add_(most_U)
        log_probs.append(of_targets_N - log_sum_U[local])
        greedy.append(likeliest)
    return torch.cat(log_probs), torch.cat(greedy)
