"""Runs as a user starts them, alone or by torchrun, and what they leave."""

import hashlib
import os
import socket
import subprocess
import sys

from gptlab.runs.metrics import read_rows

TIMINGS = {"step_s", "tokens_per_s", "mfu"}


def command(recipes, out, *flags):
    """Return the words of `gptlab train` with one recipe or several."""
    recipes = recipes if isinstance(recipes, list) else [recipes]
    return list(map(str, [sys.executable, "-m", "gptlab", "train", *recipes, "--out", out, *flags]))


def launcher(processes, *options):
    """Return the words before a command that start so many of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--nproc-per-node", processes, "--master-addr", "127.0.0.1", "--master-port", port, *options]
    return [sys.executable, "-m", "torch.distributed.run", *map(str, words), "--no-python"]


def start(words, threads=1):
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


def rows(out, kind):
    return [row for row in read_rows(out / "metrics.jsonl") if row["kind"] == kind]


def record(out):
    """Return all rows but events, without what depends on the clock."""
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
