"""Tokenizing a Parquet corpus for GPT-2: gptlab against two ways in common use, each a process of its own.

    python benchmarks/prepare.py CORPUS --vocabulary FOLDER --rounds 5 --json benchmarks/results/prepare_cpu.json

gptlab        `gptlab data prepare` and `gptlab data verify`: from Parquet to shards that were read again
datasets      datasets.map with transformers' GPT2TokenizerFast, batched, two processes; tokens stay in its Arrow
pool          tiktoken in a multiprocessing.Pool, a document a task, as llm.c's fineweb script has it; one .bin

Every side uses two processes and starts cold, imports included. CORPUS is a folder of Parquet files with a column
`text`, FOLDER holds GPT-2's vocab.json and merges.txt. Peak memory is the largest sum over a side's processes,
sampled twenty times a second, on the corpus and, for gptlab, on its files twice.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gptlab.outputs import require_writable_file

WORKERS = 2

DATASETS = """
import sys
from pathlib import Path
import datasets
from transformers import GPT2TokenizerFast
if __name__ == "__main__":
    corpus, out, vocabulary = sys.argv[1:]
    tokenizer = GPT2TokenizerFast(vocab=f"{vocabulary}/vocab.json", merges=f"{vocabulary}/merges.txt")
    datasets.disable_progress_bars()
    files = sorted(map(str, Path(corpus).rglob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=out)
    done = rows.map(
        lambda batch: {"ids": tokenizer(batch["text"])["input_ids"]},
        batched=True, num_proc=2, remove_columns=rows.column_names,
    )
    print(sum(map(len, done["ids"])) + len(done))
"""

POOL = """
import sys
import multiprocessing
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
import tiktoken
encoding = tiktoken.get_encoding("gpt2")
def tokenize(text):
    return np.array([encoding.eot_token, *encoding.encode_ordinary(text)], dtype=np.uint16)
def documents(corpus):
    for path in sorted(Path(corpus).rglob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
            yield from batch.column(0).to_pylist()
if __name__ == "__main__":
    corpus, out, _ = sys.argv[1:]
    tokens = 0
    with multiprocessing.Pool(2) as pool, open(f"{out}/train.bin", "wb") as file:
        for ids in pool.imap(tokenize, documents(corpus), chunksize=16):
            file.write(ids.tobytes())
            tokens += ids.size
    print(tokens)
"""


def gptlab(corpus: Path, out: Path, _: Path) -> list[list[str]]:
    command = [sys.executable, "-m", "gptlab", "data"]
    prepare = [*command, "prepare", str(corpus), str(out / "shards"), "--workers", str(WORKERS)]
    return [prepare, [*command, "verify", str(out / "shards")]]


def script(text: str) -> Callable[[Path, Path, Path], list[list[str]]]:
    def commands(corpus: Path, out: Path, vocabulary: Path) -> list[list[str]]:
        (out / "script.py").write_text(text)
        return [[sys.executable, str(out / "script.py"), str(corpus), str(out), str(vocabulary)]]

    return commands


SIDES = {"gptlab": gptlab, "datasets": script(DATASETS), "pool": script(POOL)}


def measure(commands: list[list[str]]) -> tuple[float, float, str]:
    """Run commands one after the other; return seconds, peak bytes of their processes, and what they said."""
    peak, said, began = 0.0, "", time.perf_counter()
    for command in commands:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        done = threading.Event()
        peaks: list[float] = []
        watcher = threading.Thread(target=watch, args=(process.pid, done, peaks))
        watcher.start()
        said += process.communicate()[0]
        done.set()
        watcher.join()
        if process.returncode:
            raise SystemExit(f"{command} failed")
        peak = max(peak, *peaks)
    return time.perf_counter() - began, peak, said


def watch(root: int, done: threading.Event, peaks: list[float]) -> None:
    while not done.wait(0.05):
        peaks.append(sum(resident(pid) for pid in [root, *children(root)]))


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    found = [int(child) for child in text.split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def resident(pid: int) -> float:
    """Return a process's share of physical memory, in bytes; what several share is divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0.0)


def tokens_of(name: str, said: str) -> int:
    if name != "gptlab":
        return int(said.split()[-1])
    first = said.splitlines()[0].replace(",", "").split()
    return int(first[first.index("tokens") - 1]) + int(first[first.index("validate") - 2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        require_writable_file(arguments.json, "--json")

    import pyarrow.parquet as pq

    from gptlab.machine.device import choose_device, describe

    files = sorted(arguments.corpus.rglob("*.parquet"))
    text_bytes = 0
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
            text_bytes += sum(len(text.encode()) for text in batch.column(0).to_pylist())
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    peaks: dict[str, list[float]] = {name: [] for name in SIDES}
    tokens: dict[str, int] = {}
    for number in range(arguments.rounds):
        for name, commands in SIDES.items():
            with tempfile.TemporaryDirectory() as out:
                took, peak, said = measure(commands(arguments.corpus, Path(out), arguments.vocabulary))
            seconds[name].append(took)
            peaks[name].append(peak)
            tokens[name] = tokens_of(name, said)
        print(
            f"round {number + 1}: " + "  ".join(f"{name} {s[-1]:.1f} s" for name, s in seconds.items()),
            flush=True,
        )
    if len(set(tokens.values())) != 1:
        raise SystemExit(f"the sides made different numbers of tokens: {tokens}")
    with tempfile.TemporaryDirectory() as folder:
        twice = Path(folder) / "twice"
        twice.mkdir()
        for copy in range(2):
            for path in files:
                shutil.copy(path, twice / f"{copy}_{path.name}")
        _, twice_peak, _ = measure(gptlab(twice, Path(folder), arguments.vocabulary))

    def ratios(other: str) -> dict[str, float]:
        pairs = [theirs / ours for ours, theirs in zip(seconds["gptlab"], seconds[other], strict=True)]
        return {"median": statistics.median(pairs), "least": min(pairs), "most": max(pairs)}

    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    result = {
        "what": "GPT-2 tokens of a Parquet corpus, two processes a side, imports included",
        "text_bytes": text_bytes,
        "tokens": tokens["gptlab"],
        "commit": commit.stdout.strip(),
        **describe(choose_device("cpu")),
        "seconds": seconds,
        "median_MB_per_s": {name: text_bytes / 1e6 / statistics.median(s) for name, s in seconds.items()},
        "speedup": {name: ratios(name) for name in SIDES if name != "gptlab"},
        "peak_bytes": {name: max(peak) for name, peak in peaks.items()},
        "peak_bytes_on_twice_the_corpus": twice_peak,
    }
    del result["host"]
    print(json.dumps({key: result[key] for key in ("median_MB_per_s", "speedup", "peak_bytes")}, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
