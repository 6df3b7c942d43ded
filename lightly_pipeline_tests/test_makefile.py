"""What `make` hands on to the commands, and what it says itself; nothing is installed or run here."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parent.parent / "Makefile"


@pytest.fixture
def make(tmp_path):
    """`make` with a lightly-pipeline that prints each of its arguments on a line."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "bin" / "lightly-pipeline").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "bin" / "lightly-pipeline").chmod(0o755)
    command = ["make", "-s", "-f", str(MAKEFILE), "-o", ".venv/.ready", "BIN=bin", f"PYTHON={sys.executable}"]
    return lambda *more: subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("folder", ["my videos", "it's here", 'a"b', "a; touch pwned", "~/holiday"])
def test_the_name_of_a_folder_arrives_as_it_is(make, folder):
    assert make("demo", f"VIDEOS={folder}", "COUNT=3").stdout.splitlines() == [
        "demo",
        "--videos",
        folder,
        "--count",
        "3",
    ]


def test_without_a_folder_none_is_named(make):
    assert make("demo").stdout.splitlines() == ["demo"]


def test_a_port_that_is_taken_is_one_sentence_with_the_way_out(make):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = make("dev", f"PORT={port}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith(
        f"Port {port} is taken: end the program that uses it, or choose another one: make dev"
    )
    assert "sandbox" in make("dev", f"PORT={port}").stdout.splitlines()
