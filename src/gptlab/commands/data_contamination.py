"""`gptlab data contamination`."""

from pathlib import Path
from typing import Any, Literal


def run(
    folder: Path,
    /,
    *,
    task: Literal[
        "hellaswag",
        "continuation",
        "arc_easy",
        "arc_challenge",
        "piqa",
        "lambada_openai",
        "mmlu_continuation",
        "blimp",
    ]
    | None = None,
    data: Path | None = None,
    items: Path | None = None,
    text_column: str | None = None,
    n: int = 13,
    workers: int | None = None,
) -> dict[str, Any]:
    """Search the training shards for word n-grams of a task's items.

    Args:
        folder: the prepared folder.
        task: the task whose items to look for.
        data: the task's file; None downloads HellaSwag's.
        items: instead of a task, .txt, .jsonl or .parquet with the documents to look for.
        text_column: the column of their text in .jsonl and .parquet; None finds it.
        n: words per n-gram; GPT-3 used 13.
        workers: processes; None means one per core.
    """
    from gptlab.actions.contamination import contamination, told

    facts = contamination(
        folder, task=task, data=data, items=items, text_column=text_column, n=n, workers=workers
    )
    print(told(facts))
    return facts
