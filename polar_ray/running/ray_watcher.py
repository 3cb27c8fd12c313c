"""Waits for the end of a driver, then ends what its Ray left running and deletes its folder.

Run as a script, with nothing but the standard library, so that it starts at once and needs next to no memory.
"""

import os
import shutil
import signal
import sys
import time

GONE_S = 10.0
"""Seconds after which a process that was killed and does not end is left alone."""


def processes_in(folder: str) -> list[int]:
    """Returns the ids of this user's processes whose output goes into a folder: all that a Ray there has started."""
    if not os.path.isdir("/proc/self/fd"):
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_in(folder, name)]


def clear(folder: str) -> None:
    """Kills the processes in a folder, waits until they are gone, and deletes it."""
    give_up = time.monotonic() + GONE_S
    while os.path.isdir(folder):
        # What a process started while the others were killed is found the next time.
        while (found := processes_in(folder)) and time.monotonic() < give_up:
            for process in found:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            # One with much memory needs a moment to end, and would write into the folder meanwhile.
            time.sleep(0.02)
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() >= give_up:
            return
        # Whatever still ends may have written once more, into a folder that was being deleted.
        time.sleep(0.02)


def _is_in(folder: str, process: str) -> bool:
    if int(process) == os.getpid():
        return False
    here = os.path.join("/proc", process)
    inside = folder + os.sep
    try:
        if os.stat(here).st_uid != os.getuid():
            return False
        # A worker of Ray writes a title over its arguments, but all that Ray starts prints into the folder; the driver,
        # or who looks at a log there, does not.
        return any(os.readlink(os.path.join(here, "fd", number)).startswith(inside) for number in ("1", "2"))
    except OSError:
        # It is gone meanwhile.
        return False


if __name__ == "__main__":
    sys.stdin.read()
    clear(sys.argv[1])
