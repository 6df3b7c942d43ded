"""What the vectors are worth: the built-in descriptor, its compiled code, and models given by path."""

import re

import av
import numpy as np
import pytest
from PIL import Image

from lightly_pipeline.worker.scan import NeuralEmbedder, ScanError, ScanSettings, scan_images, scan_video
from lightly_pipeline.worker.scan.descriptor import BUILT_IN, projection
from lightly_pipeline.worker.scan.measure import Meter
from lightly_pipeline_tests.worker.scan.clips import picture, render, written


def embedding_of(rgb, pix_fmt="yuv420p", rotation=0):
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format=pix_fmt)
    return Meter().measure(frame, rotation).embedding.copy()


def test_the_projection_is_the_same_on_every_platform():
    """Pools made on different machines are compared: these numbers must never change within a version."""
    signs, rows = projection()
    assert signs[:12].tolist() == [1, 1, 1, 1, -1, -1, 1, 1, -1, 1, -1, -1]
    assert rows[:6].tolist() == [0, 3, 5, 6, 7, 14]
    assert (int((signs > 0).sum()), int(rows.sum())) == (258, 32947)
    assert len(rows) == len(set(rows.tolist())) == BUILT_IN.dimensions == 128


def test_nearer_pictures_have_nearer_vectors():
    base = np.asarray(Image.fromarray(picture(3, 320, 192)))
    rng = np.random.default_rng(0)
    noisy = np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
    brighter = np.clip(base.astype(int) + 12, 0, 255).astype(np.uint8)
    moved = np.roll(base, 40, axis=1)
    other = picture(40, 320, 192)
    vector = embedding_of(base)
    distances = [np.linalg.norm(vector - embedding_of(rgb)) for rgb in (base, noisy, brighter, moved, other)]
    assert distances[0] == 0
    assert distances[1] < 0.2
    assert distances[2] < 0.3
    assert max(distances[1:3]) < distances[3] < 1.2
    assert distances[4] > 0.5


@pytest.mark.parametrize("other", ["yuv444p", "yuvj420p", "yuv422p", "yuv420p10le", "rgb24", "gbrp", "nv12", "bgra"])
def test_the_same_picture_in_another_pixel_format_has_nearly_the_same_vector(other):
    rgb = np.asarray(Image.fromarray(picture(7)).resize((320, 192), Image.Resampling.BICUBIC))
    assert np.linalg.norm(embedding_of(rgb) - embedding_of(rgb, other)) < 0.12


def test_a_larger_copy_has_nearly_the_same_vector():
    rgb = Image.fromarray(picture(7, 320, 192)).resize((480, 288), Image.Resampling.BICUBIC)
    double = rgb.resize((960, 576), Image.Resampling.BICUBIC)
    assert np.linalg.norm(embedding_of(np.asarray(rgb)) - embedding_of(np.asarray(double))) < 0.15


def test_tiny_and_dark_pictures_have_finite_unit_vectors():
    for rgb in (np.zeros((2, 2, 3), np.uint8), np.full((2, 500, 3), 255, np.uint8), np.zeros((96, 160, 3), np.uint8)):
        vector = embedding_of(rgb)
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_block_means_and_sharpness_are_exact():
    rng = np.random.default_rng(0)
    luma = rng.integers(16, 236, (203, 331), dtype=np.uint8)
    meter = Meter()
    measured = meter.measure(av.VideoFrame.from_ndarray(luma, format="gray"))
    rows = [i * 203 // 64 for i in range(65)]
    columns = [i * 331 // 64 for i in range(65)]
    expected = np.array(
        [[luma[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean() / 255 for j in range(64)] for i in range(64)]
    )
    np.testing.assert_allclose(meter._luma, expected, atol=1e-6)
    assert measured.brightness == pytest.approx(expected.mean(), abs=1e-6)
    assert measured.contrast == pytest.approx(expected.std(), abs=1e-5)
    deep = av.VideoFrame.from_ndarray(luma.astype(np.uint16) * 257, format="gray16le")
    assert meter.measure(deep).sharpness == pytest.approx(measured.sharpness, rel=1e-3)
    flat = meter.measure(av.VideoFrame.from_ndarray(np.full((203, 331), 90, np.uint8), format="gray"))
    assert (flat.sharpness, flat.uniform_row_ratio) == (0, 1)


def test_a_model_given_by_path_makes_the_embeddings(tmp_path, model):
    path = render(tmp_path / "a.mp4", 40, options={"g": "20"})
    scan = scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=2), model=NeuralEmbedder(model))
    assert (scan.embedder.name, scan.embedder.version, scan.embedder.dimensions) == ("quarters", "2", 12)
    assert scan.embeddings.shape == (40, 12)
    for number in (0, 17, 39):
        rgb = picture(number).astype(float) / 255
        quarters = rgb.reshape(2, 48, 2, 80, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()
        expected = (quarters - 0.5) / 0.25
        assert scan.embeddings[number] @ (expected / np.linalg.norm(expected)) > 0.97
    one = scan_video(path, scratch=tmp_path, settings=ScanSettings(threads=1), model=NeuralEmbedder(model))
    assert one.embeddings.tobytes() == scan.embeddings.tobytes()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "has no sidecar"),
        ("{", "not readable as JSON"),
        ("[]", "holds no settings"),
        ('{"means": 1}', "means=1: Extra inputs are not permitted; known are name, version"),
        ('{"mean": "dark"}', "mean='dark'"),
        ('{"size": [8]}', "size"),
        ('{"batch": 0}', "batch=0: Input should be greater than 0"),
        ('{"input": "image"}', "correct 'input'"),
        ('{"layout": "CHW"}', "layout='CHW': Input should be 'NCHW' or 'NHWC'"),
        ('{"std": 0}', "std=0: Input should be greater than 0"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_an_error_that_says_why(tmp_path, model, said, words):
    sidecar = model.with_suffix(".json")
    sidecar.unlink()
    if said is not None:
        sidecar.write_text(said)
    with pytest.raises(ScanError, match=words):
        NeuralEmbedder(model)


def test_preprocessing_is_part_of_the_identity(tmp_path, model):
    """Vectors of one model with another mean are others; how many are made at a time changes nothing."""
    versions = []
    for said in ('{"mean": 0.5}', '{"mean": [0.5, 0.5, 0.5]}', '{"mean": 0.5, "batch": 2}', '{"mean": 0.4}'):
        model.with_suffix(".json").write_text(said)
        versions.append(NeuralEmbedder(model).identity.version)
    assert versions[0] == versions[1] == versions[2] != versions[3]
    assert all(re.fullmatch("[0-9a-f]{12}", version) for version in versions)


def test_a_model_that_is_none_is_an_error(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    for name, words in (("gone.onnx", "There is no model"), ("bad.onnx", "does not load")):
        with pytest.raises(ScanError, match=words):
            NeuralEmbedder(tmp_path / name)


IMAGES = {
    "a.png": ("RGB", {}),
    "alpha.png": ("RGBA", {}),
    "palette.gif": ("P", {}),
    "gray.png": ("L", {}),
    "deep.tif": ("I;16", {}),
    "a.jpg": ("RGB", {"quality": 97}),
    "cmyk.jpg": ("CMYK", {"quality": 97}),
    "a.bmp": ("RGB", {}),
    "a.webp": ("RGB", {"quality": 97}),
    "a.ppm": ("RGB", {}),
}


def test_images_of_all_kinds_are_frames(tmp_path):
    rgb = Image.fromarray(picture(0))
    for name, (mode, options) in IMAGES.items():
        if mode == "I;16":
            deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
            deep.save(tmp_path / name)
        else:
            rgb.convert(mode).save(tmp_path / name, **options)
    paths = [tmp_path / name for name in IMAGES]
    scan = scan_images(paths, scratch=tmp_path, settings=ScanSettings())
    assert scan.problems == []
    assert scan.frames["ok"].all()
    assert (scan.width, scan.height) == (160, 96)
    by_name = dict(zip(IMAGES, scan.embeddings, strict=True))
    for name in ("alpha.png", "a.jpg", "a.bmp", "a.webp", "a.ppm"):
        assert np.linalg.norm(by_name[name] - by_name["a.png"]) < 0.2
    assert np.linalg.norm(by_name["deep.tif"] - by_name["gray.png"]) < 0.02
    hashes = dict(zip(IMAGES, scan.frames["pixel_hash"], strict=True))
    assert hashes["a.png"] == hashes["a.bmp"] == hashes["a.ppm"]
    assert hashes["a.png"] != hashes["a.jpg"]
    files = written(scan, range(len(paths)), lambda index: tmp_path / "out" / f"{index}.png")
    assert {Image.open(file).size for file in files.values()} == {(160, 96)}


def test_an_image_on_its_side_is_shown_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0)).save(tmp_path / "side.png", exif=exif)
    scan = scan_images([tmp_path / "side.png"], scratch=tmp_path, settings=ScanSettings())
    assert (scan.width, scan.height) == (96, 160)


def test_broken_and_truncated_images_do_not_stop_the_others(tmp_path):
    Image.fromarray(picture(0, 640, 480)).save(tmp_path / "good.jpg")
    data = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_bytes(b"no picture")
    (tmp_path / "empty.bmp").touch()
    names = ["cut.jpg", "good.jpg", "text.png", "empty.bmp", "gone.png"]
    scan = scan_images([tmp_path / name for name in names], scratch=tmp_path, settings=ScanSettings())
    assert scan.frames["ok"].tolist() == [False, True, False, False, False]
    assert {problem.frame_index for problem in scan.problems} == {0, 2, 3, 4}
    assert all(names[problem.frame_index] in problem.reason for problem in scan.problems)
    assert not scan.embeddings[0].any()
