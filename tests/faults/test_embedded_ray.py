"""A Ray inside a process is that user's alone and ends with it, however that ends."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_for

from polar_ray.running.embedded import leftovers
from polar_ray.running.ray_watcher import processes_in

START = """
import sys, time
from polar_ray.recipe.run import Compute
from polar_ray.running.cluster import connected
with connected(Compute()):
    print("started", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_nothing_is_left_of_an_embedded_ray_when_its_driver_ends_or_is_killed(killed: bool, tmp_path: Path) -> None:
    # Sockets need a short path, which that of the test is not: the folder's parent is then the system's.
    before = set(Path("/tmp").glob("polar-ray-*"))
    environment = {**os.environ, "TMPDIR": "/tmp", "RAY_TMPDIR": ""}
    arguments = [sys.executable, "-c", START]
    driver = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert driver.stdin is not None
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"started\n"
    mine = [path for path in set(Path("/tmp").glob("polar-ray-*")) - before if processes_in(str(path))]
    (folder,) = [path for path in mine if str(driver.pid) in " ".join(map(str, path.glob("r/session_*")))]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert str(folder) not in [left.folder for left in leftovers()]
    if killed:
        driver.send_signal(signal.SIGKILL)
    driver.stdin.close()
    driver.stdout.close()
    driver.wait()
    wait_for("the folder to go", lambda: not folder.exists())
    assert processes_in(str(folder)) == []
