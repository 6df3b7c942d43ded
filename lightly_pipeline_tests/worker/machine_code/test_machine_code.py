"""Kernels: made once, kept where nobody else writes, called with what they read and nothing else."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lightly_pipeline.worker.machine_code import flat, loading


@pytest.mark.parametrize("room", ["scan", "select"])
def test_machine_code_is_made_once_and_then_loaded_without_the_compiler(tmp_path, room):
    """Importing numba takes longer than decoding a short clip."""
    code = (
        f"import sys; from lightly_pipeline.worker.{room}.compiled import kernels; kernels(); "
        "print('numba' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert outputs == ["True", "False"]
    (file,) = (tmp_path / "cache").rglob("kernels-*.bin")
    assert loading._read(file) is not None
    file.write_bytes(file.read_bytes()[:-100])
    assert loading._read(file) is None, "a torn file must be made again, not run"


def test_a_cache_that_others_can_write_to_is_not_loaded_from(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    file = folder / "kernels.bin"
    assert not loading._write(file, {}, [], [])
    folder.chmod(0o700)
    assert loading._write(file, {"a": "b"}, ["c"], [b"code"])
    assert loading._read(file) == ({"a": "b"}, ["c"], [b"code"])
    folder.chmod(0o777)
    assert loading._read(file) is None


def test_a_kernel_is_given_addresses_numbers_and_the_bits_of_fractions():
    array = np.arange(3, dtype=np.float32)
    address = array.ctypes.data
    assert flat([array, (7, (array,)), np.float32(0.5)]) == (address, 7, address, np.float64(0.5).view(np.int64))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3, np.int32), "not int32"),
        (np.zeros(3, bool), "not bool"),
        (np.zeros(3, ">f4"), "not >f4"),
        (np.zeros((3, 4), np.float32).T, "strides"),
        (np.zeros(6, np.float32)[::2], "strides"),
    ],
)
def test_an_array_that_a_kernel_would_read_wrongly_is_refused(array, words):
    with pytest.raises((TypeError, ValueError), match=words):
        flat([array])


def test_loading_leaves_numba_as_it_was():
    """Of the names that machine code refers to some are numba's own, and compiled functions of others need them."""
    code = """
import numba, numpy as np
from lightly_pipeline.worker.select.compiled import kernels
kernels()
@numba.njit
def later(size):
    if size < 0: raise ValueError("negative")
    return np.zeros(size).sum()
kernels()
print(later(3))
try: later(-1)
except ValueError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["0.0", "negative"]


def test_what_one_user_compiled_serves_all(tmp_path):
    assert loading._write(tmp_path / "cache" / "kernels.bin", {}, [], [b"code"])
    assert (tmp_path / "cache" / "kernels.bin").stat().st_mode & 0o777 == 0o644


def test_kernels_are_compiled_where_numba_is_told_not_to(tmp_path):
    """NUMBA_DISABLE_JIT is for people who debug their own functions."""
    code = (
        "from lightly_pipeline.worker.select.compiled import kernels; kernels(); "
        "from numba import config; print(config.DISABLE_JIT)"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout.strip() == "1"
    assert list((tmp_path / "cache").rglob("kernels-*.bin"))


def test_machine_code_of_earlier_versions_goes_with_time(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_KEPT", 2)
    for number in range(4):
        file = tmp_path / f"kernels-{number}.bin"
        assert loading._write(file, {}, [], [b"code"])
        os.utime(file, (number, number))
    assert loading._write(tmp_path / "kernels-new.bin", {}, [], [b"code"])
    assert {file.name for file in tmp_path.iterdir()} == {"kernels-new.bin", "kernels-3.bin"}
