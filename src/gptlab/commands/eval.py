"""`gptlab eval`."""

from pathlib import Path
from typing import Any, Literal


def run(
    models: tuple[Path, ...],
    /,
    *,
    task: str,
    protocol: Literal["completion", "harness", "lm-eval"] = "completion",
    shots: int | None = None,
    data: Path | None = None,
    fewshot_data: Path | None = None,
    task_data: Path | None = None,
    limit: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    samples: Path | None = None,
) -> dict[str, Any]:
    """Score a model on tasks, or compare two checkpoints; runs keep their scores for report and model card.

    Args:
        models: one or two of a run (its best checkpoint), a checkpoint, or a Hugging Face folder.
        task: hellaswag, continuation, loss (on prepared shards), or small, seven tasks that say something of small
            models; any other name is a task or group of lm-evaluation-harness, such as arc_easy or openllm; separate
            several with commas.
        protocol: how to ask HellaSwag: as llm.c does, or as lm-evaluation-harness does; or lm-eval, for any task the
            harness itself.
        shots: solved examples before each item; None means none, or as many as a task or group of the harness says.
        data: HellaSwag's JSONL (None downloads it), or for continuation and loss a prepared folder.
        fewshot_data: JSONL that HellaSwag's solved examples are drawn from; None downloads its training set.
        task_data: folder with a file for each task, which small needs; None downloads those of the harness.
        limit: first items, for MMLU and BLiMP evenly of each part, or for `loss` tokens; None means all.
        dtype: data type of matrix multiplications.
        device: where to run.
        samples: file for one JSON line per item.
    """
    from gptlab.actions.eval import Request, evaluate

    return evaluate(
        models,
        Request(
            task=task,
            protocol=protocol,
            shots=shots,
            data=data,
            fewshot_data=fewshot_data,
            task_data=task_data,
            limit=limit,
            dtype=dtype,
            device=device,
            samples=samples,
        ),
    )
