"""What waits to be decoded: its order, its bounds, and its end."""

import threading
import time
from contextlib import suppress

import pytest

from lightly_pipeline.worker.scan.backlog import _MOST, Backlog
from lightly_pipeline.worker.scan.keep import _LAG
from lightly_pipeline.worker.scan.packets import Stopped


def filled(threads, works, *, closed=True):
    backlog = Backlog(threads, threading.Event())
    for number, work in enumerate(works):
        backlog.put(number, work=work)
    if closed:
        backlog.close()
    return backlog


def everything(backlog):
    taken = []
    while (one := backlog.take()) is not None:
        taken.append(one)
    return taken


def test_while_more_comes_the_order_is_that_of_coming():
    backlog = filled(2, [1, 9, 5], closed=False)
    assert [backlog.take(), backlog.take()] == [(0, None), (1, None)]


def test_of_the_last_ones_the_longest_goes_first():
    assert everything(filled(2, [3, 1, 5, 4])) == [(2, 4), (3, 3), (0, 2), (1, 1)]


@pytest.mark.parametrize("works", [[9, 1, 2], [1, 9, 2], [1, 2, 9]])
def test_one_that_others_would_wait_for_goes_last(works):
    assert everything(filled(2, works))[-1] == (works.index(9), 1)


def test_one_thread_has_nobody_to_wait_for():
    assert [item for item, _ in everything(filled(1, [1, 9, 2]))] == [1, 2, 0]


def test_the_newest_waits_until_it_is_known_whether_it_is_the_last():
    backlog = filled(2, [1], closed=False)
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(backlog.take()))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    backlog.close()
    waiting.join(10)
    assert taken == [(0, 1)]


def test_one_that_is_not_complete_is_taken_at_once():
    backlog = Backlog(2, threading.Event())
    backlog.put("streamed", at_once=True)
    assert backlog.take() == ("streamed", None)


@pytest.mark.parametrize(("octets", "room"), [(0, 8), (5 << 20, 2), (50 << 20, 1)])
def test_no_more_waits_than_there_is_room_for(octets, room):
    stop = threading.Event()
    backlog = Backlog(2, stop)
    put = []

    def fill():
        with suppress(Stopped):
            for number in range(20):
                backlog.put(number, octets=octets)
                put.append(number)

    filling = threading.Thread(target=fill)
    filling.start()
    deadline = time.monotonic() + 10
    while len(put) < room and time.monotonic() < deadline:
        time.sleep(0.01)
    filling.join(0.3)
    assert len(put) == room
    stop.set()
    filling.join(10)
    assert not filling.is_alive()


def test_who_waits_is_told_that_the_work_was_given_up():
    stop = threading.Event()
    backlog = Backlog(2, stop)
    stop.set()
    with pytest.raises(Stopped):
        backlog.take()
    with pytest.raises(Stopped):
        backlog.put("one")


def test_nothing_overtakes_what_it_depends_on():
    """A chunk begins with what the one _LAG before it ended with."""
    assert _MOST <= _LAG
