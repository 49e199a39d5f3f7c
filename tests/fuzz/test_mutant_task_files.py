"""Mutants of task files: each is refused in a line, or scored as lm-evaluation-harness's own model scores it."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mutations import Traps
from task_files import ROWS, mutant

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import GptlabError
from gptlab.eval import tasks
from gptlab.formats.huggingface.write import export
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

FEW, MANY = 12, 1_500
CONTEXT = 128
METRICS = {"acc": "acc", "acc_norm": "acc_norm", "stderr": "acc_stderr", "perplexity": "perplexity"}

# What the library that reads files for the harness says of one that it cannot read: nobody has a number to compare.
UNREAD = ("DatasetGenerationError", "ValueError: Expected object or value")

# Its own model asserts that an ending fits the context, where ours cuts and counts; an ending of no letters makes it
# divide by their number, of which this suite's warnings make an error.
FAILS = ("AssertionError: ", "RuntimeWarning: divide by zero")

Ends = dict[str, Any] | str  # the numbers, or why there are none


@pytest.fixture(scope="module")
def network() -> GeneratingGPT:
    torch.manual_seed(3)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": CONTEXT, "vocab_size": 257}
    model = GeneratingGPT(ModelConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def models(network, tmp_path_factory) -> tuple[Any, Any]:
    """Our model of the harness, and the harness's own, on one folder."""
    from lm_eval.models.huggingface import HFLM

    from gptlab.actions import lm_eval

    folder = tmp_path_factory.mktemp("export") / "hf"
    export(network, load_tokenizer("bytes"), folder, verify=False)
    ours = lm_eval.from_arguments(path=str(folder), device="cpu")
    return ours, HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)


def by_the_harness(model: Any, task: str, folder: Path) -> Ends:
    """What lm-evaluation-harness says by itself."""
    from lm_eval import simple_evaluate

    from gptlab.eval import harness, task_data
    from gptlab.eval.task_groups import members

    manager = harness._task_manager()
    try:
        single = members(task, manager.task_index)
        with harness._quiet(), task_data.redefined(single, folder, 0) as specs:
            found = simple_evaluate(
                model, tasks=specs, task_manager=manager, num_fewshot=0, bootstrap_iters=10
            )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    results = found["results"][task]
    samples = sorted(found["samples"][task], key=lambda line: line["doc_id"])
    sums = [[total for total, _ in sample["filtered_resps"]] for sample in samples]
    return {name: results.get(f"{theirs},none") for name, theirs in METRICS.items()} | {"sums": sums}


def by_our_harness(model: Any, task: str, folder: Path) -> Ends:
    from gptlab.eval import harness

    try:
        (line,) = harness.evaluate(model, [task], shots=0, limit=None, data=folder)
    except GptlabError as error:
        return str(error)
    return {name: line.get(name) for name in METRICS}


def by_our_protocol(network: GeneratingGPT, task: str, folder: Path) -> Ends:
    """`gptlab eval --protocol harness --task-data FOLDER`."""
    try:
        asked = tasks.build(
            task,
            tasks.Inputs(
                tokenizer=load_tokenizer("bytes"), context=CONTEXT, task_data=folder, protocol="harness"
            ),
        )
        score = asked.evaluate(network, device="cpu", quiet=True)
    except GptlabError as error:
        return str(error)
    sums = [row["log_likelihoods"] for row in score.rows]
    found = {"acc": score.acc, "stderr": score.stderr, "sums": sums}
    return found | ({"acc_norm": score.acc_norm} if score.acc_norm is not None else {})


def difference(ours: Ends, theirs: Ends) -> str | None:
    """Say in what numbers of ours are not theirs."""
    if isinstance(ours, str):
        return None if ours.isprintable() else f"refused on several lines: {ours}"
    if isinstance(theirs, str) and theirs.startswith(UNREAD):
        return None  # Arrow wants one type a column and no half letters; nobody has a number to compare
    if isinstance(theirs, str) and theirs.startswith(FAILS):
        return None
    if isinstance(theirs, str):
        return f"taken, and refused by the harness: {theirs}"
    for name in ours.keys() & theirs.keys() - {"sums"}:
        one, other = (None if value in ("N/A", None) else value for value in (ours[name], theirs[name]))
        if name == "stderr" and None in (one, other):  # of a single item
            continue
        if None in (one, other) or one != pytest.approx(other, rel=1e-3, nan_ok=True):
            if one is other:
                continue
            return f"{name} is {one}, theirs {other}"
    if "sums" in ours and "sums" in theirs:
        for one, other in zip(ours["sums"], theirs["sums"], strict=True):
            if one != pytest.approx(other, abs=1e-3, rel=1e-4):
                return f"log-likelihoods are {one}, theirs {other}"
    return None


def go_through(count: int, folder: Path, network: GeneratingGPT, models: tuple[Any, Any]) -> Counter[str]:
    """Try mutants; return how many ended how."""
    traps = Traps(folder / "canary", folder / "secret")
    ends, problems = Counter[str](), list[str]()
    for number in range(count):
        draw = random.Random(f"tasks {number}")
        task = draw.choice(("hellaswag", *ROWS))
        content = mutant(task, draw, traps)
        (folder / f"{task}.jsonl").write_bytes(content)
        theirs = by_the_harness(models[1], task, folder)
        found = {"task-data": by_our_harness(models[0], task, folder)}
        found["protocol"] = by_our_protocol(network, task, folder)
        for way, ours in found.items():
            if (told := difference(ours, theirs)) is not None:
                problems.append(f"mutant {number}, {task}, {way}: {told}\n  {content[:1500]!r}")
            if (
                way == "task-data"
                and not isinstance(ours, str)
                and isinstance(theirs, str)
                and not theirs.startswith(FAILS)
            ):
                problems.append(f"mutant {number}, {task}: taken, and refused by the harness: {theirs}")
            if way == "task-data" and isinstance(ours, str) and not isinstance(theirs, str):
                problems.append(f"mutant {number}, {task}: refused without need: {ours}\n  {content[:900]!r}")
            ends[f"{way} {'refused' if isinstance(ours, str) else 'scored'}"] += 1
        (folder / f"{task}.jsonl").unlink()
    assert not (folder / "canary").exists()
    assert not problems, f"{len(problems)} of {count}:\n" + "\n".join(problems)[:12000]
    return ends


def test_some_task_files(tmp_path, network, models) -> None:
    ends = go_through(FEW, tmp_path, network, models)
    assert min(ends["task-data scored"], ends["task-data refused"]) > FEW // 10, ends


@pytest.mark.long
def test_many_task_files(tmp_path, network, models) -> None:
    for end, times in go_through(MANY, tmp_path, network, models).most_common():
        print(f"{times:6,}  {end}")
