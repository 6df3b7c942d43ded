"""What can go wrong with an instance or a command, told apart by one question: would trying again help?

Every message is a sentence that names the thing and the remedy. `PermanentError` is never retried; a
`TransientError` has already been retried here for as long as its setting allows when the caller sees it.
"""


class RunnerError(Exception):
    """Base of everything that the runner raises on purpose."""

    transient = False


class PermanentError(RunnerError):
    """Trying again without changing something would end the same way."""


class TransientError(RunnerError):
    """AWS or the instance was not able to, this time."""

    transient = True


class ConfigurationError(PermanentError):
    """A setting of the runner cannot be used as it is."""


class InstanceGone(PermanentError):
    """The instance does not exist, or is terminated."""


class NotPermitted(PermanentError):
    """The credentials do not allow a call that the runner needs."""


class QuotaExceeded(PermanentError):
    """The account may not run another instance of this kind."""


class NoCapacity(TransientError):
    """EC2 has no free machine of this kind at the moment; nothing is billed."""


class NotReady(TransientError):
    """The instance, or its SSM agent, did not get ready within its deadline."""


class PoolBusy(TransientError):
    """Every instance of the pool had its full number of jobs for the whole of the allowed wait."""


class InstanceTaken(TransientError):
    """The instance was stopped, or lost, under the command: nothing is wrong with the command itself."""


class LeaseConflict(TransientError):
    """The lease record kept changing under too many writers."""


class ServiceUnavailable(TransientError):
    """An AWS service refused or failed a call for longer than botocore retries it."""


class CommandError(PermanentError):
    """The command ended, and not well.

    `exit_code` is the command's own, None where there was none; `tail` the last lines that it wrote.
    """

    def __init__(self, message: str, *, exit_code: int | None = None, tail: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.tail = tail


class CommandFailed(CommandError):
    """The command ended with an exit code other than 0."""


class CommandKilled(CommandError):
    """The command was killed on the instance, as the kernel does when memory runs out."""


class CommandTimedOut(CommandError):
    """The command took longer than its execution timeout."""


class CommandCancelled(CommandError):
    """Somebody cancelled the command."""
