"""Rewrite docs/classes.md: `python tests/formats/huggingface/class_page.py [MODEL_TYPE ...]`, in some minutes."""

import logging
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from class_outcome import outcome

PAGE = Path(__file__).parents[3] / "docs" / "classes.md"
HEAD = """\
# Classes of transformers

gptlab leaves Hugging Face folders whose model is not one of [its own](export.md) to transformers. This page was made
with transformers {version}, by building each class that its AutoModelForCausalLM knows small, with random weights,
and saving it as a folder.

*Right* means that gptlab's logits, log-likelihoods (of padded batches, too) and greedy text (of several prompts and
samples, and longer than the context) equal those of transformers for a single row without a cache. gptlab finds out
for every folder how to sample it: with its cache, if that gives the logits of the whole text, or else by reading the
whole text for every token, which is slow and right. After *refused* comes what gptlab says. If that names a change to
the folder's config.json, the class was tried again with it.

`pytest -m long tests/formats/huggingface/test_causal_classes.py` holds each class to its line, and `python
tests/formats/huggingface/class_page.py` writes this page.

{counts}

| model_type | class | outcome |
| --- | --- | --- |
"""


def classes() -> dict[str, str]:
    """Return the causal classes of the installed transformers by their model types."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return dict(NAMES)


def rows() -> dict[str, str]:
    """Return the page's outcome for each model type."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    cells = [line.strip("| ").split(" | ", 2) for line in lines if line.startswith("| `")]
    return {kind.strip("`"): said for kind, _, said in cells}


def fresh(model_type: str) -> tuple[str, str]:
    """Return a model type and its current outcome."""
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return model_type, outcome(model_type, Path(folder) / "model")
        except Exception as error:
            return model_type, f"WRONG: {type(error).__name__}: {error}"


def write(found: dict[str, str]) -> None:
    """Write the page."""
    import transformers

    right = sum(said.startswith("right") for said in found.values())
    after = sum("; before" in said for said in found.values() if said.startswith("right"))
    counts = (
        f"{len(found)} model types: {right} are right, {after} of them after a change of config.json; "
        f"{len(found) - right} are refused."
    )
    head = HEAD.format(version=transformers.__version__, counts=counts)
    lines = (
        f"| `{kind}` | `{name}` | {found[kind].replace('|', '/')} |\n" for kind, name in classes().items()
    )
    PAGE.write_text(head + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    known, asked = rows(), sys.argv[1:] or list(classes())
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=20) as pool:
        for kind, said in pool.imap_unordered(fresh, asked):
            known[kind] = said
            print(kind, said, flush=True)
    write({kind: known.get(kind, "not tried") for kind in classes()})
