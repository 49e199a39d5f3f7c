"""The sizes that a budget allows: tokens, expected loss and score, hours, memory; and which of them is best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab.amounts import quantity
from gptlab.data.manifest import Manifest
from gptlab.errors import ConfigError
from gptlab.model.gpt import SIZES
from gptlab.model.size import measure
from gptlab.plan.pace import Pace
from gptlab.plan.surface import (
    BAND,
    CPU_TOKENS,
    HELLASWAG_BAND,
    LARGEST,
    MOST_FLOPS,
    MUON_TOKENS,
    POOLS,
    SMALLEST,
    SURFACES,
    Surface,
    hellaswag,
)
from gptlab.recipe import RunConfig
from gptlab.train.optim import FLOAT32_BYTES, state_bytes
from gptlab.train.parallel import PARALLEL

PROTOCOL = "harness, 0 shots, acc_norm"
RATES = {124e6: 1.0, 355e6: 0.5, 774e6: 0.42, 1.6e9: 0.33}
"""Peak rates over that of 124M, by parameters: Brown et al. (2020), https://arxiv.org/abs/2005.14165, table 2.1."""
ACTIVATION_BYTES = 34
"""A layer, channel and token, in half precision: Korthikanti et al. (2022), https://arxiv.org/abs/2205.05198."""
KEPT = 4  # checkpoints on the disk: the last three and the best
TOKEN_BYTES = 2


@dataclass(frozen=True)
class Option:
    """A size and what it will do with the budget."""

    size: str
    parameters: int
    steps: int
    tokens: int
    epochs: float
    """Passes over the data."""
    loss: float | None
    """Expected validation loss, in nats per token; None where nothing can be predicted."""
    loss_band: tuple[float, float] | None
    hellaswag: float | None
    """Expected accuracy, a fraction."""
    hellaswag_band: tuple[float, float] | None
    protocol: str
    hours: float
    dollars: float | None
    memory_bytes: int
    """Of a device: weights, gradients and optimizer, and the activations of one sequence."""
    parallel: str
    """What several devices share: as the recipe says, or the optimizer's state where it does not fit otherwise."""
    disk_bytes: int
    """Checkpoints and data."""
    why: str | None = None
    """Why nothing is predicted, or why it cannot be trained."""


@dataclass(frozen=True)
class Data:
    """What a plan trains on."""

    name: str
    path: str
    """The folder that a recipe names."""
    surface: Surface
    tokens: float


def data_named(name: str) -> Data:
    """Return the data of a name of SURFACES or of a prepared folder.

    Raises:
        GptlabError: it is neither.
    """
    if name in SURFACES:
        path, tokens = POOLS[name]
        return Data(name, path, SURFACES[name], tokens)
    if not Path(name).is_dir():
        raise ConfigError(
            f"--data {name}: is neither a prepared folder nor one of {', '.join(SURFACES)}; prepare it first"
        )
    tokens = sum(shard.tokens for shard in Manifest.load(Path(name)).split("train"))
    return Data(f"text like FineWeb in {name}", name, SURFACES["fineweb"], tokens)


def sized(config: RunConfig, size: str) -> RunConfig:
    """Return a recipe with another of the named sizes, and the rates that go with it."""
    own, keys = config.model, SIZES[size] | {"context": config.model.context}
    heads = keys["n_head"]
    # As many query heads a key/value head, or a few less where they do not divide.
    shared = next(n for n in range(max(1, heads * own.kv_heads // own.n_head), 0, -1) if heads % n == 0)
    model = replace(own, **keys, n_hidden=None, n_kv_head=shared if own.n_kv_head is not None else None)
    if config.optim.name == "adamw":
        before, now = (_rate(measure(shape).parameters) for shape in (config.model, model))
        optim = replace(config.optim, lr=round(config.optim.lr * now / before, 6))
    else:  # the matrices' rate is the same at every width; a tied embedding's falls with it
        embedding_lr = round(config.optim.embedding_lr * config.model.n_embd / model.n_embd, 6)
        optim = replace(config.optim, embedding_lr=embedding_lr)
    return replace(config, model=model, optim=optim)


def _rate(parameters: int) -> float:
    return next((rate for most, rate in RATES.items() if parameters <= 1.1 * most), min(RATES.values()))


def rows(config: RunConfig, pace: Pace, data: Data, hours: float) -> list[tuple[Option, RunConfig]]:
    """Return what each size makes of a time, the recipe's own first, with its recipe.

    Args:
        config: the recipe.
        pace: of the machine.
        data: what to train on.
        hours: the time.
    """
    own = config.model
    same = [
        name
        for name, shape in SIZES.items()
        if all(getattr(own, key) == n for key, n in shape.items() if key != "context")
    ]
    larger = [name for name in SIZES if name != "tiny" and name not in same]
    return [_row(same[0] if same else "the recipe's own", config, pace, data, hours)] + [
        _row(name, sized(config, name), pace, data, hours) for name in larger
    ]


def _row(name: str, config: RunConfig, pace: Pace, data: Data, hours: float) -> tuple[Option, RunConfig]:
    size, batch = measure(config.model), config.train.batch_tokens
    steps = pace.steps(hours, batch, size.flops_per_token)
    tokens = steps * batch
    used = pace.hours(tokens, size.flops_per_token)
    c = config.model
    state = state_bytes(config.optim, size.counts)
    besides = FLOAT32_BYTES * size.buffers + ACTIVATION_BYTES * c.n_layer * c.n_embd * c.context
    saved = FLOAT32_BYTES * size.parameters + state

    def held(parallel: str) -> int:
        return PARALLEL[parallel].memory_bytes(size.parameters, state, pace.devices) + besides

    memory = held(config.train.parallel)
    if config.train.parallel == "ddp" and pace.devices > 1 and memory > (pace.memory or math.inf):
        config, memory = replace(config, train=replace(config.train, parallel="zero1")), held("zero1")
    why = None
    if steps < 1:
        why = "not one step fits into the time"
    elif pace.memory is not None and memory > pace.memory:
        why = f"needs {quantity(memory, 'B')} of a device's {quantity(pace.memory, 'B')}"
    elif not SMALLEST <= size.parameters <= LARGEST:
        why = f"no published fit reaches {quantity(size.parameters)} parameters"
    elif size.flops_per_token * tokens > MOST_FLOPS:
        why = f"no published fit reaches {size.flops_per_token * tokens:.1e} FLOPs"
    loss = band = score = score_band = None
    if why is None:
        fast = config.optim.name == "muon"
        worth = tokens * (MUON_TOKENS if fast else 1.0)
        expected = data.surface.loss(size.parameters, worth)
        if expected >= math.log(c.vocab_size):  # a guess
            why = "no published fit reaches so few tokens"
        else:
            loss, score = expected, hellaswag(data.surface, size.parameters, worth)
            best = data.surface.loss(size.parameters, tokens * CPU_TOKENS) if fast else loss
            band = (best - BAND, loss + BAND)
            score_band = (score + HELLASWAG_BAND[0], score + HELLASWAG_BAND[1])
    return Option(
        size=name,
        parameters=size.parameters,
        steps=steps,
        tokens=tokens,
        epochs=tokens / data.tokens,
        loss=loss,
        loss_band=band,
        hellaswag=score,
        hellaswag_band=score_band,
        protocol=PROTOCOL,
        hours=used,
        dollars=None if pace.usd_per_hour is None else pace.usd_per_hour * used,
        memory_bytes=memory,
        parallel=config.train.parallel,
        disk_bytes=int(KEPT * saved + TOKEN_BYTES * data.tokens),
        why=why,
    ), config


def best(found: Sequence[Option], data: Data) -> Option | None:
    """Return the row with the lowest loss; of those within the fit's deviation, the smallest model."""
    known = [row for row in found if row.loss is not None]
    if not known:
        return None
    lowest = min(row.loss for row in known if row.loss is not None)
    near = (row for row in known if row.loss is not None and row.loss <= lowest + data.surface.deviation)
    return min(near, key=lambda row: row.parameters)


def table(found: Sequence[Option], chosen: Option | None) -> list[str]:
    """Return the rows as lines, the chosen one marked."""
    lines = [
        (
            "size",
            "parameters",
            "tokens",
            "epochs",
            "loss",
            "HellaSwag %",
            "hours",
            "dollars",
            "memory",
            "disk",
        )
    ]
    for row in found:
        lines.append(
            (
                ("* " if row is chosen else "  ") + row.size,
                quantity(row.parameters),
                quantity(row.tokens),
                f"{row.epochs:.2g}",
                *expected(row),
                f"{row.hours:.3g}",
                "?" if row.dollars is None else f"{row.dollars:.3g}",
                quantity(row.memory_bytes, "B") + (f" ({row.parallel})" if row.parallel != "ddp" else ""),
                quantity(row.disk_bytes, "B"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def expected(row: Option) -> tuple[str, str]:
    """Return loss and score with their bands as text, or why there are none."""
    if row.loss is None or row.loss_band is None or row.hellaswag is None or row.hellaswag_band is None:
        return "-", row.why or "-"
    low, high = row.loss_band
    worst, highest = (100 * bound for bound in row.hellaswag_band)
    return (
        f"{row.loss:.2f} ({low:.2f} to {high:.2f})",
        f"{100 * row.hellaswag:.1f} ({worst:.0f} to {highest:.0f})",
    )
