"""All that needs a GPU behind one command: what it computes, and how fast.

    python benchmarks/gpu.py --out gpu
    python benchmarks/gpu.py --out gpu --only parity --only step
    python benchmarks/gpu.py --out gpu --only learn --learn recipes/gpt2_124m.toml recipes/rope_gelu_124m.toml
    python benchmarks/gpu.py --out gpu --device cpu --tiny        # the same code in small, for CI

A section is a process of its own with a time limit, so that one that crashes, hangs or breaks the device costs
nothing but itself; what it had found by then is kept. Results are written as they come, small sections share a
file, and those of sections that are not run again stay. summary.txt has a line for each fact. With `--only` a
section is run alone. The step is also compared with nanoGPT's and llm.c's model, where .peers/nanogpt_model.py and
.peers/llmc_train_gpt2.py are; `learn` reads .data/english, and HellaSwag .data/hellaswag_val_sample.jsonl.
The exit code is 0 when all is done and right.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from record import facts as facts_of
from sections import capacity, environment, learned, marked, parity, profiled, reading, roofline, sides
from sections.section import Complaint, Job, flagged, read_json, write_json

from gptlab.errors import brief
from gptlab.machine.device import choose_device

LOOK_EVERY_S = 1.0  # at what a section has found so far


@dataclass(frozen=True)
class Section:
    """A part of the benchmark."""

    module: ModuleType
    """Its `run` measures, and its `told` says what a person wants to know of that, a line a fact."""
    file: str
    limit_s: float
    of_each_recipe_s: float = 0.0

    def limit(self, recipes: int) -> float:
        """Return how long it may take."""
        return self.limit_s + self.of_each_recipe_s * recipes


# The most important first, as a borrowed card may go away.
SECTIONS = {
    "environment": Section(environment, "environment.json", 30),
    "parity": Section(parity, "parity.json", 95),
    "tests": Section(marked, "tests.json", 110),
    "step": Section(sides, "step.json", 165),
    "roofline": Section(roofline, "environment.json", 30),
    "memory": Section(capacity, "memory.json", 35),
    "speed": Section(reading, "memory.json", 35),
    "profile": Section(profiled, "memory.json", 60),
    "learn": Section(learned, "learn.json", 30, of_each_recipe_s=110),
}
SUMMARY = "summary.txt"


@dataclass(frozen=True)
class Outcome:
    """How a section's process ended, and what it found."""

    status: str
    seconds: float
    found: dict[str, Any]
    log: list[str]


def supervise(
    command: Sequence[str],
    limit_s: float,
    scratch: Path,
    look: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Run a section's process until it ends or its time is over; all that it started ends with it.

    Args:
        command: its words.
        limit_s: its time.
        scratch: a folder of its own, in which it leaves found.json.
        look: shown now and then what it has found so far.
    """
    file, log = scratch / "found.json", scratch / "log.txt"
    began, status = time.monotonic(), "out of time"

    def outcome(status: str, lines: list[str]) -> Outcome:
        return Outcome(status, time.monotonic() - began, read_json(file), lines)

    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            while (left := began + limit_s - time.monotonic()) > 0:
                try:
                    code = process.wait(min(left, LOOK_EVERY_S))
                    status = "done" if code == 0 else f"failed: {_died(code)}"
                    break
                except subprocess.TimeoutExpired:
                    look(outcome("running", []))
        finally:
            _end(process)
    lines = log.read_text("utf-8", errors="replace").splitlines()[-40:]
    ended = outcome(status, lines)
    if status.startswith("failed") and "failure" in ended.found:
        return replace(ended, status=f"failed: {ended.found.pop('failure')}")
    return ended


def _died(code: int) -> str:
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its group, and wait a little for the memory of the card to be free again."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 3
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.05)


def run_section(name: str, arguments: argparse.Namespace, facts: Mapping[str, Any]) -> str:
    """Run a section, keep what it finds, and return how it ended."""
    recipes = len(arguments.learn) or int(arguments.tiny)  # the tiny one is learned unasked
    limit_s = SECTIONS[name].limit(recipes) * arguments.limit_scale
    look = partial(keep, arguments.out, name, facts=facts)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        flags = {"section": name, "scratch": scratch, "limit": limit_s}
        flags |= {"out": arguments.out, "device": arguments.device}
        command = [sys.executable, __file__, *flagged(flags), *["--tiny"] * arguments.tiny]
        command += ["--learn", *arguments.learn] if arguments.learn else []
        outcome = supervise(command, limit_s, Path(scratch), look)
    look(outcome)
    print(f"{name}: {outcome.status} ({outcome.seconds:.0f} of {limit_s:.0f} s)", flush=True)
    if outcome.status != "done":
        print("\n".join(f"    {line}" for line in outcome.log[-12:]), flush=True)
    return outcome.status


def be_section(name: str, arguments: argparse.Namespace) -> int:
    """Be the process of one section."""
    job = Job(
        choose_device(arguments.device),
        arguments.tiny,
        arguments.learn,
        arguments.limit,
        arguments.scratch,
    )
    try:
        SECTIONS[name].module.run(job)
    except Complaint as complaint:
        job.note(failure=str(complaint))
        return 1
    except Exception as error:
        traceback.print_exc()
        job.note(failure=brief(error))
        return 1
    return 0


def keep(out: Path, name: str, outcome: Outcome, facts: Mapping[str, Any]) -> None:
    """Put what a section found into its file, beside what other sections have there."""
    file = out / SECTIONS[name].file
    sections = read_json(file).get("sections", {})
    sections[name] = {"status": outcome.status, "seconds": outcome.seconds, **facts, "found": outcome.found}
    if outcome.status not in ("done", "running"):
        sections[name]["log"] = outcome.log
    write_json(file, {**facts, "sections": sections})


def kept(out: Path) -> dict[str, dict[str, Any]]:
    """Return what the files say of each section, those of earlier calls included."""
    sections: dict[str, dict[str, Any]] = {}
    for name, section in SECTIONS.items():
        found = read_json(out / section.file).get("sections", {}).get(name)
        if found is not None:
            sections[name] = found
    return sections


def summary(out: Path, facts: Mapping[str, Any]) -> str:
    """Say everything in a line a fact."""
    lines = [
        f"{facts['device']}, torch {facts['torch']}, commit {facts['commit']}" + ", tiny" * facts["tiny"]
    ]
    for name, section in kept(out).items():
        other = [f"{key} {section[key]}" for key in facts if section[key] != facts[key]]
        lines.append("")
        lines.append(
            f"{name}: {section['status']} ({section['seconds']:.0f} s)" + "".join(f", {o}" for o in other)
        )
        with contextlib.suppress(KeyError, ValueError, TypeError):  # what a section did not come to
            for line in SECTIONS[name].module.told(section["found"]):
                lines.append(f"  {line}")
    return "\n".join(lines) + "\n"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: with one line that says what is wrong.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for at most seven files")
    parser.add_argument("--only", action="append", default=[], metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the same code in small")
    parser.add_argument(
        "--learn",
        nargs="+",
        default=[],
        metavar="RECIPE",
        help="recipes, overlays joined by +, to train briefly",
    )
    parser.add_argument(
        "--limit-scale", type=float, default=1.0, metavar="X", help="so many times the time, for slower cards"
    )
    for hidden, kind in (("--section", str), ("--scratch", Path), ("--limit", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    for name in arguments.only:
        if name not in SECTIONS:
            raise SystemExit(f"--only {name}: no such section; there are {', '.join(SECTIONS)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device here; --device cpu --tiny tries the code")
    if arguments.device == "cpu" and not arguments.tiny:
        raise SystemExit("--device cpu: would take hours; add --tiny")
    for file in (part for recipe in arguments.learn for part in recipe.split("+")):
        if not Path(file).is_file():
            raise SystemExit(f"--learn {file}: no such file; see the recipes/ folder for those there are")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise SystemExit(f"--out {arguments.out}: is a file; name a folder")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.section is not None:
        return be_section(arguments.section, arguments)
    # Whoever ends this process wants the section's ended, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if paths := os.environ.get("PYTHONPATH"):  # tests work in folders of their own
        resolved = [str(Path(path).resolve()) for path in paths.split(os.pathsep) if path]
        os.environ["PYTHONPATH"] = os.pathsep.join(resolved)
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = facts_of(choose_device(arguments.device))
    facts = {key: machine[key] for key in ("device", "torch", "commit")} | {"tiny": arguments.tiny}
    statuses: set[str] = set()
    for name in (name for name in SECTIONS if not arguments.only or name in arguments.only):
        statuses.add(run_section(name, arguments, facts))
        (arguments.out / SUMMARY).write_text(summary(arguments.out, facts), "utf-8")
    print("\n" + (arguments.out / SUMMARY).read_text("utf-8"), end="")
    return 0 if statuses == {"done"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
