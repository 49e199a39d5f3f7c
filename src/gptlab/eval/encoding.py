"""A context and its endings as ids, cut as lm-evaluation-harness cuts them.

Source: lm-evaluation-harness 0.4.13, api/model.py.
"""

from collections.abc import Callable, Sequence

from gptlab.errors import TaskError
from gptlab.eval.item import Pair

Encode = Callable[[str], list[int]]


def pairs(context: str, endings: Sequence[str], encode: Encode) -> tuple[Pair, ...]:
    """Encode a context and each ending as one text, and cut it where the context ends.

    Raises:
        TaskError: an ending adds no token to the context.
    """
    # For the tokenizer a space belongs to the word after it, so the context keeps none at its end.
    kept = context.rstrip()
    space = context[len(kept) :]
    before = encode(kept)
    found = tuple((before, encode(f"{kept}{space}{ending}")[len(before) :]) for ending in endings)
    if not all(ending for _, ending in found):
        raise TaskError(f"an ending of {context!r} adds no token to it; write what happens next")
    return found
