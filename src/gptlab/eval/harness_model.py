"""The model that lm-evaluation-harness queries: ours or transformers', answering as its own `hf` does.

docs/lm_eval.md says which of its requests, options and model arguments are honoured.

Source: lm-evaluation-harness 0.4.13, docs/model_guide.md; models/huggingface.py for what its numbers mean.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import TaskError
from gptlab.eval import generation
from gptlab.eval.harness_text import text_of
from gptlab.eval.item import Pair
from gptlab.eval.model_arguments import Arguments, check_batch_size
from gptlab.eval.model_arguments import device as device_of
from gptlab.eval.score import Score, log_likelihoods
from gptlab.model.causal_lm import CausalLM
from gptlab.progress import Progress

Write = Callable[..., Iterator[int]]
"""Continue ids: `write(ids, max_tokens=, temperature=, top_k=, top_p=, seed=, adjust=)` yields the new ones."""


class HarnessModel(TemplateLM):
    """One of our models, or of transformers', as lm-evaluation-harness queries it.

    Args:
        model: the model.
        tokenizer: the model's own.
        write: writes continuations.
        context: the longest text that the model reads, in tokens.
        device: where the model is.
        path: its path, perhaps a folder with its own rules for texts; None if it has no path.
        rows: entries of its vocabulary; None means the tokenizer's.
        asked: the model arguments.
    """

    open: ClassVar[Callable[..., "HarnessModel"]]
    """Makes one from `--model_args path=...`; the module that loads models sets it."""

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        write: Write,
        *,
        context: int,
        device: torch.device,
        path: Path | None = None,
        rows: int | None = None,
        asked: Arguments | None = None,
    ) -> None:
        super().__init__()
        self._asked = asked or Arguments(path=str(path))
        self._context = self._asked.max_length or context
        if not 1 < self._context <= context:
            raise TaskError(
                f"--model_args: max_length = {self._context}: must be above 1 and at most the model's context of "
                f"{context}; change it"
            )
        self._model, self._write, self._device = model, write, device
        self._rows = rows or tokenizer.vocab_size
        self._text = text_of(path, tokenizer, self._rows, self._asked.add_bos_token)
        own = self._asked.prefix_token_id
        if own is not None and not 0 <= own < self._rows:
            raise TaskError(
                f"--model_args: prefix_token_id = {own}: the model's ids are 0 to {self._rows - 1}; change it"
            )
        self._prefix = self._text.prefix if own is None else own
        # A text that already begins with it gets no second one.
        self._begun = None if self._prefix is None else self._text.decode([self._prefix], special=True)
        self._defaults = generation.Defaults.of(path, self._text.end)
        self.truncated = 0
        """Requests so far that were longer than the context and lost their beginning."""

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> Any:
        """Load the model that `--model_args` names; gptlab chooses the batch size."""
        beside = additional_config or {}
        for name in ("batch_size", "max_batch_size"):
            check_batch_size(name, beside.get(name))
        return cls.open(**{"device": device_of(beside.get("device")), **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """Like `create_from_arg_obj`, from `key=value,key=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        return self._text.end

    @property
    def prefix_token_id(self) -> int:
        """The token that precedes a text without a context."""
        if self._prefix is None:
            raise TaskError(
                "this model has no token that begins a text; name one with --model_args prefix_token_id=ID, or leave "
                "out the tasks that score a text's beginning"
            )
        return self._prefix

    @property
    def max_length(self) -> int:
        """Longest input, in tokens."""
        return self._context

    @property
    def tokenizer_name(self) -> str:
        return self._text.name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the folder's chat template, or say why there is none."""
        return self._text.template(chat_template) if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write a conversation as the folder's chat template does."""
        thinking = self._asked.enable_thinking
        options = self._asked.chat_template_args | ({} if thinking is None else {"enable_thinking": thinking})
        return self._text.chat(chat_history, prompting=add_generation_prompt, options=options)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **_: Any,
    ) -> list[int]:
        begun = self._begun is not None and string.startswith(self._begun)
        framed = not begun and self._asked.add_bos_token is not False
        ids = self._text.encode(string, framed=framed if add_special_tokens is None else add_special_tokens)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        if self._asked.enable_thinking:
            raise TaskError(
                "--model_args: enable_thinking = True is for tasks that write text; leave it out, or name others"
            )
        for number, request in enumerate(requests):
            if not all(isinstance(part, str) for part in request.args) or not request.args[1]:
                raise NothingToScoreError(number, request)
        try:
            return super().loglikelihood(list(requests), disable_tqdm=True)
        except NothingToScoreError as error:
            raise NothingToScoreError(error.number, requests[error.number]) from None

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
        totals = [sum((next(scores).log_likelihood for _ in pairs), 0.0) for pairs in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _scores(self, pairs: Sequence[Pair]) -> list[Score]:
        for number, (before, ending) in enumerate(pairs):
            if not before or not ending:
                raise NothingToScoreError(number)
        with Progress("scoring", len(pairs), " texts") as progress:
            scores = log_likelihoods(
                self._model, pairs, context=self._context, device=self._device, advance=progress.advance
            )
        self.truncated += sum(score.cut > 0 for score in scores)
        return scores

    def plan(self, options: dict[str, Any]) -> generation.GenerationPlan:
        """Return how a text is written that a task asks for with these arguments.

        Raises:
            TaskError: one of them is not honoured.
        """
        return generation.plan(options, self._defaults, eos=self._text.eos, context=self._context)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        plans = [self.plan(request.args[1]) for request in requests]
        texts: list[str] = []
        with Progress("writing", len(requests), " texts") as progress:
            for request, plan in zip(requests, plans, strict=True):
                texts.append(self._continue(request.args[0], plan))
                self.cache_hook.add_partial("generate_until", request.args, texts[-1])
                progress.advance()
        return texts

    def _continue(self, context: str, plan: generation.GenerationPlan) -> str:
        begun = self._text.bos is not None and context.startswith(self._text.bos)
        prompt = self._text.encode(context, framed=not begun and self._asked.add_bos_token is not False)
        self.truncated += len(prompt) > plan.room
        prompt = prompt[-plan.room :] or [self.prefix_token_id]
        stop_ids = self._defaults.stop_ids
        # As far back as transformers' criteria look: a stop may be spelled with other tokens than its own.
        looks = {stop: len(self._text.encode(stop, framed=False)) + 2 for stop in plan.stops}
        # From torch's own random state, which the harness seeds: repeats differ, runs are reproducible.
        seed = int(torch.randint(2**62, ()).item()) if plan.temperature else 0
        ids: list[int] = []
        for id_ in self._write(
            prompt,
            max_tokens=min(plan.max_tokens, self._context - len(prompt)),
            temperature=plan.temperature,
            top_k=plan.top_k,
            top_p=plan.top_p,
            seed=seed,
            adjust=plan.adjust(len(prompt), stop_ids),
        ):
            ids.append(id_)
            if id_ in stop_ids:
                break
            if any(stop in self._text.decode(ids[-back:], special=True) for stop, back in looks.items()):
                break
        return self._answer(ids, plan.stops)

    def _answer(self, ids: list[int], stops: Sequence[str]) -> str:
        """Decode what was written, without its thinking and what follows a stop."""
        thought = self._asked.think_end_token
        if isinstance(thought, str) and thought.isdigit():
            thought = int(thought)
        if isinstance(thought, int):
            if thought in ids:
                ids = ids[len(ids) - ids[::-1].index(thought) :]
            return generation.cut_at(self._text.decode(ids, special=False).lstrip(), stops)
        text = self._text.decode(ids, special=False)
        if thought:
            text = text.split(thought)[-1].lstrip()
        return generation.cut_at(text, stops)


class NothingToScoreError(TaskError):
    """An ending without a token.

    Args:
        number: the request's index.
        request: the request, which may know its task and item.
    """

    def __init__(self, number: int, request: Any = None) -> None:
        task, item = getattr(request, "task_name", None), getattr(request, "doc_id", None)
        place = f"request {number}" if task is None or item is None else f"task {task}, item {item}"
        super().__init__(f"{place}: an ending is empty, so it has no token to score; fix the task's file")
        self.number = number
