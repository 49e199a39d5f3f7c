import random

import pytest

from gptlab.errors import TaskError
from gptlab.eval.fewshot import draws


def test_a_question_is_never_its_own_example():
    pool = [number % 20 for number in range(60)]
    for question, chosen in zip(range(20), draws(5, range(20), pool), strict=True):
        assert len(set(chosen)) == 5
        assert question not in [pool[number] for number in chosen]


def test_what_comes_later_changes_nothing():
    assert draws(3, range(100, 110), range(50)) == draws(3, range(100, 160), range(50))[:10]


def test_a_foreign_question_gets_the_first_of_one_more():
    chance = random.Random(1234)
    assert draws(10, [-1, -2], range(400)) == [tuple(chance.sample(range(400), 11)[:10]) for _ in range(2)]


@pytest.mark.parametrize("pool", [[], [7] * 3, [7] * 9])
def test_a_pool_that_is_too_small_is_refused(pool):
    with pytest.raises(TaskError, match="--shots 3"):
        draws(3, [7], pool)
