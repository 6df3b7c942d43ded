"""The fault suite: the real pipeline, in the sandbox, struck by real signals and injected errors at exact points.

Each case has a video of its own (`case.py`), runs `lightly_frames` in processes (`runs.py`, the command line,
`dagster dev`), is struck at one of five points (`points.py`), and ends by `Case.at_rest`, which looks from outside.
What runs on the instance is `instance/`: a job that behaves as the case asks and keeps a ledger, or the real worker.
`make test` runs one case of each kind of end; `make faults` runs all and prints a table.
"""
