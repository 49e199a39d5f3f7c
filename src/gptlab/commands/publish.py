"""`gptlab publish`."""

from pathlib import Path
from typing import Any


def run(
    model: Path,
    repository: str,
    /,
    *,
    public: bool = False,
    licence: str | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Push a model and its card to the Hugging Face hub; run again to continue after a lost connection.

    Args:
        model: a run (its best checkpoint), a checkpoint, or a Hugging Face folder; an export keeps its card.
        repository: OWNER/NAME; created if it does not exist.
        public: let everyone see it.
        licence: the hub's identifier of the model's licence (mit, apache-2.0 ...), for the card.
        verify: first load the export in transformers and compare its logits with the model's.
    """
    from gptlab.actions.export import compared, publish

    facts, pushed = publish(model, repository, public=public, licence=licence, verify=verify)
    print(
        f"{repository}: {'private' if pushed['private'] else 'public'}, {facts['class']}, "
        f"{compared(facts['max_diff'])}"
    )
    print(f"  {pushed['url']}" + ("" if pushed["changed"] else " had all of it already"))
    return {**facts, **pushed}
