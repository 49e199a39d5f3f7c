"""Whether `gptlab plan --calibrate` foretells how long a run takes: one try, by the commands that a user types.

    python benchmarks/plan.py small.toml --data data/corpus --hours 0.0833 --json benchmarks/results/plan_cpu.json

It measures the machine, trains the recipe that the plan writes, and compares the run's time, from the command to its
end, with the planned one. The run has the planned steps but not the plan's `train.hours`, which would end a slower run
in time and so hide the error; what the plan left of the hours is given beside it. --json adds the try to those that the
file holds already.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import record

from gptlab.machine.device import choose_device
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
    flags = record.parser(__doc__)
    flags.add_argument("recipe", type=Path)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--hours", type=float, default=5 / 60)
    arguments = record.parsed(flags)
    result = attempt(arguments.recipe, arguments.data, arguments.hours)
    print(json.dumps({key: value for key, value in result.items() if key != "step_s"}, indent=1))
    if arguments.json:
        held = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"tries": []}
        what = "seconds of a run over those that gptlab plan --calibrate foretold"
        tries = [*held["tries"], record.facts(choose_device("auto")) | result]
        record.write({"what": what, "tries": tries}, arguments.json)


if __name__ == "__main__":
    main()
