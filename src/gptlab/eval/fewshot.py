"""Which solved examples precede which question: lm-evaluation-harness's own draws.

Its sampler goes through the questions in order with one random generator, so the tenth question's examples
depend on the nine questions before it, and on none after it.
"""

import random
from collections.abc import Sequence

from gptlab.errors import TaskError

SEED = 1234  # lm-evaluation-harness's default


def draws(shots: int, questions: Sequence[int], pool: Sequence[int]) -> list[tuple[int, ...]]:
    """Return, for each question, the indices of its examples in the pool, in prompt order.

    One more than needed is drawn each time, since the question may be among them.

    Args:
        shots: examples per question.
        questions: a key for every question.
        pool: a key for every example that may be drawn; a question's own key is never drawn.

    Raises:
        TaskError: the pool is too small.

    Source: lm-evaluation-harness 0.4.13, api/samplers.py.
    """
    if len(pool) <= shots:
        raise TaskError(
            f"--shots {shots}: needs at least {shots + 1} examples to draw from, but there are {len(pool)}; "
            "give HellaSwag's training set with --fewshot-data FILE"
        )
    chance = random.Random(SEED)
    drawn: list[tuple[int, ...]] = []
    for key in questions:
        some = chance.sample(range(len(pool)), shots + 1)
        chosen = [number for number in some if pool[number] != key][:shots]
        if len(chosen) < shots:
            # The pool holds the question more than once.
            others = [number for number, other in enumerate(pool) if other != key]
            if len(others) < shots:
                raise TaskError(
                    f"--shots {shots}: the pool has only {len(others)} examples besides the question; ask for fewer"
                )
            chosen = chance.sample(others, shots)
        drawn.append(tuple(chosen))
    return drawn
