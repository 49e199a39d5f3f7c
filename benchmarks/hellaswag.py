"""HellaSwag in the harness's protocol: gptlab against lm-evaluation-harness's own `hf` model, interleaved.

    python benchmarks/hellaswag.py --data hellaswag_val.jsonl --rounds 9 --json benchmarks/results/hellaswag.json
    python benchmarks/hellaswag.py --data hellaswag_val.jsonl --rounds 3 --shots 10 --limit 96

Both sides: the same float32 weights (GPT-2 124M's shape, drawn at random, or --model), exported for the harness;
the same items, from texts to a score; and on each side the batch size that was fastest on --trial items. The items
are dealt to the rounds in turn, so that each has short and long ones; a round is a pass of each side over its items,
one after the other. What they say of every item is compared too. The solved examples of --shots are drawn from the
data file itself. The harness is a process of its own, since gptlab's commands keep the memory that tensors give back
and the harness's do not; with --keep-freed it does.
"""

import io
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from lm_eval.evaluator import evaluate as harness_evaluate
from lm_eval.models.huggingface import HFLM

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.eval import fewshot, harness, task_data, tasks
from gptlab.eval.hellaswag import CHOICES
from gptlab.eval.score import good_batch_tokens
from gptlab.eval.task_groups import members
from gptlab.formats.huggingface.write import export
from gptlab.loading import load
from gptlab.machine.before_torch import keep_freed
from gptlab.machine.device import choose_device
from gptlab.model.gpt import SIZES, ModelConfig
from gptlab.model.packed import packed
from gptlab.sample import GeneratingGPT

Side = Callable[[Path, int], np.ndarray]  # (file of items, batch size) -> log-likelihoods, a row an item


def gptlab_side(model: Any, tokenizer: Any, data: Path, shots: int) -> Side:
    """Build what `gptlab eval --protocol harness` does."""
    device, model = choose_device("auto"), packed(model)

    def score(items: Path, batch_tokens: int) -> np.ndarray:
        task = tasks.build(
            "hellaswag",
            tasks.Inputs(
                tokenizer=tokenizer,
                context=model.context,
                file=items,
                fewshot=data,
                protocol="harness",
                shots=shots,
                limit=None,
            ),
        )
        score = task.evaluate(model, device=device, batch_tokens=batch_tokens, quiet=True)
        return np.array([row["log_likelihoods"] for row in score.rows])

    return score


def harness_side(folder: Path, context: int, data: Path, shots: int) -> Side:
    """Build what `lm_eval --model hf --tasks hellaswag` does, its tasks already indexed and loaded."""
    device = choose_device("auto")
    harness_model: Any = HFLM  # whose constructor hides its arguments from type checkers
    lm = harness_model(
        pretrained=str(folder), device=str(device), dtype="float32", batch_size=1, max_length=context
    )
    manager = harness._task_manager()

    def score(items: Path, batch_size: int) -> np.ndarray:
        place = items.with_suffix("")
        (place / "hellaswag").mkdir(parents=True, exist_ok=True)
        for split, file in (("validation", items), ("train", data)):
            shutil.copy(file, place / "hellaswag" / f"{split}.jsonl")
        lm.batch_size_per_gpu = batch_size
        task = members("hellaswag", manager.task_index)
        with task_data.redefined(task, place, shots) as specs, harness._quiet():
            loaded = manager.load(specs)
            task = loaded["tasks"]["hellaswag"]
            task.set_config("num_fewshot", shots)
            task.set_fewshot_seed(fewshot.SEED)
            began = time.perf_counter()
            with redirect_stderr(io.StringIO()):  # its bars
                found: Any = harness_evaluate(lm, loaded, bootstrap_iters=1)
            score.seconds = time.perf_counter() - began  # pyright: ignore[reportFunctionMemberAccess]  # without loading the task
        samples = sorted(found["samples"]["hellaswag"], key=lambda sample: sample["doc_id"])
        return np.array([[total for total, _ in sample["filtered_resps"]] for sample in samples])

    return score


class OwnProcess:
    """The harness's side where it is at home."""

    def __init__(self, *side: Any, keep: bool) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, spawn, initializer=self._begin, initargs=(keep, *side))

    def __call__(self, items: Path, batch: int) -> np.ndarray:
        self.seconds, scores = self._pool.submit(self._answer, items, batch).result()
        return scores

    @classmethod
    def _begin(cls, keep: bool, *side: Any) -> None:
        if keep:
            keep_freed()
        cls._side = harness_side(*side)

    @classmethod
    def _answer(cls, items: Path, batch: int) -> tuple[float, np.ndarray]:
        return timed(cls._side, items, batch)


def dealt(lines: list[str], hands: int, place: Path) -> list[Path]:
    """Deal items to so many files."""
    files = [place / f"items_{number}_of_{hands}.jsonl" for number in range(hands)]
    for number, file in enumerate(files):
        file.write_text("".join(lines[number::hands]), encoding="utf-8")
    return files


def _items(tokenizer: Any, context: int, file: Path) -> Sequence[Any]:
    return tasks.build(
        "hellaswag", tasks.Inputs(tokenizer=tokenizer, context=context, file=file, protocol="harness")
    ).items


def timed(side: Side, items: Path, batch: int) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    scores = side(items, batch)
    return getattr(side, "seconds", time.perf_counter() - began), scores


def main() -> None:
    flags = record.parser(__doc__)
    flags.add_argument("--data", type=Path, required=True, help="HellaSwag's JSONL")
    flags.add_argument("--model", type=Path, help="a run or a checkpoint; none is random weights")
    flags.add_argument("--shots", type=int, default=0)
    flags.add_argument("--limit", type=int)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--trial", type=int, default=48, help="items that batch sizes are tried on")
    flags.add_argument("--keep-freed", action="store_true", help="let the harness keep memory as gptlab does")
    arguments = record.parsed(flags)
    keep_freed()  # as gptlab's commands do

    if arguments.model is not None:
        model, tokenizer = load(arguments.model)
    else:
        torch.manual_seed(0)
        model = GeneratingGPT(ModelConfig(**SIZES["gpt2-124m"])).to(choose_device("auto")).eval()
        tokenizer = load_tokenizer("gpt2")
    lines = [f"{line}\n" for line in arguments.data.read_text("utf-8").splitlines() if line.strip()]
    lines = lines[:: max(1, len(lines) // (arguments.limit or len(lines)))][: arguments.limit]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        export(model, tokenizer, folder, verify=False)
        sides = {
            "gptlab": gptlab_side(model, tokenizer, arguments.data, arguments.shots),
            "lm-eval": OwnProcess(
                folder, model.context, arguments.data, arguments.shots, keep=arguments.keep_freed
            ),
        }
        usual = good_batch_tokens(choose_device("auto"))
        (items,) = dealt(lines, 1, Path(place))
        lengths = np.array([item.lengths for item in _items(tokenizer, model.context, items)])
        (trial, *_) = dealt(lines, max(1, len(lines) // arguments.trial), Path(place))
        choices = {"gptlab": [usual // 2, usual, 2 * usual], "lm-eval": [1, 2, 4, 8, 16]}
        best: dict[str, int] = {}
        trials: dict[str, dict[int, float]] = {}
        for name, side in sides.items():
            trials[name] = {batch: timed(side, trial, batch)[0] for batch in choices[name]}
            best[name] = min(trials[name], key=lambda batch, name=name: trials[name][batch])
            print(f"{name}: best of {choices[name]} is {best[name]}", flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        scores = {name: np.zeros((len(lines), CHOICES)) for name in sides}
        for number, part in enumerate(dealt(lines, arguments.rounds, Path(place))):
            for name, side in sides.items():
                spent, scores[name][number :: arguments.rounds] = timed(side, part, best[name])
                seconds[name].append(spent)
            print(
                f"round {number + 1}: " + "  ".join(f"{name} {s[-1]:.1f} s" for name, s in seconds.items()),
                flush=True,
            )
    ours, theirs = scores["gptlab"], scores["lm-eval"]
    ratios = [theirs / ours for ours, theirs in zip(seconds["gptlab"], seconds["lm-eval"], strict=True)]
    result = {
        "what": "HellaSwag, harness protocol, float32, from texts to a score",
        "model": str(arguments.model or "GPT-2 124M's shape, random weights"),
        "items": len(lines),
        "shots": arguments.shots,
        "harness_keeps_freed_memory": arguments.keep_freed,
        "lm_eval": version("lm-eval"),
        "transformers": version("transformers"),
        **record.facts(choose_device("auto")),
        "batch": {"gptlab": f"{best['gptlab']} tokens", "lm-eval": f"{best['lm-eval']} texts"},
        "trials": trials,
        "seconds": seconds,
        "total_s": {name: sum(parts) for name, parts in seconds.items()},
        "speedup": record.spread(ratios),
        "max_difference": float(np.abs(ours - theirs).max()),
        "predictions_that_differ": int((ours.argmax(1) != theirs.argmax(1)).sum()),
        "normalised_predictions_that_differ": int(
            ((ours / lengths).argmax(1) != (theirs / lengths).argmax(1)).sum()
        ),
    }
    shown = (
        "batch",
        "total_s",
        "speedup",
        "max_difference",
        "predictions_that_differ",
        "normalised_predictions_that_differ",
    )
    record.tell(result, shown, arguments.json)


if __name__ == "__main__":
    main()
