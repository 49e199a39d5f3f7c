import threading

import pytest

from gptlab.errors import DataError
from gptlab.train.read_ahead import ReadAhead


def following(request):
    first, count = request
    for start in range(first + count, 40, count):
        yield start, count


class Reader:
    def __init__(self):
        self.asked, self.threads = [], set()
        self.release = threading.Event()
        self.release.set()

    def read(self, first, count):
        self.release.wait(60)
        self.asked.append((first, count))
        self.threads.add(threading.current_thread().name)
        if first == 24:
            raise DataError("shard x: is missing")
        return list(range(first, first + count))


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("nothing was read ahead")


def test_what_is_foretold_is_there_before_it_is_asked_for():
    reader = Reader()
    with ReadAhead(reader.read, following, depth=2) as ahead:
        assert ahead.ask(0, 4) == [0, 1, 2, 3]
        wait_for(lambda: len(reader.asked) == 3)
        assert reader.asked == [(0, 4), (4, 4), (8, 4)]
        reader.release.clear()  # everything to come has been read
        assert ahead.ask(4, 4) == [4, 5, 6, 7]
        reader.release.set()
    assert all(name.startswith("read-ahead") for name in reader.threads)


def test_each_is_read_once_and_no_more_than_the_depth():
    reader = Reader()
    with ReadAhead(reader.read, following, depth=1) as ahead:
        for first in range(0, 24, 4):
            assert ahead.ask(first, 4)[0] == first
    assert len(set(reader.asked)) == len(reader.asked) <= 7


def test_another_way_is_taken_from_there_on():
    reader = Reader()
    with ReadAhead(reader.read, following, depth=2) as ahead:
        ahead.ask(0, 4)
        assert ahead.ask(28, 2) == [28, 29]
        assert ahead.ask(30, 2) == [30, 31]
        assert ahead.ask(38, 2) == [38, 39]
        assert ahead.ask(0, 4) == [0, 1, 2, 3]


def test_what_was_forgotten_is_read_again():
    reader = Reader()
    with ReadAhead(reader.read, following, depth=1) as ahead:
        ahead.ask(0, 4)
        wait_for(lambda: (4, 4) in reader.asked)
        ahead.forget()
        ahead.ask(4, 4)
    assert reader.asked.count((4, 4)) == 2


def test_errors_are_raised_where_the_answer_is_wanted():
    reader = Reader()
    with ReadAhead(reader.read, following, depth=2) as ahead:
        assert ahead.ask(16, 4)
        assert ahead.ask(20, 4)
        with pytest.raises(DataError, match="shard x: is missing"):
            ahead.ask(24, 4)


def test_no_thread_stays():
    before = threading.active_count()
    with ReadAhead(Reader().read, following, depth=2) as ahead:
        ahead.ask(0, 4)
    assert threading.active_count() == before
