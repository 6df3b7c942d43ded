"""One sandbox instance: its power, its disk, its processes and the agent that boots with it.

The disk (`folder`) is the instance's EBS volume: it survives stop and start, and restarts of the sandbox; `run/` and
`tmp/` are emptied at boot, as on a real machine. Whoever stops the instance takes its processes with it.
"""

import os
import shlex
import shutil
import stat
import sys
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightly_pipeline.sandbox.aws.agent import Agent
from lightly_pipeline.sandbox.aws.power import Power

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.cloud import Cloud

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Where this environment's commands are, lightly-worker among them.
_ENVIRONMENT = tuple(dict.fromkeys([str(Path(sys.executable).parent), sysconfig.get_path("scripts")]))


class Machine:
    """The machine behind an EC2 instance id."""

    def __init__(self, cloud: "Cloud", instance_id: str, folder: Path, *, state: str) -> None:
        self.cloud = cloud
        self.id = instance_id
        self.folder = folder
        self.power = Power(cloud.clock, state)
        # moto's Instance, whose attributes EC2 shows and changes.
        self.record: Any = None
        self.boot = 0
        self.agent: Agent | None = None
        # The clock's time of the last ping of an earlier boot's agent.
        self.last_heard: float | None = None
        self._shutdown_timer: threading.Timer | None = None

    @property
    def state(self) -> str:
        """The EC2 state, as of now."""
        with self.cloud.lock:
            return self.power.state

    def start(self) -> None:
        """pending, then running, then the agent online. The caller has checked that the state allows it."""
        with self.cloud.lock:
            self.boot += 1
            self._prepare_disk()
            self.power.begin("pending", self.cloud.timings.pending + self.cloud.faults.extra_seconds("boot"))
            self._boot_agent(self.power.settles_at)

    def reboot(self) -> None:
        """The operating system restarts: the state stays running, everything that ran is gone."""
        with self.cloud.lock:
            if self.power.state != "running":
                return
            self._end_processes()
            self.boot += 1
            self._prepare_disk()
            self._boot_agent(self.cloud.clock())

    def stop(self, *, force: bool = False) -> None:
        """stopping, then stopped; every process of the instance is killed now."""
        with self.cloud.lock:
            if self.power.state == "stopping" and not force:
                return
            seconds = self.cloud.timings.stopping
            if not force:
                seconds += self.cloud.faults.extra_seconds("stop")
            self.power.begin("stopping", seconds)
            self._end_processes()

    def stop_from_outside(self, boot: int) -> None:
        """What somebody else's StopInstances does, if the machine still is in the same boot."""
        with self.cloud.lock:
            if boot == self.boot and self.power.state == "running":
                self.cloud.note_stop(self, from_inside=False)
                self.stop()

    def terminate(self) -> None:
        """shutting-down, then terminated; every process of the instance is killed now."""
        with self.cloud.lock:
            if self.power.state in ("shutting-down", "terminated"):
                return
            self.power.begin("shutting-down", self.cloud.timings.shutting_down)
            self._end_processes()

    def shut_down_from_inside(self, minutes: float) -> None:
        """What `shutdown -h` on the instance does: stop or terminate it, as its attribute says."""
        self.cancel_shutdown()
        if minutes <= 0:
            self._shut_down(self.boot)
            return
        with self.cloud.lock:
            self._shutdown_timer = threading.Timer(minutes * 60, self._shut_down, [self.boot])
            self._shutdown_timer.daemon = True
            self._shutdown_timer.start()

    def cancel_shutdown(self) -> None:
        """What `shutdown -c` on the instance does."""
        with self.cloud.lock:
            if self._shutdown_timer is not None:
                self._shutdown_timer.cancel()
                self._shutdown_timer = None

    def environment(self) -> dict[str, str]:
        """What processes on the instance find in their environment: a service's bare one (no HOME) and the profile.

        The last lines stand for the image's /etc/environment: places of its own disk for caches and temporary files.
        """
        return {
            "PATH": os.pathsep.join([str(self.folder / "sbin"), *_ENVIRONMENT, _SYSTEM_PATH]),
            "LANG": "C.UTF-8",
            **self.cloud.instance_environment,
            "TMPDIR": str(self.folder / "tmp"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "MPLCONFIGDIR": str(self.folder / "cache" / "matplotlib"),
            "LIGHTLY_BUSY_LOCK": str(self.folder / "run" / "lightly.busy"),
            "LIGHTLY_WATCHDOG_STATE": str(self.folder / "run" / "lightly.watchdog"),
            "LIGHTLY_IDLE_GRACE_SECONDS": str(round(self.cloud.timings.idle_grace)),
        }

    def _shut_down(self, boot: int) -> None:
        with self.cloud.lock:
            if boot != self.boot or self.power.state != "running":
                return
            self.cloud.note_stop(self, from_inside=True)
            if self.record.instance_initiated_shutdown_behavior == "terminate":
                self.terminate()
            else:
                self.stop()

    def _boot_agent(self, running_at: float) -> None:
        self.agent = Agent(self, running_at + self.cloud.timings.agent)
        self.agent.start()

    def _end_processes(self) -> None:
        self.cancel_shutdown()
        if self.agent is not None:
            self.last_heard = self.agent.last_ping or self.last_heard
            self.agent.power_off()
            self.agent = None
        self.cloud.jobs.kill_instance(self.id)

    def _prepare_disk(self) -> None:
        for name in ("run", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("run", "tmp", "sbin", "home", "cache/matplotlib"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        arguments = [sys.executable, "-I", "-S", str(Path(__file__).with_name("shutdown.py"))]
        arguments += [self.cloud.endpoint_url, self.id]
        for name in ("shutdown", "poweroff", "halt", "reboot"):
            script = self.folder / "sbin" / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join([*arguments, name])} "$@"\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
