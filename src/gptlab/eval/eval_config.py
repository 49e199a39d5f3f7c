"""[eval] of a recipe."""

from dataclasses import dataclass

from gptlab.eval import small
from gptlab.eval.hellaswag import ProtocolName
from gptlab.eval.tasks import TaskName, expanded


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured during training, always at the first and the last step."""

    every_steps: int = 250
    """Optimizer steps between two validations, each with the tasks."""
    tasks: tuple[TaskName, ...] = ()
    """Tasks to score besides the validation loss."""
    val_tokens: int | None = 10_485_760
    """Tokens of the held-out split to take the validation loss over; None means all."""
    protocol: ProtocolName = "completion"
    """How HellaSwag is asked: as llm.c does (completion) or as lm-evaluation-harness does (harness)."""
    limit: int | None = None
    """First items of each task, for MMLU and BLiMP evenly of each part; None means all."""
    hellaswag_file: str | None = None
    """HellaSwag's validation set as JSONL; None downloads it once into ~/.cache/gptlab."""
    task_data: str | None = None
    """A folder with a file for each task, which `small` and its tasks need; docs/small_tasks.md has the commands."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "val_tokens", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        tasks = expanded(self.tasks)
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"tasks = {list(self.tasks)}: names one twice")
        if self.task_data is None and any(name in small.SMALL for name in tasks):
            raise ValueError(
                f"tasks = {list(self.tasks)}: reads local files; write them as docs/small_tasks.md says, and name "
                "their folder in task_data"
            )
