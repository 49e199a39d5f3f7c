"""What a run measures along the way: the validation loss, its recipe's tasks, and sample texts.

Every process does its share, and all leave an evaluation together when one of them is asked to stop.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptlab.data.batches import validation_batches, validation_windows
from gptlab.data.mixture import Sets
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import GptlabError
from gptlab.eval import tasks
from gptlab.eval.accuracy import ItemResult, summarise
from gptlab.eval.score import Stop, good_batch_tokens
from gptlab.eval.validation import Loss, mean_loss, windows_sha256
from gptlab.machine.device import DTypeName
from gptlab.machine.world import World
from gptlab.model.autocast import AutocastModel
from gptlab.model.gpt import GPT
from gptlab.recipe import RunConfig
from gptlab.runs.metrics import ACCURACIES, main_accuracy
from gptlab.sample import sample_text
from gptlab.train.evaluation import Evaluation
from gptlab.train.interrupt import Interrupt, together

Rows = list[dict[str, Any]]


def evaluations(
    config: RunConfig,
    model: GPT,
    dtype: DTypeName,
    sets: Sets,
    world: World,
    interrupt: Interrupt,
) -> list[Evaluation]:
    """Build the evaluations of a recipe; nothing is measured yet."""
    tokenizer, scored = sets.tokenizer, AutocastModel(model, dtype, world.device)
    held_out = _held_out(sets, config.eval.val_tokens)

    def validate() -> Rows | None:
        def share(stop: Stop) -> list[Loss]:
            context, most = config.model.context, config.eval.val_tokens
            return [
                mean_loss(
                    scored,
                    validation_batches(
                        one.val,
                        max(1, good_batch_tokens(world.device) // context),
                        _share(most, one.share),
                        rank=world.rank,
                        processes=world.size,
                    ),
                    device=world.device,
                    total=validation_windows(one.val, _share(most, one.share)) * context // world.size,
                    token_bytes=tokenizer.token_bytes,
                    stop=stop,
                    quiet=not world.main,
                )
                for one in sets.sets
            ]

        losses = together(share, world, interrupt)
        if losses is None:
            return None
        totals: list[Loss] = []
        for loss in losses:
            nats, tokens, text_bytes = world.sum(loss.nats, loss.tokens, loss.text_bytes or 0)
            totals.append(Loss(nats, int(tokens), int(text_bytes)))
        return [_validation_row(sets, totals) | {"items_sha256": held_out}]

    def score(task: tasks.Task) -> Rows | None:
        def share(stop: Stop) -> tuple[list[ItemResult], int]:
            if not task.items:
                return [], 0
            score = task.evaluate(scored, device=world.device, stop=stop, quiet=not world.main)
            return score.rows, score.truncated

        found = together(share, world, interrupt)
        if found is None:
            return None
        own, cut = found
        rows: list[ItemResult] = [{**row, "i": world.rank + world.size * row["i"]} for row in own]
        rows = sorted(world.gather(rows), key=lambda row: row["i"])
        (truncated,) = world.sum(cut)
        accuracy = summarise(rows, int(truncated))
        return [task.metrics(accuracy)]

    def write() -> Rows | None:
        def share(stop: Stop) -> Rows:
            rows: Rows = []
            for prompt in config.sample.prompts if world.main else ():
                if stop():
                    break
                texts = sample_text(model, tokenizer, prompt, **config.sample.options())
                rows += [{"prompt": prompt, "text": text} for text in texts]
            return rows

        return together(share, world, interrupt)

    inputs = task_inputs(config, tokenizer, config.eval.protocol)
    built = tasks.build_all(config.eval.tasks, inputs)
    # Every process has its share of the items, which are built once and used many times.
    built = [replace(task, items=list(task.items[world.rank :: world.size])) for task in built]
    found = [Evaluation("val", "val", _if_it_can_be(validate), _said_loss)]
    found += [
        Evaluation("eval", task.name, _if_it_can_be(lambda task=task: score(task)), _said_score, task.asks)
        for task in built
    ]
    if config.sample.prompts:
        rows = len(config.sample.prompts)
        found.append(Evaluation("sample", "sample", _if_it_can_be(write), _said_sample, rows=rows))
    return found


def task_inputs(config: RunConfig, tokenizer: Tokenizer, protocol: str) -> tasks.Inputs:
    """Return what the tasks of a recipe are made from."""
    file, folder = config.eval.hellaswag_file, config.eval.task_data
    return tasks.Inputs(
        tokenizer=tokenizer,
        context=config.model.context,
        data=Path(config.data.parts[0].path),
        file=Path(file) if file is not None else None,
        task_data=Path(folder) if folder is not None else None,
        protocol=protocol,
        limit=config.eval.limit,
    )


def _share(tokens: int | None, share: float) -> int | None:
    return None if tokens is None else max(1, round(tokens * share))


def _held_out(sets: Sets, val_tokens: int | None) -> str:
    """Return a hash of all windows that the run validates on and of their weights."""
    found = [(windows_sha256(one.val, _share(val_tokens, one.share)), one.share) for one in sets.sets]
    return found[0][0] if len(found) == 1 else hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _validation_row(sets: Sets, losses: list[Loss]) -> dict[str, Any]:
    """Weight the losses of the sets as they are drawn; for several, list each."""
    if len(losses) == 1:
        return {"loss": losses[0].per_token, "bits_per_byte": losses[0].bits_per_byte}
    shares = [one.share for one in sets.sets]
    nats = sum(share * loss.per_token for share, loss in zip(shares, losses, strict=True))
    text_bytes = sum(
        share * (loss.text_bytes or 0) / loss.tokens for share, loss in zip(shares, losses, strict=True)
    )
    return {
        "loss": nats,
        "bits_per_byte": nats / math.log(2) / text_bytes if text_bytes else None,
        "sets": {one.path: loss.per_token for one, loss in zip(sets.sets, losses, strict=True)},
    }


def _said_loss(row: Mapping[str, Any]) -> str:
    bits = f", {row['bits_per_byte']:.3f} bits per byte" if row["bits_per_byte"] else ""
    parts = [f"{loss:.4f} on {path}" for path, loss in row.get("sets", {}).items()]
    by_set = f" ({', '.join(parts)})" if parts else ""
    return f"validation loss {row['loss']:.4f}{bits}{by_set}"


def _said_score(row: Mapping[str, Any]) -> str:
    name = main_accuracy(row)
    error = row[ACCURACIES[name]]
    said = f"{row['task']} {100 * row[name]:.1f} %" + (f" +- {100 * error:.1f}" if error is not None else "")
    bits = row["answer_bits_per_byte"]
    return said if bits is None else f"{said}, right answer {bits:.3f} bits per byte"


def _said_sample(row: Mapping[str, Any]) -> str:
    return f"sample after {row['prompt']!r}: {row['text']!r}"


def _if_it_can_be(measure: Callable[[], Rows | None]) -> Callable[[], Rows | None]:
    def measured() -> Rows | None:
        try:
            return measure()
        except GptlabError as error:
            # The training loop handles a diverged model; what cannot be measured is left out.
            print(f"not measured: {error}", flush=True)
            return []

    return measured
