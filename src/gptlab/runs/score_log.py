"""Scores of `gptlab eval`, kept in the metrics of the run that was scored, for report and model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.parsing import parse_json, typed
from gptlab.runs.checkpoint import folders_of
from gptlab.runs.folder import METRICS, STATE
from gptlab.runs.metrics import append_row, count_lines, went_back

BY = "gptlab eval"


@dataclass(frozen=True)
class ScoreLog:
    """Where the scores of a run's checkpoint are kept: the run's metrics."""

    run: Path
    step: int
    tokens: int
    lines: int
    """Lines of the run's metrics when the checkpoint was chosen."""

    def keep(self, score: Mapping[str, Any], items: Path | None) -> None:
        """Append a score to the run's metrics; print that, or why not.

        Args:
            score: the rest of the row.
            items: the file or folder that was named for the items; their hash identifies them.
        """
        path = self.run / METRICS
        name = items.resolve().name if items is not None else None
        row = {"step": self.step, "tokens": self.tokens, **score, "data": name}
        try:
            if went_back(path, self.step, self.lines):
                print(
                    f"  not kept in {_shown(path)}: the run has gone back to before step {self.step} meanwhile"
                )
                return
            append_row(path, "eval", row, BY)
        except OSError as error:
            print(f"  not kept in {_shown(path)}: {error.strerror or error}")
            return
        print(f"  kept in {_shown(path)}, for report and model card")


def score_log_of(run: Path | None, checkpoint: Path | None) -> ScoreLog | None:
    """Return where the scores of a checkpoint are kept; None if it belongs to no run."""
    if checkpoint is None or run is None or checkpoint.resolve() not in map(Path.resolve, folders_of(run)):
        return None
    try:
        lines = count_lines(run / METRICS)
        state = parse_json((checkpoint / STATE).read_bytes())
        return ScoreLog(run, typed(int, state["step"]), typed(int, state["tokens"]), lines)
    except (OSError, AttributeError, LookupError, TypeError, ValueError):
        return None  # loading it will say what is wrong


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
