"""The embedded world: S3, EC2 and SSM by moto's server with commands that really run, and a Pexels stand-in.

`Sandbox` composes it; `aws/` and `pexels/` are its two halves, `footage.py` renders the videos it offers. Faults to
inject are at `Sandbox.faults`, and for a sandbox in another process in `aws.faults.RemoteFaults`. Nothing heavy is
imported before a sandbox is opened.
"""

from lightly_pipeline.sandbox.embedded import Sandbox, reset_sandbox
from lightly_pipeline.sandbox.errors import SandboxError, SandboxInUse
from lightly_pipeline.sandbox.home import dagster_home
from lightly_pipeline.sandbox.joining import JoinedSandbox, join
from lightly_pipeline.sandbox.timings import SandboxTimings

__all__ = [
    "JoinedSandbox",
    "Sandbox",
    "SandboxError",
    "SandboxInUse",
    "SandboxTimings",
    "dagster_home",
    "join",
    "reset_sandbox",
]
