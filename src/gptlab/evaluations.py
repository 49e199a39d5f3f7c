"""What a run measures on the way: the validation loss, the tasks of its recipe, and texts to read.

Every process does its share, and all leave an evaluation together when one of them is asked to stop.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptlab.data.batches import Windows, validation_batches
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import GptlabError
from gptlab.eval import tasks
from gptlab.eval.score import Loss, Row, Stop, mean_loss, summarise
from gptlab.model.gpt import GPT
from gptlab.recipe import RunConfig
from gptlab.sample import sample_text
from gptlab.train.device import InFormat, World
from gptlab.train.evaluation import Evaluation
from gptlab.train.interrupt import Interrupt, together

Rows = list[dict[str, Any]]


def evaluations(
    config: RunConfig,
    model: GPT,
    logits: InFormat,
    tokenizer: Tokenizer,
    held_out: Windows,
    world: World,
    interrupt: Interrupt,
) -> list[Evaluation]:
    """Build the evaluations of a recipe; nothing is measured yet."""

    def validate() -> Rows | None:
        def share(stop: Stop) -> Loss:
            return mean_loss(
                logits,
                validation_batches(
                    held_out,
                    max(1, tasks.BATCH_TOKENS // config.model.context),
                    config.eval.val_tokens,
                    rank=world.rank,
                    processes=world.size,
                ),
                device=world.device,
                token_bytes=tokenizer.token_bytes,
                stop=stop,
                quiet=not world.main,
            )

        loss = together(share, world, interrupt)
        if loss is None:
            return None
        nats, tokens, text_bytes = world.sum(loss.nats, loss.tokens, loss.text_bytes or 0)
        total = Loss(nats, int(tokens), int(text_bytes))
        return [{"loss": total.per_token, "bits_per_byte": total.bits_per_byte}]

    def score(task: tasks.Task) -> Rows | None:
        part = replace(task, items=task.items[world.rank :: world.size])

        def share(stop: Stop) -> tuple[list[Row], int]:
            if not part.items:
                return [], 0
            result = part.evaluate(logits, device=world.device, stop=stop, quiet=not world.main)
            return result.rows, result.accuracy.truncated

        scored = together(share, world, interrupt)
        if scored is None:
            return None
        own, cut = scored
        rows: list[Row] = [{**row, "i": world.rank + world.size * row["i"]} for row in own]
        rows = sorted(world.gather(rows), key=lambda row: row["i"])
        (truncated,) = world.sum(cut)
        accuracy = summarise(rows, int(truncated))
        return [tasks.Result(task.name, task.protocol, task.shots, accuracy).metrics()]

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

    file = config.eval.hellaswag_file
    built = [
        tasks.build(
            name,
            tokenizer=tokenizer,
            context=config.model.context,
            data=Path(config.data.path),
            file=Path(file) if file is not None else None,
            protocol=config.eval.protocol,
            limit=config.eval.limit,
        )
        for name in config.eval.tasks
    ]
    found = [Evaluation("val", "val", _if_it_can_be(validate))]
    found += [Evaluation("eval", task.name, _if_it_can_be(lambda task=task: score(task))) for task in built]
    if config.sample.prompts:
        rows = len(config.sample.prompts)
        found.append(Evaluation("sample", "sample", _if_it_can_be(write), rows))
    return found


def _if_it_can_be(measure: Callable[[], Rows | None]) -> Callable[[], Rows | None]:
    def measured() -> Rows | None:
        try:
            return measure()
        except GptlabError as error:
            # A model that has diverged for a while is the loop's affair; what cannot be measured is left out.
            print(f"not measured: {error}", flush=True)
            return []

    return measured
