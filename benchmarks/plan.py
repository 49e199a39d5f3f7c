"""Whether `gptlab plan --calibrate` foretells how long a run takes: one try, by the commands that a user types.

    python benchmarks/plan.py small.toml --data data/corpus --hours 0.0833 --json benchmarks/results/plan_cpu.json

It measures the machine, trains the recipe that the plan writes, and compares the run's time, from the command to its
end, with the planned one. The run has the planned steps but not the plan's `train.hours`, which would end a slower run
in time and so hide the error; what the plan left of the hours is given beside it. --json adds the try to those that the
file holds already.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gptlab.machine.device import choose_device, describe
from gptlab.outputs import require_writable_file
from gptlab.runs.metrics import read_rows


def gptlab(*words: object) -> float:
    """Run a command, and return its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gptlab", *map(str, words)], check=True)
    return time.perf_counter() - began


def attempt(recipe: Path, data: Path, hours: float) -> dict[str, Any]:
    """Plan, train, and return both times."""
    with TemporaryDirectory(dir=".", prefix=".plan_") as name:
        folder = Path(name)
        plan, written, run = folder / "plan.json", folder / "planned.toml", folder / "run"
        words = ("--calibrate", "--recipe", recipe, "--data", data, "--hours", hours)
        calibrating_s = gptlab("plan", *words, "--write", written, "--json", plan)
        measured_s = gptlab("train", written, "--out", run, "--train.hours", "None")
        best = json.loads(plan.read_text())["best"]
        steps = [row["step_s"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "step"]
        pace = next(line for line in written.read_text().splitlines() if line.startswith("# Pace: "))
    planned_s = 3600 * best["hours"]
    return {
        "hours": hours,
        "pace": pace.removeprefix("# Pace: "),
        "calibrating_s": calibrating_s,
        "planned_steps": best["steps"],
        "measured_steps": len(steps),
        "planned_s": planned_s,
        "measured_s": measured_s,
        "measured_over_planned": measured_s / planned_s,
        "within_hours": measured_s <= 3600 * hours,
        "mean_step_s": sum(steps) / len(steps),
        "step_s": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=5 / 60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        require_writable_file(arguments.json, "--json")
    result = attempt(arguments.recipe, arguments.data, arguments.hours)
    print(json.dumps({key: value for key, value in result.items() if key != "step_s"}, indent=1))
    if arguments.json:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
        )
        facts = {"commit": commit.stdout.strip(), **describe(choose_device("auto"))}
        del facts["host"]
        held = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"tries": []}
        what = "seconds of a run over those that gptlab plan --calibrate foretold"
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        tries = [*held["tries"], facts | result]
        arguments.json.write_text(json.dumps({"what": what, "tries": tries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
