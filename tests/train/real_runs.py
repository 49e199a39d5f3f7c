"""Runs as a user starts them, alone or with torchrun, and their files."""

import hashlib
import os
import subprocess
import sys

import forked

from gptlab.runs.metrics import read_rows

TIMINGS = {"step_s", "tokens_per_s", "mfu"}


def command(recipes, out, *flags):
    """Return the command `gptlab train` with one or several recipes."""
    recipes = recipes if isinstance(recipes, list) else [recipes]
    return list(map(str, [sys.executable, "-m", "gptlab", "train", *recipes, "--out", out, *flags]))


def launcher(processes, *options):
    """Return the prefix that starts a command in several processes."""
    words = ["--nproc-per-node", processes, "--master-addr", "127.0.0.1", "--master-port", forked.free_port()]
    return [sys.executable, "-m", "torch.distributed.run", *map(str, [*words, *options]), "--no-python"]


def start(words, threads=1):
    """Start a command; without a launcher it is forked, which saves the seconds of its imports."""
    if words[:3] == [sys.executable, "-m", "gptlab"]:
        return forked.Forked(words[3:], threads=threads)
    return subprocess.Popen(
        words,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(words, threads=1):
    process = start(words, threads)
    _, said = process.communicate()
    assert process.returncode == 0, said


def finish_together(processes, words):
    """Run a command in several processes, without a launcher."""
    forked.finish_together(processes, words[3:])


def rows(out, kind):
    return [row for row in read_rows(out / "metrics.jsonl") if row["kind"] == kind]


def record(out):
    """Return all rows except events, without values that depend on the clock."""
    return [
        {key: value for key, value in row.items() if key not in TIMINGS}
        for row in read_rows(out / "metrics.jsonl")
        if row["kind"] != "event"
    ]


def hashes(out):
    """Return the hashes of the newest checkpoint's tensors."""
    folder = out / "checkpoints" / (out / "latest").read_text().strip()
    return {
        name: hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in ("model", "optimizer")
    }
