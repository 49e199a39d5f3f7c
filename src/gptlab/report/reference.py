"""Losses of other models to draw beside those of runs, as `gptlab eval MODEL --task loss --json FILE` writes them."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from gptlab.errors import ConfigError
from gptlab.parsing import parse_json, typed
from gptlab.report.results import SHOWN_LETTERS
from gptlab.runs.history import Run, validated_texts

HIGHEST = 1000.0
"""Nats per token, many times those of a model that guesses."""


def read_references(file: Path, runs: Sequence[Run]) -> list[tuple[str, float]]:
    """Return each model in a file with its loss, in nats per token.

    Raises:
        ConfigError: the file holds no loss, or one that is not of the tokens on which every run is validated.
    """
    try:
        said = parse_json(file.read_bytes())
        found = [
            typed(tuple[str, float, str], [row[key] for key in ("model", "loss", "items_sha256")])
            for row in said.get("results", [said])
            if row["task"] == "loss"
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        found = []
    if not found or not all(0 < loss < HIGHEST for _, loss, _ in found):
        asked = f"gptlab eval MODEL --task loss --data DIR --json {file}"
        raise ConfigError(f'--reference {file}: not a file with a loss; write one with "{asked}"')
    for run, text in zip(runs, validated_texts(runs), strict=True):
        for model, _, sha256 in found:
            if text != sha256:
                raise ConfigError(_refusal(file, model, run))
    return [((Path(model).name or model)[:SHOWN_LETTERS], loss) for model, loss, _ in found]


def _refusal(file: Path, model: str, run: Run) -> str:
    words = ["gptlab", "eval", model, "--task", "loss"]
    for flag, key in {"--data": "data.path", "--limit": "eval.val_tokens"}.items():
        value = run.config.get(key, "none")
        words += [flag, str(value)] if value != "none" else []
    return (
        f"--reference {file}: {model} was not measured on the tokens that {run.name} is validated on; losses compare "
        f'only with the same shards, tokenizer, context and --limit: "{shlex.join([*words, "--json", str(file)])}"'
    )
