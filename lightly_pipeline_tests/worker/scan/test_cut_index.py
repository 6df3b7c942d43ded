"""Files that end in their index."""

from pathlib import Path

import pytest

from lightly_pipeline.worker.scan import ScanSettings, scan_video
from lightly_pipeline_tests.clips import rendered


@pytest.mark.parametrize("length", [8, 40, 100, 200, 300, 400, 450, 500, 600, 800, 1000, 1200, 1400, 1600])
def test_a_file_that_ends_in_its_index_is_unreadable_and_does_not_raise(tmp_path: Path, length: int):
    """Cut at some places it has a video stream without a decoder, on which PyAV 17 ended the process."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(rendered("return")[0].files[0].read_bytes()[:length])
    scan = scan_video(path, scratch=tmp_path, settings=ScanSettings())
    assert len(scan.frames) == 0
    assert "unreadable" in [problem.kind for problem in scan.problems]
