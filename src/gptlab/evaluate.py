"""`gptlab eval`: a model of any kind, scored on a task."""

import json
from pathlib import Path
from typing import Any

import torch

from gptlab.data.batches import Windows, validation_batches
from gptlab.errors import ConfigError, TaskError
from gptlab.eval import tasks
from gptlab.eval.hellaswag import PUBLISHED, ProtocolName
from gptlab.eval.score import Logits, mean_loss
from gptlab.saved import load
from gptlab.train.device import DeviceName, DTypeName, InFormat, choose_device


def evaluate(
    model: Path,
    *,
    task: str,
    protocol: ProtocolName,
    shots: int,
    data: Path | None,
    limit: int | None,
    dtype: DTypeName,
    device: DeviceName,
    samples: Path | None,
) -> dict[str, Any]:
    """Score a model, print the result with what makes it comparable, and return it.

    The arguments are those of `gptlab eval`.

    Raises:
        GptlabError: a model, task or data that cannot be used.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: must be at least 1; leave it out for all there is")
    if samples is not None and task == "loss":
        raise ConfigError("--samples: the task loss has no items; leave it out")
    where = choose_device(device)
    network, tokenizer = load(model, device)
    logits = InFormat(network, dtype, where)
    facts: dict[str, Any] = {"model": str(model), "dtype": dtype}
    if task == "loss":
        return facts | _loss(logits, network.context, tokenizer, data, limit, where)
    built = tasks.build(
        task,
        tokenizer=tokenizer,
        context=network.context,
        data=data,
        file=data,
        protocol=protocol,
        shots=shots,
        limit=limit,
    )
    result = built.evaluate(logits, device=where)
    metrics = result.metrics()
    if samples is not None:
        with samples.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in result.rows)
    score = result.accuracy
    print(f"{built.name}, protocol {built.protocol}, {built.shots} shots, {score.n} items, {dtype}")
    print(f"  acc      {_percent(score.acc, score.stderr)}")
    print(f"  acc_norm {_percent(score.acc_norm, score.stderr_norm)}")
    if score.truncated:
        print(
            f"  {score.truncated} items were longer than the context of {network.context} and lost their beginning"
        )
    if task == "hellaswag":
        for line in PUBLISHED:
            if line.protocol == built.protocol:
                scores = {"acc": line.acc, "acc_norm": line.acc_norm}
                said = ", ".join(f"{name} {100 * score:.2f} %" for name, score in scores.items() if score)
                print(f"  published, on all 10,042 items: {line.model} {said} ({line.source})")
    return facts | metrics


def _percent(fraction: float, error: float | None) -> str:
    return f"{100 * fraction:6.2f} %" + (f" +- {100 * error:.2f}" if error is not None else "")


def _loss(
    logits: Logits, context: int, tokenizer: Any, data: Path | None, limit: int | None, where: torch.device
) -> dict[str, Any]:
    if data is None:
        raise TaskError("task loss: is taken on a prepared folder; name it with --data DIR")
    held_out = Windows(data, "val", context)
    held_out.manifest.check_reader(data, tokenizer)
    batches = validation_batches(held_out, max(1, tasks.BATCH_TOKENS // context), limit)
    loss = mean_loss(logits, batches, device=where, token_bytes=tokenizer.token_bytes)
    print(f"loss, {loss.tokens:,} held-out tokens of {data}, context {context}")
    print(
        f"  {loss.per_token:.4f} nats a token"
        + (f", {loss.bits_per_byte:.4f} bits a byte" if loss.bits_per_byte else "")
    )
    return {
        "task": "loss",
        "data": str(data),
        "context": context,
        "loss": loss.per_token,
        "bits_per_byte": loss.bits_per_byte,
        "tokens": loss.tokens,
    }
