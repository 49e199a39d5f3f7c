"""`gptlab data contamination`."""

from pathlib import Path
from typing import Any, Literal


def run(
    folder: Path,
    /,
    *,
    task: Literal["hellaswag", "continuation"] | None = None,
    data: Path | None = None,
    items: Path | None = None,
    text_column: str | None = None,
    n: int = 13,
    workers: int | None = None,
) -> dict[str, Any]:
    """Search the training shards for word n-grams of a task's items.

    Args:
        folder: the prepared folder.
        task: whose items to look for.
        data: HellaSwag's JSONL; None downloads it.
        items: instead of a task, .txt, .jsonl or .parquet whose documents to look for.
        text_column: where the text of these is, in .jsonl and .parquet; None finds it.
        n: words of an n-gram; 13 is GPT-3's.
        workers: processes; None is one for each core.
    """
    from gptlab.contamination import contamination, told

    facts = contamination(
        folder, task=task, data=data, items=items, text_column=text_column, n=n, workers=workers
    )
    print(told(facts))
    return facts
