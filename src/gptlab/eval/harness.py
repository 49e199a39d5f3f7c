"""lm-evaluation-harness on any of our models: the model it asks, and its tasks in this process.

To import this module is to import lm-evaluation-harness, which is there with the extra `eval` only.

Source: lm-evaluation-harness 0.4.13, docs/model_guide.md; models/huggingface.py for what its numbers mean.
"""

import io
import logging
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import cache, partialmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import tqdm
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.evaluator import evaluate as harness_evaluate
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import TaskError
from gptlab.eval import fewshot, task_data
from gptlab.eval.item import Pair
from gptlab.eval.score import Logits, Score, log_likelihoods
from gptlab.progress import Progress

VERSION = version("lm-eval")
NEW_TOKENS = 256  # what lm-evaluation-harness writes where a task does not say how much
# Of a perplexity, whose error has no formula there; it would take 100,000 and minutes.
BOOTSTRAP = 1000


Write = Callable[..., Iterator[int]]
"""Continue ids: `write(ids, max_tokens=, temperature=, top_k=, top_p=)` yields the new ones."""


class HarnessModel(TemplateLM):
    """One of our models, or of transformers', as lm-evaluation-harness asks it."""

    open: ClassVar[Callable[..., "HarnessModel"]]
    """What makes one from `--model_args path=...`; whoever knows how to load models sets it."""

    def __init__(
        self, logits: Logits, tokenizer: Tokenizer, write: Write, *, context: int, device: torch.device
    ) -> None:
        super().__init__()
        self._logits, self._tokenizer, self._write = logits, tokenizer, write
        self._context, self._device = context, device
        self.truncated = 0
        """Requests so far that were longer than the context and lost their beginning."""

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> Any:
        """Load the model that `--model_args` names; sizes of batches are ours to choose."""
        # The command's own --device is CUDA whether there is any or not, unless it is told.
        device = "cpu" if (additional_config or {}).get("device") == "cpu" else "auto"
        return cls.open(**{"device": device, **arg_dict})

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        """Longest input, in tokens."""
        return self._context

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._tokenizer.encode(string)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(list(requests), disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        answers = [
            (score.log_likelihood, score.greedy)
            for score in self._scores([(before, ending) for _, before, ending in requests])
        ]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        windows: list[list[Pair]] = []
        for request in requests:
            (text,) = request.args
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._context,
                context_len=1,
            )
            windows.append(
                [(list(before), list(after)) for before, after in map(make_disjoint_window, rolling)]
            )
        scores = iter(self._scores([pair for pairs in windows for pair in pairs]))
        totals = [sum(next(scores).log_likelihood for _ in pairs) for pairs in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _scores(self, pairs: Sequence[Pair]) -> list[Score]:
        empty = [number for number, pair in enumerate(pairs) if not all(pair)]
        if empty:
            raise TaskError(
                f"request {empty[0]}: is empty, so that no token of it can be scored; mend the task's file"
            )
        with Progress("scoring", len(pairs), " texts") as progress:
            scores = log_likelihoods(
                self._logits, pairs, context=self._context, device=self._device, advance=progress.advance
            )
        self.truncated += sum(score.cut > 0 for score in scores)
        return scores

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        texts: list[str] = []
        with Progress("writing", len(requests), " texts") as progress:
            for request in requests:
                context, options = request.args
                most = min(NEW_TOKENS, self._context // 2)  # of a model too small for that many
                texts.append(self._continue(context, normalize_gen_kwargs(options, most)))
                self.cache_hook.add_partial("generate_until", request.args, texts[-1])
                progress.advance()
        return texts

    def _continue(self, context: str, options: Mapping[str, Any]) -> str:
        end = self._tokenizer.end_of_text
        stops = [stop for stop in handle_stop_sequences(options.get("until"), eos=None) if stop]
        tokens = options["max_gen_toks"]
        if tokens >= self._context:
            raise TaskError(
                f"max_gen_toks = {tokens}: must be below the model's context of {self._context}; "
                f"ask for fewer with gptlab lm-eval --gen_kwargs max_gen_toks={self._context // 2}"
            )
        prompt = self._tokenizer.encode(context) or [end]
        room = self._context - tokens
        self.truncated += len(prompt) > room
        ids: list[int] = []
        text = ""
        for id_ in self._write(
            prompt[-room:],
            max_tokens=tokens,
            temperature=options.get("temperature", 1.0 if options.get("do_sample") else 0.0),
            top_k=options.get("top_k"),
            top_p=options.get("top_p"),
        ):
            if id_ == end:
                break
            ids.append(id_)
            text = self._tokenizer.decode(ids)
            if any(stop in text for stop in stops):
                break
        for stop in stops:
            text = text.partition(stop)[0]
        return text


register_model("gptlab")(HarnessModel)


@cache
def _task_manager() -> TaskManager:
    # It reads 15,000 files.
    return TaskManager()


def check_names(names: Sequence[str]) -> None:
    """Raise TaskError if a task, a group or a tag of that name is not known."""
    known = _task_manager().all_tasks
    for name in names:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise TaskError(f"task {name}: is neither gptlab's nor lm-evaluation-harness {VERSION}'s{meant}")


def evaluate(
    model: TemplateLM,
    names: Sequence[str],
    *,
    shots: int | None,
    limit: int | None,
    data: Path | None,
    keep: bool = False,
) -> Iterator[dict[str, Any]]:
    """Put tasks of lm-evaluation-harness to a model, and yield a line for each as it is done.

    Args:
        model: what is asked.
        names: tasks, groups or tags.
        shots: solved examples in front of each item; None is as many as the task says.
        limit: items of each task, from its start; None is all.
        data: a folder with a file for each task, which then needs no network; see `task_data`.
        keep: whether a line has, under "items", what each item scored.

    Raises:
        TaskError: a task that is not known, has no data, or that the harness cannot run.
    """
    check_names(names)
    manager = _task_manager()
    specs = nullcontext(list(names))
    if data is not None:
        specs = task_data.redirected({name: manager.task_index[name] for name in names}, data, shots or 0)
    with specs as described:
        for name, spec in zip(names, described, strict=True):
            before = getattr(model, "truncated", 0)
            found = _run(model, name, spec, shots, limit, keep)
            truncated = getattr(model, "truncated", 0) - before
            for task in found["n-samples"]:
                yield _line(found, task, keep) | {"truncated": truncated}


def _run(
    model: TemplateLM, name: str, spec: str, shots: int | None, limit: int | None, keep: bool
) -> Mapping[str, Any]:
    """Load and run what a name stands for, with the seeds and the rule for shots of the harness's own command."""
    try:
        with _quiet():
            random.seed(0)
            np.random.seed(1234)
            loaded = _task_manager().load([spec])
            for task in loaded["tasks"].values():
                own = task.get_config("num_fewshot")
                task.set_config("num_fewshot", own or 0 if shots is None or own == 0 else shots)
                task.set_fewshot_seed(fewshot.SEED)
            run: Any = harness_evaluate
            return run(model, loaded, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=keep)
    except TaskError:
        raise
    except Exception as error:  # it passes on whatever its parts raise
        reason = " ".join(str(error).split()) or "no reason given"
        raise TaskError(
            f"task {name}: lm-evaluation-harness cannot run it ({type(error).__name__}: {reason[:300]}); "
            "without a network give its files with --task-data DIR"
        ) from error


def _line(found: Mapping[str, Any], name: str, keep: bool) -> dict[str, Any]:
    line = {
        "task": name,
        "protocol": "lm-eval",
        "lm_eval": VERSION,
        "version": found["versions"].get(name),
        "shots": found["n-shot"].get(name),
        "n": found["n-samples"][name]["effective"],
    }
    for key, value in found["results"][name].items():
        metric, _, kind = key.partition(",")
        if not kind or not isinstance(value, int | float | str):
            continue
        # The names that our own tasks have, and a filter's behind the metric's where there are several.
        if kind != "none":
            plain, error, _ = metric.partition("_stderr")
            metric = f"{plain}_{kind}{error}"
        plain = {"acc_stderr": "stderr", "acc_norm_stderr": "stderr_norm"}.get(metric, metric)
        line[plain] = None if value == "N/A" else value
    if keep:
        samples = found["samples"][name]
        line["items"] = {
            metric: [bool(sample[metric]) for sample in samples]
            for metric in ("acc", "acc_norm")
            if all(metric in sample for sample in samples)
        }
    return line


@contextmanager
def _quiet() -> Generator[None]:
    """Keep bars and notes of lm-evaluation-harness and its data library away; ours are enough."""
    logger, start = logging.getLogger("lm_eval"), tqdm.std.tqdm.__init__
    level = logger.level
    logger.setLevel(logging.ERROR)
    tqdm.std.tqdm.__init__ = partialmethod(start, disable=True)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm.std.tqdm.__init__ = start
        logger.setLevel(level)
