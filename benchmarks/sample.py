"""Greedy text with a key/value cache: gptlab against transformers' `generate` of the export, interleaved.

    python benchmarks/sample.py --rounds 7 --json benchmarks/results/sample.json

Both sides: the same weights (GPT-2 124M's shape, drawn at random, or --model), the same random prompts, exactly
--tokens new tokens a row, in float32 and in bfloat16. Each side holds its weights ready in both formats, as after
loading; how long gptlab takes to pack them is told. A round is a text of every side in every format, one after
the other; each side counts with the format whose median is less. In float32 the tokens have to be the same.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.formats.huggingface.wrap import quiet_transformers
from gptlab.formats.huggingface.write import export
from gptlab.loading import load
from gptlab.machine.before_torch import keep_freed
from gptlab.machine.device import choose_device
from gptlab.model.gpt import SIZES, ModelConfig
from gptlab.model.packed import packed
from gptlab.sample import GeneratingGPT

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Write = Callable[[Tensor, int], Tensor]  # (prompts, new tokens) -> both, a row a prompt


def gptlab_side(model: GeneratingGPT, dtype: torch.dtype) -> Write:
    """Build what `gptlab sample --temperature 0` does."""
    ready = packed(model, dtype)
    return lambda prompts, tokens: ready.generate(prompts, max_new_tokens=tokens, temperature=0, dtype=dtype)


def transformers_side(folder: Path, dtype: torch.dtype) -> Write:
    """Build what their users call."""
    with quiet_transformers():
        model: Any = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(choose_device("auto"))
        )

    def write(prompts: Tensor, tokens: int) -> Tensor:
        return model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_length=prompts.shape[1] + tokens,
            do_sample=False,
            eos_token_id=None,
        )

    return write


def main() -> None:
    flags = record.parser(__doc__)
    flags.add_argument("--model", type=Path, help="a run or a checkpoint; none is random weights")
    flags.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="rows written at once")
    flags.add_argument("--prompt-tokens", type=int, default=32)
    flags.add_argument("--tokens", type=int, default=128, help="new tokens of each row")
    flags.add_argument("--rounds", type=int, default=7)
    arguments = record.parsed(flags)
    keep_freed()  # as gptlab's commands do; the other side gains by it, too

    device = choose_device("auto")
    model: Any
    if arguments.model is not None:
        model, tokenizer = load(arguments.model)
    else:
        torch.manual_seed(0)
        model = GeneratingGPT(ModelConfig(**SIZES["gpt2-124m"])).to(device).eval()
        tokenizer = load_tokenizer("gpt2")
    result: dict[str, Any] = {
        "what": "greedy text with a key/value cache",
        "model": str(arguments.model or "GPT-2 124M's shape, random weights"),
        "tokens": arguments.tokens,
        "prompt_tokens": arguments.prompt_tokens,
        "transformers": version("transformers"),
        **record.facts(device),
        "packing_s": {name: _seconds(packed, model, dtype)[0] for name, dtype in FORMATS.items()},
        "batches": {},
    }
    with tempfile.TemporaryDirectory() as place:
        export(model, tokenizer, Path(place) / "export", verify=False)
        sides = {
            "gptlab": {name: gptlab_side(model, dtype) for name, dtype in FORMATS.items()},
            "transformers": {
                name: transformers_side(Path(place) / "export", dtype) for name, dtype in FORMATS.items()
            },
        }
    for rows in arguments.batch:
        prompts = torch.randint(model.config.vocab_size, (rows, arguments.prompt_tokens), device=device)
        result["batches"][rows] = found = _race(sides, prompts, arguments.tokens, arguments.rounds)
        shown = ("tokens_per_s", "best", "speedup", "float32_tokens_that_differ")
        print(f"batch {rows}: " + json.dumps({key: found[key] for key in shown}, indent=1), flush=True)
    record.write(result, arguments.json)


def _race(sides: dict[str, dict[str, Write]], prompts: Tensor, tokens: int, rounds: int) -> dict[str, Any]:
    seconds: dict[str, dict[str, list[float]]] = {side: {name: [] for name in FORMATS} for side in sides}
    written: dict[tuple[str, str], Tensor] = {}
    for _, _, write in _each(sides):
        write(prompts, min(tokens, 8))  # what is set up at the first call
    for number in range(rounds):
        for side, name, write in _each(sides):
            spent, written[side, name] = _seconds(write, prompts, tokens)
            seconds[side][name].append(spent)
        print(
            f"round {number + 1}: "
            + "  ".join(f"{side} {name} {seconds[side][name][-1]:.2f} s" for side, name, _ in _each(sides)),
            flush=True,
        )
    medians = {side: {name: statistics.median(s) for name, s in of.items()} for side, of in seconds.items()}
    best = {side: min(of, key=lambda name, of=of: of[name]) for side, of in medians.items()}
    pairs = zip(*(seconds[side][best[side]] for side in ("gptlab", "transformers")), strict=True)
    ratios = [theirs / ours for ours, theirs in pairs]
    differ = written["gptlab", "float32"] != written["transformers", "float32"]
    return {
        "seconds": seconds,
        "tokens_per_s": {
            side: {name: round(len(prompts) * tokens / s, 1) for name, s in of.items()}
            for side, of in medians.items()
        },
        "best": best,
        "speedup": record.spread(ratios),
        "float32_tokens_that_differ": int(differ.sum()),
    }


def _each(sides: dict[str, dict[str, Write]]) -> Iterator[tuple[str, str, Write]]:
    for name in FORMATS:
        for side, writes in sides.items():
            yield side, name, writes[name]


def _seconds(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, answer


if __name__ == "__main__":
    main()
