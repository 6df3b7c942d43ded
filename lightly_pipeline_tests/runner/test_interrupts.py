"""The interrupt gate with real signals, sent from outside to a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

_PROGRAM = """
import os, signal, sys, time
from lightly_pipeline.runner.interrupts import InterruptGate

def say(word):
    os.write(1, (word + "\\n").encode())

class Interrupted(BaseException):
    pass

def raise_it(number, frame):
    raise Interrupted

signal.signal(signal.SIGINT, raise_it)
signal.signal(signal.SIGTERM, raise_it)
"""


def _process(body: str) -> "subprocess.Popen[str]":
    program = _PROGRAM + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, text=True)


def _words(process: "subprocess.Popen[str]") -> list[str]:
    return process.communicate(timeout=20)[0].split()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_does_not_cut_the_clean_up_that_the_first_one_began(second: signal.Signals) -> None:
    """Ctrl-C reaches a Dagster step twice within 12 ms; the second one is raised inside its `finally:`."""
    process = _process(
        """
        try:
            with InterruptGate() as gate:
                try:
                    say("working")
                    time.sleep(20)
                finally:
                    say("cleaning")
                    time.sleep(0.5)
                    say("cleaned")
        except Interrupted:
            say("interrupted")
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    for number in (signal.SIGINT, second, second):
        process.send_signal(number)
        time.sleep(0.012)
    assert _words(process) == ["cleaning", "cleaned", "interrupted"]


def test_the_first_interrupt_inside_a_shield_waits_for_its_end() -> None:
    process = _process(
        """
        try:
            with InterruptGate() as gate:
                with gate.shield():
                    say("shielded")
                    time.sleep(0.5)
                    say("done")
                say("never")
        except Interrupted:
            say("interrupted")
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "shielded\n"
    process.send_signal(signal.SIGTERM)
    assert _words(process) == ["done", "interrupted"]


def test_whoever_insists_after_the_gate_was_reopened_is_heard() -> None:
    process = _process(
        """
        from lightly_pipeline.runner import interrupts

        interrupts._ECHO = 0.5
        try:
            with InterruptGate() as gate:
                try:
                    say("working")
                    time.sleep(20)
                finally:
                    gate.reopen()
                    say("waiting")
                    time.sleep(20)
                    say("never")
        except Interrupted:
            say("interrupted")
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "waiting\n"
    # Not the echo of the first one, which Dagster's executor forwards.
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    assert _words(process) == ["interrupted"]


def test_the_handlers_of_before_are_back_afterwards_also_of_signals_that_are_ignored() -> None:
    process = _process(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with InterruptGate():
            os.kill(os.getpid(), signal.SIGTERM)
            say("ignored")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is raise_it
        say("back")
        """
    )
    assert _words(process) == ["ignored", "back"]


def test_sigterm_without_a_handler_still_runs_the_clean_up() -> None:
    process = _process(
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with InterruptGate():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(20)
            finally:
                say("cleaned")
        """
    )
    assert _words(process) == ["cleaned"]
    assert process.returncode == 128 + signal.SIGTERM


def test_a_gate_off_the_main_thread_leaves_signals_alone() -> None:
    process = _process(
        """
        import threading
        def work():
            with InterruptGate():
                assert signal.getsignal(signal.SIGINT) is raise_it
                say("worked")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """
    )
    assert _words(process) == ["worked"]
    assert os.getpid() > 0
