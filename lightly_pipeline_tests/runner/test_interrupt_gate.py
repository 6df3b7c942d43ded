"""Interrupts that follow one another: which end the work, which are echoes, and who may insist."""

import os
import signal
from collections.abc import Iterator

import pytest

from lightly_pipeline.runner import interrupts
from lightly_pipeline.runner.interrupts import InterruptGate


@pytest.fixture
def press() -> Iterator[object]:
    """Ctrl-C, as the kernel delivers it to this process; ends as KeyboardInterrupt where it is let through."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, previous)


def test_the_second_interrupt_of_one_ctrl_c_ends_no_clean_up(press):
    with InterruptGate() as gate:
        with pytest.raises(KeyboardInterrupt):
            press()
        press()
        with gate.shield():
            press()


def test_an_echo_does_not_end_the_part_of_the_clean_up_that_may_be_abandoned(press):
    """The executor forwards the interrupt of the process group some time later: after the gate was reopened."""
    with InterruptGate() as gate:
        with pytest.raises(KeyboardInterrupt):
            press()
        gate.reopen()
        press()
        press()


def test_who_presses_again_after_a_while_is_obeyed(press, monkeypatch):
    with InterruptGate() as gate:
        with pytest.raises(KeyboardInterrupt):
            press()
        gate.reopen()
        monkeypatch.setattr(interrupts, "_ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            press()


def test_the_first_interrupt_after_a_refused_stop_is_obeyed(press):
    with InterruptGate() as gate:
        gate.reopen()
        with pytest.raises(KeyboardInterrupt):
            press()
