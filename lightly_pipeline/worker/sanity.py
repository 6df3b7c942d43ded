"""sanity_check=True: whether everything that a selection needs is installed and works on this machine."""

import tempfile
from pathlib import Path

import numpy as np

from lightly_pipeline.worker.memory import opened
from lightly_pipeline.worker.scan import ScanSettings, scan_images
from lightly_pipeline.worker.select import select


def sanity_check() -> None:
    """Scan and select from two pictures made here, then say so in Lightly's words."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, colour in enumerate((40, 200)):
            path = Path(folder, f"{number}.png")
            Image.fromarray(np.full((64, 64, 3), colour, dtype=np.uint8)).save(path)
            paths.append(path)
        scan = scan_images(paths, scratch=Path(folder), settings=ScanSettings(expected_share=0.0))
        chosen = select(opened(scan.embeddings), budget=1)
    if len(chosen) != 1 or scan.problems:
        raise RuntimeError(f"Two plain pictures could not be scanned and selected from: {scan.problems}.")
    print("Congratulations! It looks like the Lightly container is running!")
