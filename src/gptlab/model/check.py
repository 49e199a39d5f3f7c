"""Self-tests of an architecture: `gptlab check RECIPE`.

A broken variant still trains and its loss still falls: a RoPE that rotated by head instead of by time was
published. Each check answers one question that the loss does not. Most of them use a small model of the same
architecture, so that they take seconds on a laptop for any size.
Axes: B batch, T time, H heads, K head dimension, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.gpt import GPT, NORM_ORDERS, ModelConfig
from gptlab.model.loss import next_token_loss
from gptlab.model.mlp import MLPS
from gptlab.model.norm import NORMS
from gptlab.model.position import POSITIONS, Position
from gptlab.model.roles import role
from gptlab.model.size import measure
from gptlab.model.unset import ShapesOnly
from gptlab.progress import Progress

# In tests, float32 noise stayed below 1e-5 of the logits' spread, and real dependences above a tenth of it.
NOISE = 1e-4
EFFECT = 1e-2
NEAR_UNIFORM = 0.1


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    name: str
    status: Literal["passed", "failed", "exempt"]
    detail: str
    """One line: the measurement, its bound and the model, or why the check does not apply."""

    @property
    def passed(self) -> bool:
        """Whether the check found no fault; an exempt model has none."""
        return self.status != "failed"


def run_checks(config: ModelConfig) -> list[CheckResult]:
    """Run every check on a configuration."""
    results: list[CheckResult] = []
    with Progress("checking", total=len(CHECKS), unit=" checks") as progress:
        for name, check in CHECKS.items():
            results.append(attempt(name, partial(check, config)))
            progress.advance()
    return results


def attempt(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """Run a check; a variant that cannot run fails it, and others may still show why."""
    try:
        return check()
    except Exception as error:
        line = " ".join(str(error).split())
        return CheckResult(name, "failed", f"raised {type(error).__name__}: {line}")


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small model with every switch of `config` and its query heads per key/value head.

    It has at most 2 layers, 4 key/value heads and 16 channels per head; its context is 64, its vocabulary 257.
    """
    kv_heads, head_dim = min(config.kv_heads, 4), min(config.head_dim, 16)
    n_head = config.n_head // config.kv_heads * kv_heads
    n_embd = n_head * head_dim
    n_hidden = config.n_hidden and max(1, round(config.n_hidden * n_embd / config.n_embd))
    return replace(
        config,
        n_layer=min(config.n_layer, 2),
        n_head=n_head,
        n_kv_head=kv_heads,
        n_embd=n_embd,
        n_hidden=n_hidden,
        context=64,
        vocab_size=257,
    )


@torch.no_grad()
def causality(config: ModelConfig) -> CheckResult:
    """Logits must not change when later tokens do, wherever the change begins."""
    small = shrink(config)
    model = _lively(small)
    time = torch.arange(small.context)
    ids_T = _distinct_ids(small)[0]
    # Row i keeps the tokens up to position i and changes all later ones.
    kept_BT = time <= time[:-1, None]
    changed_BT = torch.where(kept_BT, ids_T, (ids_T + 1) % small.vocab_size)
    change_BT = _distance(model(changed_BT), model(ids_T.expand_as(changed_BT)))
    leak, seen = change_BT[kept_BT].max().item(), change_BT.amax(1).min().item()
    return _judge(
        "causality",
        leak <= NOISE and seen >= EFFECT,
        f"a later token changes earlier logits by {leak:.1e} (at most {NOISE:.0e}), "
        f"its own and later ones by {seen:.2g} of their spread (at least {EFFECT:g})",
        small,
    )


@torch.no_grad()
def order(config: ModelConfig) -> CheckResult:
    """The last logits of a single block must change when earlier tokens are shuffled.

    In a deeper stack the causal mask alone reveals some of the order, as each token has seen a different past. A
    single block learns the order from its position encoding only.

    Source: Kazemnejad et al. (2023), https://arxiv.org/abs/2305.19466, for order without an encoding.
    """
    if config.position == "none":
        return CheckResult("order", "exempt", "position = none: only the causal mask gives the order")
    small = replace(shrink(config), n_layer=1)
    model = _lively(small)
    ids_BT = _distinct_ids(small)
    earlier = torch.randperm(small.context - 1, generator=_seeded())
    shuffled_BT = torch.cat((ids_BT[:, earlier], ids_BT[:, -1:]), 1)
    change = _distance(model(shuffled_BT)[:, -1], model(ids_BT)[:, -1]).min().item()
    return _judge(
        "order",
        change >= EFFECT,
        f"shuffling earlier tokens changes the last logits by {change:.2g} of their spread "
        f"(at least {EFFECT:g})",
        small,
    )


@torch.no_grad()
def rotation(config: ModelConfig) -> CheckResult:
    """Queries and keys must be rotated by their position, alike in all rows and heads."""
    small = shrink(config)
    position = _lively(small).position
    if not _rotates(position):
        return _unrotated("rotation", config)
    vector_K = F.normalize(torch.randn(small.head_dim, generator=_seeded()), dim=0)
    rotated_BHTK = position.rotate(vector_K.expand(2, small.n_head, small.context, small.head_dim), 0)
    rotated_TK = rotated_BHTK[0, 0]
    heads = (rotated_BHTK - rotated_TK).abs().max().item()
    neighbours = (rotated_TK[1:] - rotated_TK[:-1]).norm(dim=-1).min().item()
    scores_TT = rotated_TK @ rotated_TK.T
    distances = (scores_TT[1:, 1:] - scores_TT[:-1, :-1]).abs().max().item()
    return _judge(
        "rotation",
        heads <= NOISE and neighbours >= EFFECT and distances <= NOISE,
        f"one rotated vector differs between heads and rows by {heads:.1e} (at most {NOISE:.0e}), between "
        f"neighbouring positions by {neighbours:.2g} (at least {EFFECT:g}), its products at equal distance by "
        f"{distances:.1e} (at most {NOISE:.0e})",
        small,
    )


@torch.no_grad()
def relative_shift(config: ModelConfig) -> CheckResult:
    """Logits must not change when every query and key is rotated as if the text began later."""
    small = shrink(config)
    model = _lively(small)
    rotate, shift = model.position.rotate, small.context // 2
    if not _rotates(model.position):
        return _unrotated("relative_shift", config)
    ids_BT = _distinct_ids(small)[:, :shift]
    logits_BTV = model(ids_BT)
    model.position.rotate = lambda x_BHTK, positions: rotate(x_BHTK, positions + shift)
    change = _distance(model(ids_BT), logits_BTV).max().item()
    return _judge(
        "relative_shift",
        change <= NOISE,
        f"shifted by {shift} positions, the logits differ by {change:.1e} of their spread (at most {NOISE:.0e})",
        small,
    )


@torch.no_grad()
def cache(config: ModelConfig) -> CheckResult:
    """Greedy text must be the same with a key/value cache, however the tokens are split."""
    small = shrink(config)
    model = _lively(small)
    n_prompt = small.context // 4
    ids_BT = _distinct_ids(small)[:, :n_prompt]
    while ids_BT.shape[1] < small.context:
        ids_BT = torch.cat((ids_BT, model(ids_BT)[:, -1:].argmax(-1)), 1)
    logits_BTV = model(ids_BT)

    batch, total = ids_BT.shape
    changes: list[Tensor] = []
    same_BT = torch.ones_like(ids_BT[:, n_prompt:], dtype=torch.bool)
    for first, then in product((1, n_prompt, total - 7), (1, 3, total)):
        layers = model.new_cache(batch, total)
        pieces = [ids_BT[:, :first], *ids_BT[:, first:].split(then, 1)]
        cached_BTV = torch.cat([model.head(model.hidden_states(piece, layers)) for piece in pieces], 1)
        changes.append(_distance(cached_BTV, logits_BTV).max())
        # Equal choices at every step of one text mean equal generations, by induction.
        same_BT &= cached_BTV[:, n_prompt - 1 : -1].argmax(-1) == ids_BT[:, n_prompt:]
    change, same = torch.stack(changes).max().item(), int(same_BT.sum())
    return _judge(
        "cache",
        change <= NOISE and same == same_BT.numel(),
        f"with a cache and {len(changes)} ways to split the text, logits differ by {change:.1e} of their "
        f"spread (at most {NOISE:.0e}), and {same} of {same_BT.numel()} greedy tokens are equal (all must)",
        small,
    )


def gradients(config: ModelConfig) -> CheckResult:
    """Every parameter must receive a gradient, and so must every row of a matrix, or a dead half could hide."""
    small = shrink(config)
    # The batch holds every token and every position, or their rows could not be reached.
    n_row = -(-small.vocab_size // small.context)
    ids_BT = (torch.randperm(n_row * small.context, generator=_seeded()) % small.vocab_size).view(n_row, -1)
    reached: dict[str, Tensor] = {}
    # Several draws of the weights, as a ReLU may be inactive in one.
    for seed in range(4):
        model = _lively(small, seed)
        _loss(model, ids_BT, ids_BT.roll(-1, 1)).backward()
        for name, parameter in model.named_parameters():
            reached[name] = _reached_rows(parameter) | reached.get(name, torch.tensor(False))
    dead = [name for name, rows in reached.items() if not rows.all()]
    return _judge(
        "gradients",
        not dead,
        f"{len(reached) - len(dead)} of {len(reached)} parameters receive a gradient in every row (all must)"
        + (f"; not {', '.join(dead)}" if dead else ""),
        small,
    )


@torch.no_grad()
def initial_loss(config: ModelConfig) -> CheckResult:
    """The loss must start near that of a uniform guess.

    The model keeps its width and vocabulary, which matter, but not its depth, which the initialisation cancels out.
    """
    shallow = replace(config, n_layer=min(config.n_layer, 2), context=64)
    model = _initial(shallow)
    ids_BT = torch.randint(shallow.vocab_size, (4, 64), generator=_seeded())
    targets_BT = torch.randint(shallow.vocab_size, (4, 64), generator=_seeded(1))
    loss = _loss(model, ids_BT, targets_BT).item()
    uniform = math.log(shallow.vocab_size)
    return _judge(
        "initial_loss",
        abs(loss - uniform) <= NEAR_UNIFORM * uniform,
        f"{loss:.3f} nats per token, ln(V) = {uniform:.3f} (within {NEAR_UNIFORM:.0%})",
        shallow,
        kind="shallow",
    )


def size(config: ModelConfig) -> CheckResult:
    """The model, and a small one's checkpoint, must hold as many numbers as their parts add up to."""
    small = shrink(config)
    held = sum(tensor.numel() for tensor in _initial(small).state_dict().values())
    whole, expected = measure(config).parameters, _sum_of_parts(config)
    return _judge(
        "size",
        whole == expected and held == _sum_of_parts(small),
        f"{whole:,} parameters, {expected:,} in its parts (must be equal); "
        f"{held:,} in a small model's checkpoint, {_sum_of_parts(small):,} in its parts (must be equal)",
        config,
        kind="full",
    )


def _judge(name: str, good: bool, detail: str, config: ModelConfig, *, kind: str = "shrunken") -> CheckResult:
    shape = f"n_layer = {config.n_layer}, n_embd = {config.n_embd}, vocab_size = {config.vocab_size}"
    return CheckResult(name, "passed" if good else "failed", f"{detail}; {kind} model: {shape}")


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _initial(config: ModelConfig) -> GPT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT(config)


@torch.no_grad()
def _lively(config: ModelConfig, seed: int = 0) -> GPT:
    # At its initial weights a model hardly attends and may have zero matrices, so that a broken part hardly shows.
    # Embeddings are large, as a post-norm block reads them unnormalised.
    model = _initial(config)
    generator = _seeded(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        match role(name).kind:
            case "gain" | "bias":
                parameter.add_(0.02 * noise)
            case "embedding":
                parameter.copy_(0.5 * noise)
            case "head" | "matrix":
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model


def _distinct_ids(config: ModelConfig) -> Tensor:
    order_V = torch.randperm(config.vocab_size, generator=_seeded(1))
    return order_V[: 2 * config.context].view(2, config.context)


def _distance(logits: Tensor, other: Tensor) -> Tensor:
    return (logits - other).abs().amax(-1) / other.std()


def _rotates(position: Position) -> bool:
    return type(position).rotate is not Position.rotate


def _unrotated(name: str, config: ModelConfig) -> CheckResult:
    return CheckResult(name, "exempt", f"position = {config.position} does not rotate queries and keys")


def _loss(model: GPT, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    total = next_token_loss(
        model.hidden_states(ids_BT),
        model.head_weight_VD,
        targets_BT,
        logit_soft_cap=model.config.logit_soft_cap,
    )
    return total / targets_BT.numel()


def _reached_rows(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.tensor(False)
    # A vector counts as one row, as the softmax cancels the bias of a key that is not rotated.
    rows = parameter.grad if parameter.ndim == 2 else parameter.grad[None]
    return (rows != 0).any(-1) & rows.isfinite().all(-1)


def _sum_of_parts(config: ModelConfig) -> int:
    c = config
    with ShapesOnly():
        norm = _count(NORMS[c.norm](c.n_embd, eps=c.norm_eps, bias=c.bias))
        head_norm = _count(NORMS[c.norm](c.head_dim, eps=c.norm_eps, bias=False))
        mlp = _count(MLPS[c.mlp](c.n_embd, c.mlp_width, bias=c.bias))
        position = _count(POSITIONS[c.position](c.context, c.n_embd, c.head_dim, theta=c.rope_theta))
    heads = c.n_head + 2 * c.kv_heads
    attention = (c.n_embd + c.bias) * (heads * c.head_dim + c.n_embd) + 2 * c.qk_norm * head_norm
    block = attention + mlp + 2 * norm
    embeddings = c.vocab_size * c.n_embd * (1 if c.tie_embeddings else 2)
    norms = c.embed_norm + NORM_ORDERS[c.norm_order].final_norm
    return embeddings + position + c.n_layer * block + norms * norm


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


CHECKS: dict[str, Callable[[ModelConfig], CheckResult]] = {
    "causality": causality,
    "order": order,
    "rotation": rotation,
    "relative_shift": relative_shift,
    "cache": cache,
    "gradients": gradients,
    "initial_loss": initial_loss,
    "size": size,
}
