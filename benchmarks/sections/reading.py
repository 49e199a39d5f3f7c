"""Speed of reading: HellaSwag, and text written token by token."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import GptlabError
from gptlab.eval import tasks
from gptlab.eval.score import log_likelihoods
from gptlab.machine.device import set_matmul_precision
from gptlab.model.autocast import AutocastModel
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.packed import packed
from gptlab.sample import generate

from .section import HELLASWAG, ROOT, Job, median_s

WORDS = ("a", "man", "walks", "the", "dog", "over", "two", "bridges", "and", "takes", "her", "ball")


def run(job: Job) -> None:
    """Time HellaSwag, and text written token by token, with a model of random weights."""
    tokenizer, missing = _tokenizer(job)
    torch.manual_seed(0)
    work = job.work()
    shape = {**work.shape, "context": job.sized(1024, 512)}  # bytes make long items
    model = GPT(ModelConfig(**shape, vocab_size=work.vocabulary)).to(job.device).eval()
    pairs = _pairs(job, model.config)
    scores: dict[str, Any] = {"missing": missing}
    for dtype in ("bfloat16", "float32"):
        set_matmul_precision(dtype)
        scored = AutocastModel(packed(model, getattr(torch, dtype)), dtype, job.device)
        score = partial(log_likelihoods, scored, context=model.config.context, device=job.device)
        scores[dtype] = {"random_items_per_s": _rate(job, lambda part, score=score: score(part), pairs, 4)}
        if tokenizer is not None:
            scores[dtype] |= _hellaswag(job, scored, tokenizer, model.config.context)
        job.note(hellaswag=scores)
    ready = packed(model, torch.bfloat16)
    new = job.sized(128, 8)
    rates: dict[str, float] = {}
    for batch in (1, 8):
        prompts = torch.randint(work.vocabulary, (batch, 32), device=job.device)
        write = partial(generate, ready, prompts, temperature=0, dtype=torch.bfloat16)
        write(max_tokens=4)
        seconds = median_s(partial(write, max_tokens=new), job.device, job.sized(3, 1), warm_up=0)
        rates[str(batch)] = batch * new / seconds
        job.note(sampled_tokens_per_s=rates, sampled_tokens=new)


def _tokenizer(job: Job) -> tuple[Any, str | None]:
    """Return the tokenizer that HellaSwag is read with, or what is missing for it."""
    if not HELLASWAG.is_file() and not job.tiny:
        return None, f"{HELLASWAG.relative_to(ROOT)} is not there"
    try:
        return load_tokenizer(job.sized("gpt2", "bytes")), None
    except (GptlabError, ImportError) as error:
        return None, str(error)


def _pairs(job: Job, config: ModelConfig) -> list[tuple[list[int], list[int]]]:
    """Draw items of HellaSwag's usual lengths, four pairs each, which are the same everywhere."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(config.vocab_size, (length,), generator=generator).tolist()

    contexts = [ids(60) for _ in range(job.sized(500, 4))]
    return [(context, ids(25)) for context in contexts for _ in range(4)]


def _rate(job: Job, work: Callable[[Sequence[Any]], Any], parts: Sequence[Any], of_item: int) -> float:
    """Return how many items are done in a second, the median of three passes after a short one."""
    work(parts[: max(of_item, len(parts) // 20 // of_item * of_item)])
    return len(parts) / of_item / median_s(partial(work, parts), job.device, 3, warm_up=0)


def _hellaswag(job: Job, model: AutocastModel, tokenizer: Any, context: int) -> dict[str, Any]:
    """Score HellaSwag from its texts on, as `gptlab eval` does."""
    file = HELLASWAG if HELLASWAG.is_file() and not job.tiny else job.scratch / "hellaswag.jsonl"
    if job.tiny:
        file.write_text("".join(json.dumps(_item(number)) + "\n" for number in range(4)))
    task = tasks.build("hellaswag", tasks.Inputs(tokenizer=tokenizer, context=context, file=file, limit=2000))

    def score(items: Sequence[Any]) -> float:
        return replace(task, items=items).evaluate(model, device=job.device, quiet=True).acc

    return {"items": len(task.items), "items_per_s": _rate(job, score, task.items, 1)}


def _item(number: int) -> dict[str, Any]:
    texts = [" ".join(WORDS[(number + part + place) % len(WORDS)] for place in range(8)) for part in range(6)]
    return {
        "activity_label": "Walking",
        "ctx_a": texts[0],
        "ctx_b": texts[1],
        "ctx": f"{texts[0]} {texts[1]}",
        "endings": texts[2:],
        "label": number % 4,
    }


def told(found: Mapping[str, Any]) -> Iterator[str]:
    scores = found["hellaswag"]
    for dtype in ("bfloat16", "float32"):
        score = scores[dtype]
        if "items_per_s" in score:
            yield f"HellaSwag in {dtype}: {score['items_per_s']:,.0f} items/s of {score['items']:,}"
        yield f"random items of HellaSwag's lengths in {dtype}: {score['random_items_per_s']:,.0f} items/s"
    if scores["missing"]:
        yield f"HellaSwag itself was not scored: {scores['missing']}"
    for batch, rate in found["sampled_tokens_per_s"].items():
        yield f"sampling {found['sampled_tokens']} tokens, batch {batch}, bfloat16: {rate:,.0f} tokens/s"
