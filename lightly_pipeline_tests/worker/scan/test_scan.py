"""What one pass over a video says about it."""

import numpy as np
from PIL import Image

from lightly_pipeline.worker.scan import ScanSettings, scan_images, scan_video, write_frames
from lightly_pipeline_tests.worker.scan.clips import picture, render


def test_every_frame_of_a_video_is_a_candidate_in_display_order(tmp_path):
    scan = scan_video(render(tmp_path / "a.mp4", 60), scratch=tmp_path, settings=ScanSettings())
    assert scan.frames["index"].tolist() == list(range(60))
    assert np.all(np.diff(scan.frames["seconds"]) > 0)
    assert scan.frames["ok"].all()
    assert scan.problems == []
    assert (scan.width, scan.height, scan.declared_frames) == (160, 96, 60)
    np.testing.assert_allclose(np.linalg.norm(scan.embeddings, axis=1), 1, atol=1e-5)


def test_a_chosen_frame_is_written_as_that_very_frame(tmp_path):
    scan = scan_video(render(tmp_path / "a.mp4", 60), scratch=tmp_path, settings=ScanSettings())
    written = write_frames(scan, [50, 3], lambda index: tmp_path / "out" / f"{index}.png")
    assert [frame.index for frame in written] == [50, 3]
    for frame in written:
        shown = np.asarray(Image.open(frame.path)).astype(float)
        assert np.abs(shown - picture(frame.index)).mean() < 12
        assert np.abs(shown - picture(frame.index + 12)).mean() > 20


def test_an_empty_file_is_reported_and_does_not_raise(tmp_path):
    (tmp_path / "empty.mp4").touch()
    scan = scan_video(tmp_path / "empty.mp4", scratch=tmp_path, settings=ScanSettings())
    assert len(scan.frames) == 0
    assert [problem.kind for problem in scan.problems] == ["unreadable"]


def test_a_broken_image_does_not_stop_the_others(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    scan = scan_images([tmp_path / "bad.png", tmp_path / "good.png"], scratch=tmp_path, settings=ScanSettings())
    assert scan.frames["ok"].tolist() == [False, True]
    assert scan.problems[0].frame_index == 0
