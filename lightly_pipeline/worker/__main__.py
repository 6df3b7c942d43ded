"""`python -m lightly_pipeline.worker` is `lightly-worker`."""

from lightly_pipeline.worker.cli import main

if __name__ == "__main__":
    main()
