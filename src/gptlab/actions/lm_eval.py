"""lm-evaluation-harness around a model; `gptlab lm-eval` is its own command."""

import sys
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from gptlab.actions.scored_model import ScoredModel, open_to_score
from gptlab.errors import GptlabError, TaskError, brief
from gptlab.eval import tasks
from gptlab.model.packed import packed
from gptlab.sample import stream

MISSING = 'this needs lm-evaluation-harness: pip install "gptlab[eval]"'


def harness_module() -> Any:
    """Import what needs lm-evaluation-harness.

    Raises:
        TaskError: it is not installed.
    """
    try:
        from gptlab.eval import harness
    except ImportError as error:
        known = ", ".join((*tasks.TASKS, "loss"))
        raise TaskError(f"tasks other than {known}: {MISSING}") from error
    return harness


def asked_by_harness(model: ScoredModel, arguments: Any = None) -> Any:
    """Return a model as the harness knows models."""
    formats = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    dtype = formats.get(model.model.dtype, torch.float32)
    writer = cache(partial(packed, model.bare_model, dtype))  # made when a task first asks for text

    def write(ids: list[int], **options: Any) -> Iterator[int]:
        return (int(column) for column in stream(writer(), ids, dtype=dtype, **options))

    config = getattr(model.bare_model, "config", model.bare_model)  # transformers' models have it themselves
    return harness_module().HarnessModel(
        model.model,
        model.tokenizer,
        write,
        context=model.context,
        device=model.device,
        path=model.path,
        rows=config.vocab_size,
        asked=arguments,
    )


def lm_eval(words: Sequence[str]) -> dict[str, Any]:
    """Run lm-evaluation-harness's own command line, with the model `gptlab` available.

    `--model gptlab --model_args path=runs/x,dtype=float32` is one of ours, whose batch size gptlab chooses.
    docs/lm_eval.md lists what is honoured.

    Raises:
        TaskError: lm-evaluation-harness is not installed, or fails.
    """
    harness = harness_module()
    harness.HarnessModel.open = from_arguments
    from lm_eval.__main__ import cli_evaluate

    before, sys.argv = sys.argv, ["lm-eval", *words]
    try:
        cli_evaluate()
    except (GptlabError, OSError):
        raise
    except Exception as error:  # it passes on whatever its parts raise
        raise TaskError(f"lm-evaluation-harness stopped ({brief(error)}); change its arguments") from error
    finally:
        sys.argv = before
    return {}


def from_arguments(**given: Any) -> Any:
    """Make the harness's model from `--model_args`."""
    from gptlab.eval.model_arguments import arguments

    asked = arguments(given)
    device: Any = asked.device
    dtype: Any = asked.dtype
    return asked_by_harness(open_to_score(Path(asked.path), device, dtype), asked)
