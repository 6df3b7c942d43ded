"""What can go wrong in opening a sandbox."""


class SandboxError(RuntimeError):
    """The sandbox cannot start; the message is one sentence that says why and what to do."""


class SandboxInUse(SandboxError):
    """Another process serves the sandbox of this folder."""
