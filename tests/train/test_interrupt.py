"""Stopping: which requests count, and that all processes leave work at the same moment, whatever happens."""

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import TrainError
from gptlab.train import interrupt
from gptlab.train.interrupt import SIGNALS, Interrupt, together


class Alone(BaseException):
    """A vote with a process that has left, for which others would wait forever."""


class Room:
    """Lets the threads of a test vote as processes do."""

    def __init__(self, size):
        self.size, self.votes, self.totals, self.round, self.left = size, {}, [], 0, False
        self.change = threading.Condition()

    def seat(self, rank):
        return SimpleNamespace(size=self.size, count=lambda *facts: self.count(rank, facts))

    def count(self, rank, facts):
        with self.change:
            now, self.votes[rank] = self.round, facts
            if len(self.votes) == self.size:
                self.totals = [sum(column) for column in zip(*self.votes.values(), strict=True)]
                self.votes, self.round = {}, now + 1
                self.change.notify_all()
            self.change.wait_for(lambda: self.round > now or self.left)
            if self.round == now:
                raise Alone
            return self.totals

    def leave(self):
        with self.change:
            self.left = True
            self.change.notify_all()


class Wish(Interrupt):
    """An interrupt that wants to stop after a number of queries."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def wanted(self):
        self.after -= 1
        return self.after < 0


class Stopped(Exception):  # noqa: N818 (how evaluations leave when told to)
    pass


def go(plans):
    """Work by plans of (batches, whether it fails after them, when it wants to stop, whether it stops by raising)."""
    room, ends = Room(len(plans)), [None] * len(plans)

    def process(rank, batches, fails, wish, raises):
        def work(stop):
            for _ in range(batches):
                if stop():
                    if raises:
                        raise Stopped
                    return "half"
            if fails:
                raise ValueError(f"failure of {rank}")
            return "whole"

        try:
            ends[rank] = together(work, room.seat(rank), Wish(wish))
        except (Exception, Alone) as error:
            ends[rank] = error
        room.leave()

    threads = [threading.Thread(target=process, args=(rank, *plan)) for rank, plan in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


NEVER = 99
plans = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 5) | st.just(NEVER), st.booleans()),
    min_size=1,
    max_size=4,
)


@given(plans)
def test_all_leave_together_and_agree(plans):
    ends = go(plans)
    if None in ends:
        assert ends == [None] * len(plans)
        assert any(wish < NEVER for _, _, wish, _ in plans)
    elif any(fails for _, fails, _, _ in plans):
        failed = [isinstance(end, ValueError) for end in ends]
        assert any(failed)
        for rank, (end, own) in enumerate(zip(ends, failed, strict=True)):
            assert str(end) == (f"failure of {rank}" if own else "another process could not do its share")
            assert own <= plans[rank][1]
    else:
        assert ends == ["whole"] * len(plans)


def test_one_fails_and_the_other_is_told():
    failed, told = go([(1, True, NEVER, True), (3, False, NEVER, True)])
    assert (str(failed), type(told)) == ("failure of 0", TrainError)


def test_both_fail_at_once():
    assert list(map(str, go([(2, True, NEVER, True)] * 2))) == ["failure of 0", "failure of 1"]


@pytest.mark.parametrize("waiting", [0, 3], ids=["done", "at work"])
def test_one_fails_while_another_wants_to_stop_and_a_third_looks_on(waiting):
    assert go([(1, True, NEVER, True), (3, False, 1, True), (waiting, False, NEVER, True)]) == [None] * 3


def test_a_wish_after_the_last_batch_does_not_throw_the_result_away():
    assert go([(1, False, 1, True), (1, False, NEVER, True)]) == ["whole", "whole"]


def test_the_clock_is_heard_in_time_to_save(monkeypatch):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(interrupt, "time", clock)
    one, never = Interrupt(max_hours=1), Interrupt()
    one.reserve_s = 60
    clock.now += 3539
    assert not one.wanted()
    clock.now += 2
    assert one.wanted()
    assert one.reason == "the time given with --max-hours is used up"
    one.reserve_s = 0
    assert one.wanted()  # a request stays
    assert not never.wanted()


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_wishes_while_somebody_listens(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    with Interrupt().listening() as listening:
        assert not listening.wanted()
        signal.raise_signal(number)
        assert listening.wanted()
        assert listening.reason == signal.Signals(number).name
        if number != signal.SIGINT:
            signal.raise_signal(number)  # a second one changes nothing
        else:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_in_another_thread_nobody_listens():
    found = []
    thread = threading.Thread(target=lambda: found.append(Interrupt().listening().__enter__().wanted()))
    thread.start()
    thread.join()
    assert found == [False]


# A run in the middle of a step and a save, neither of which ends.
STUCK = """
import sys, threading, time
from gptlab import cli
from gptlab.runs import checkpoint
from gptlab.train.interrupt import Interrupt
from gptlab.train.step import Updater

saving, heard = threading.Event(), threading.Event()
backward, take = Updater._backward, Interrupt._take

def save(*arguments, **options):
    saving.set()
    time.sleep(3600)

def stuck(self, *arguments, **options):
    if saving.is_set():
        print("in a step", flush=True)
        while not heard.is_set():
            time.sleep(0.01)
        print("heard once", flush=True)
        time.sleep(3600)
    return backward(self, *arguments, **options)

def noted(self, *arguments):
    take(self, *arguments)
    heard.set()

checkpoint.save, Updater._backward, Interrupt._take = save, stuck, noted
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_sigint_stops_at_once(first, tiny_recipe, tmp_path):
    words = ["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "--train.save-every-steps", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    heard = iter(process.stdout)
    assert any("in a step" in line for line in heard)
    process.send_signal(first)
    assert any("heard once" in line for line in heard)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.endswith("gptlab train: stopped\n")
    assert not (tmp_path / "run" / "latest").exists()
