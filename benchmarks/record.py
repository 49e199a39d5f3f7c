"""What the benchmarks share: flags, facts of the machine, and the file of results."""

import argparse
import json
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gptlab.errors import ConfigError
from gptlab.machine.device import describe
from gptlab.outputs import require_writable_file


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser of flags with --json, which tells a file's docstring as it stands."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path)
    return made


def parsed(flags: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: the file of --json cannot be written.
    """
    arguments = flags.parse_args()
    if arguments.json:
        try:
            require_writable_file(arguments.json, "--json")
        except ConfigError as error:
            raise SystemExit(str(error)) from None
    return arguments


def commit() -> str | None:
    """Return the commit of this checkout; None where there is no git, or no checkout."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def facts(device: torch.device) -> dict[str, Any]:
    """Return what was measured where."""
    return {"commit": commit(), **describe(device)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the bounds."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def tell(result: Mapping[str, Any], shown: Iterable[str], file: Path | None) -> None:
    """Print some of a result, and write all of it to the file of --json."""
    print(json.dumps({key: result[key] for key in shown}, indent=1))
    write(result, file)


def write(result: Mapping[str, Any], file: Path | None) -> None:
    """Write a result to the file of --json, if any."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
