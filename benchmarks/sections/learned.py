"""Short trainings of recipes, on the same tokens in the same order."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptlab.errors import GptlabError, brief

from .section import DATA, ROOT, Complaint, Job, flagged

LEARN_TOKENS, LEARN_BATCH = 20_000_000, 65_536


def run(job: Job) -> None:
    """Train each recipe on the same tokens in the same order, for as long as a section may take."""
    recipes = job.learn or job.sized([], [str(ROOT / "recipes" / "tiny_cpu.toml")])
    if not recipes:
        job.note(note="no recipe named")
        return
    until = time.monotonic() + job.limit_s - 15  # what came before this line, and comes after the last run
    data = job.sized(DATA / "english", job.scratch / "python-docs")
    if job.tiny:
        words = [str(data), "--tokenizer", "bytes", "--max-tokens", "200000", "--workers", "1"]
        subprocess.run([*GPTLAB, "data", "prepare", "python-docs", *words], check=True)
    if not data.is_dir():
        raise Complaint(f"{data.relative_to(ROOT)} is not there; prepare it with gptlab data prepare")
    learned: dict[str, Any] = {}
    for number, recipe in enumerate(recipes):
        name = "+".join(Path(part).stem for part in recipe.split("+"))
        share = max(1.0, (until - time.monotonic()) / (len(recipes) - number))
        try:
            learned[name] = _learned(job, recipe, data, job.scratch / f"run_{number}", share)
        except (GptlabError, Complaint, OSError) as error:
            learned[name] = {"failure": str(error) or brief(error)}
        job.note(recipes=learned)
    failed = [f"{name} ({result['failure']})" for name, result in learned.items() if "failure" in result]
    if failed:
        raise Complaint("; ".join(failed))


GPTLAB = (sys.executable, "-m", "gptlab")


def _learned(job: Job, recipe: str, data: Path, out: Path, limit_s: float) -> dict[str, Any]:
    """Train one recipe, with its overlays behind plus signs."""
    from gptlab.recipe import load

    files = [Path(part) for part in recipe.split("+")]
    config = load(files)
    batch = job.sized(LEARN_BATCH, 8 * config.model.context)
    steps = job.sized(LEARN_TOKENS // batch, 8)
    warm_up = round(config.schedule.warmup_steps * steps / (config.train.steps or 20 * steps))
    flags: dict[str, Any] = {
        "out": out,
        "data.path": data,
        "train.batch-tokens": batch,
        "train.steps": steps,
        "train.hours": None,
        "train.device": job.device.type,
        "train.seed": 1337,
        "train.keep": 1,
        "schedule.warmup-steps": warm_up,
        "eval.every-steps": math.ceil(steps / 2),  # else the last evaluation would be beside another
        "eval.val-tokens": job.sized(1 << 20, 2048),
    }
    # A list with nothing behind its name is empty: neither tasks nor samples.
    command = [*GPTLAB, "train", *map(str, files), *flagged(flags), "--eval.tasks", "--sample.prompts"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            check=False,
            timeout=limit_s,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise Complaint(f"out of time after {limit_s:.0f} s") from None
    print(done.stdout[-5000:])
    if done.returncode:
        last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
        raise Complaint(f"exit code {done.returncode}: {last.strip()[:200]}")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    trained = [row for row in rows if row["kind"] == "step"]
    return {
        "steps": steps,
        "batch_tokens": batch,
        "warmup_steps": warm_up,
        "val_loss": {str(row["step"]): row["loss"] for row in rows if row["kind"] == "val"},
        "train_loss": statistics.mean(row["loss"] for row in trained[-10:]),
        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in trained),
        "seconds": time.monotonic() - began,
    }


def told(found: Mapping[str, Any]) -> Iterator[str]:
    if "note" in found:
        yield found["note"]
        return
    for recipe, result in found["recipes"].items():
        if "failure" in result:
            yield f"{recipe}: {result['failure']}"
            continue
        losses = ", ".join(f"{loss:.4f} at {step}" for step, loss in result["val_loss"].items())
        yield (
            f"{recipe}: val loss {losses}; {result['tokens_per_s']:,.0f} tokens/s, {result['seconds']:.0f} s in all"
        )
