"""A process for what may take forever or all memory: it is asked, and ends where an answer goes beyond a limit.

The kernel counts and ends, so nothing that runs in there can hold it up. ``serve`` is the other end.
"""

import signal
import subprocess
import threading
import weakref
from contextlib import suppress

from polar_ray.subprocesses.start import environment, python


class Ended(Exception):
    """The process ended instead of answering.

    Attributes:
        status: As of ``subprocess``: negative for a signal.
        started: Whether it had come so far that it could be asked.
    """

    def __init__(self, status: int, *, started: bool = True) -> None:
        super().__init__(status)
        self.status = status
        self.started = started

    @property
    def took_too_long(self) -> bool:
        """Whether it was ended for the processor time that it took."""
        return self.status == -signal.SIGPROF


class LimitedProcess:
    """A process that answers requests, each within limits.

    It starts with the first request and ends with ``close``, with this object, or with the process that made it. It is
    a plain subprocess rather than a ``multiprocessing`` one, which would import the user's main module again. Threads
    take turns.

    Args:
        module: Its ``main()`` calls ``serve``.
        seconds: Of processor time for one answer, so that a busy machine takes nothing away.
        memory_bytes: Of addresses that it may have.
    """

    def __init__(self, module: str, seconds: float, memory_bytes: int) -> None:
        self._module = module
        self._arguments = (str(seconds), str(memory_bytes))
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[..., LimitedProcess] | None = None

    def ask(self, request: bytes) -> bytes:
        """Returns the answer to a request.

        Raises:
            Ended: The process cannot be started, took too long, or ended twice over this request.
        """
        try:
            return self._ask(request)
        except Ended as end:
            if not end.started or end.took_too_long:
                raise
        # It may have ended while it was idle.
        return self._ask(request)

    def close(self) -> None:
        """Ends the process, if there is one. A later request starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> bytes:
        with self._lock:
            try:
                worker = self._worker or self._start()
                answer = _exchange(worker, request)
                if answer is None:
                    raise Ended(worker.wait())
            except BaseException:
                # Whoever is interrupted leaves an answer behind that belongs to no later request.
                self._end()
                raise
            return answer

    def _start(self) -> "subprocess.Popen[bytes]":
        worker = subprocess.Popen(
            python(self._module, *self._arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            # A session of its own, so that Ctrl-C in a terminal does not reach it before its owner has finished.
            start_new_session=True,
        )
        self._worker = worker
        self._finalizer = weakref.finalize(self, _stop, worker)
        assert worker.stdout is not None
        # What is imported as Python starts may print before.
        if b"ready\n" not in iter(worker.stdout.readline, b""):
            raise Ended(worker.wait(), started=False)
        return worker

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._worker = None


def _exchange(worker: "subprocess.Popen[bytes]", request: bytes) -> bytes | None:
    """Writes a request to a worker and returns its answer, or None where it ended instead."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(b"%d\n" % len(request))
        worker.stdin.write(request)
        worker.stdin.flush()
    except BrokenPipeError:
        return None
    size = worker.stdout.readline()
    if not size.endswith(b"\n"):
        return None
    answer = worker.stdout.read(int(size))
    return answer if len(answer) == int(size) else None


def _stop(worker: "subprocess.Popen[bytes]") -> None:
    worker.kill()
    worker.wait()
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdout.close()
    # What was still to be written has no reader any more.
    with suppress(BrokenPipeError):
        worker.stdin.close()
