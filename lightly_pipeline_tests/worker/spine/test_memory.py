"""Embeddings in files do not become the memory of the process that reads them."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from lightly_pipeline.worker.memory import let_go, mapped_rows


@pytest.fixture
def both(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2000, 24)).astype(np.float32)
    (tmp_path / "rows").write_bytes(b"head" * 4 + rows.tobytes())
    return rows, mapped_rows(tmp_path / "rows", rows.shape, offset=16)


@pytest.mark.parametrize(
    "index",
    [
        np.array([5, 1999, 5, 0]),
        np.array([], dtype=np.int64),
        np.random.default_rng(1).permutation(2000),
        np.array([-1, 3]),
        slice(10, 90, 3),
        7,
        (slice(None), 3),
        np.arange(2000) % 3 == 0,
    ],
    ids=lambda index: str(type(index).__name__),
)
def test_rows_are_those_of_the_array(both, index):
    rows, mapped = both
    np.testing.assert_array_equal(mapped[index], rows[index])


def test_a_slice_is_mapped_too(both):
    rows, mapped = both
    np.testing.assert_array_equal(mapped[100:900][np.array([799, 0])], rows[[899, 100]])


def test_what_was_let_go_is_read_again(both):
    rows, mapped = both
    view = mapped[10:20]
    let_go(view)
    np.testing.assert_array_equal(view, rows[10:20])
    let_go(rows)  # not mapped: nothing to do


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_all_of_it_in_any_order_takes_a_fraction_of_its_size(tmp_path):
    path = tmp_path / "rows"
    with path.open("wb") as file:
        for start in range(0, 400_000, 50_000):
            np.full((50_000, 128), start, np.float32).tofile(file)
    program = textwrap.dedent("""
        import re, sys
        import numpy as np
        from lightly_pipeline.worker.memory import mapped_rows
        def in_files():
            return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
        rows = mapped_rows(sys.argv[1], (400_000, 128))
        before = most = in_files()
        for block in np.random.default_rng(0).permutation(400_000).reshape(100, -1):
            rows[block]
            most = max(most, in_files())
        for start in range(0, 400_000, 20_000):
            rows[start : start + 20_000].sum()
            most = max(most, in_files())
        print(most - before)
    """)
    grown = float(subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True).stdout)
    assert grown < 60, "of 205 MB"
