import os

import pytest

from gptlab.data.prepare.workers import spread
from gptlab.errors import DataError


def double(number: int) -> int:
    return 2 * number


def die(number: int) -> int:
    os._exit(number)


def refuse(number: int) -> int:
    raise DataError(f"piece {number}: is damaged; mend it")


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_piece_comes_with_its_result(workers: int):
    assert sorted(spread(double, range(5), workers)) == [(number, 2 * number) for number in range(5)]
    assert list(spread(double, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_passes(workers: int):
    with pytest.raises(DataError, match="piece 3: is damaged"):
        list(spread(refuse, [3, 3], workers))


def test_a_worker_that_dies_is_told():
    with pytest.raises(DataError, match=r"ended abruptly, .* run again with fewer workers"):
        list(spread(die, [3, 3], 2))
