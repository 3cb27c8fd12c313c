"""Whether the process that wrote something down is still there, where that can be known."""

import os
import socket
from pathlib import Path

import msgspec


class Process(msgspec.Struct, frozen=True):
    """A process, told from every other one by more than its number, which another may have later.

    Attributes:
        place: Host, boot and namespace of processes, where the number means this process; empty where unknown.
        pid: Its number there.
        started: When it was started, as its system counts.
    """

    place: str = ""
    pid: int = 0
    started: str = ""

    @staticmethod
    def this() -> "Process":
        """Returns this process."""
        return Process.of(os.getpid())

    @staticmethod
    def of(pid: int) -> "Process":
        """Returns the process of this machine with a number."""
        _, started = _state(pid)
        return Process(_place(), pid, started)

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, on this machine, and in this container."""
        return bool(self.place) and self.place == _place()

    def is_dead(self) -> bool:
        """Whether it is known to have ended. Of a process of another machine or container nothing is known."""
        if not self.is_here or not 0 < self.pid < 2**31:
            # No system has such a number, so whoever wrote it did not know.
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            # It is another user's.
            pass
        state, started = _state(self.pid)
        # A zombie has ended; only its parent has not asked yet how.
        return state in ("Z", "X") or bool(started and self.started and started != self.started)


def _place() -> str:
    """Returns what all processes that see this one by its number have in common, or "" where Linux does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers on one machine have the boot in common, and numbers of their own.
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, str]:
    """Returns the state of a process and when it was started, as far as the system tells."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", ""
    # The second field is the command in brackets, which may hold anything (proc_pid_stat(5)).
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]
