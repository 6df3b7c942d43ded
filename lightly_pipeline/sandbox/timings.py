"""How long things take in the sandbox: boot, agent, stop, and the rhythms of what runs on an instance."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SandboxTimings:
    """Delays of the embedded EC2 and SSM, in seconds.

    The defaults are quick and visible (a start takes some seconds, as people see in the UI); `fast()` is for tests;
    `like_aws()` is what EC2 and its agent typically need.
    """

    pending: float = 2.0
    """From StartInstances to state running."""
    agent: float = 2.0
    """From running to the SSM agent being online."""
    stopping: float = 2.0
    """From StopInstances to state stopped."""
    shutting_down: float = 1.0
    """From TerminateInstances to state terminated."""
    invocation_visible: float = 0.3
    """For so long after SendCommand, GetCommandInvocation answers InvocationDoesNotExist."""
    delivery: float = 0.1
    """From SendCommand until the agent takes the command."""
    ping: float = 5.0
    """Between two signs of life of the agent (LastPingDateTime)."""
    connection_lost: float = 10.0
    """Silence after which the agent's PingStatus is ConnectionLost."""
    log_lines: float = 1.0
    """Between two deliveries of whole output lines to CloudWatch Logs."""
    watchdog: float = 60.0
    """Between two runs of watchdog.sh on a running instance (its systemd timer)."""
    idle_grace: float = 600.0
    """Idle seconds after which watchdog.sh switches its instance off; whole seconds."""
    timeout_scale: float = 1.0
    """Factor on delivery timeouts (AWS's least TimeoutSeconds is 30, which is long for a test)."""

    @classmethod
    def fast(cls) -> "SandboxTimings":
        """Delays short enough for a test and long enough that each state can be seen by polling."""
        return cls(
            pending=0.3,
            agent=0.3,
            stopping=0.3,
            shutting_down=0.2,
            invocation_visible=0.15,
            delivery=0.05,
            ping=0.5,
            connection_lost=1.5,
            log_lines=0.2,
        )

    @classmethod
    def like_aws(cls) -> "SandboxTimings":
        """What a GPU instance typically takes."""
        return cls(pending=20.0, agent=30.0, stopping=40.0, shutting_down=40.0, ping=60.0, connection_lost=300.0)
