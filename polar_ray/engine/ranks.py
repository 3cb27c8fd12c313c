"""The first rank's side of tensor parallelism: it starts the others, sends them their weights, and leads them.

The others are child processes (see ``rank``). Before each forward they are told through a pipe what it is, and then all
run it, each on its device, and sum their results where ``shards`` says so. A child that ends, or a forward that takes
too long, ends them all, and every forward from then on is a ``DeviceLost``: weights that are gone cannot be shared out
again, so it takes a new process to go on.
"""

import contextlib
import os
import pickle
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from polar_ray.engine.rank import PackedForward, PlainForward, Setup, join
from polar_ray.engine.row import Row
from polar_ray.engine.shards import Group, check_splits, part, set_part, sum_outputs
from polar_ray.errors import DeviceLost
from polar_ray.subprocesses.start import environment, python

_LOOK_S = 0.1
"""Seconds between looks at the children."""
_START_S = 1800.0
"""Seconds in which the ranks must have begun: weights may have to be read from a slow disk on the way."""


class Ranks:
    """The ranks that one model is spread over, this process being the first.

    Attributes:
        count: How many there are.
        free: Bytes of free memory of each of the others after loading; None where it cannot be known.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        dtype: torch.dtype,
        device: torch.device,
        count: int,
        *,
        fused: bool,
        timeout_s: float,
    ) -> None:
        """Starts the other ranks and shares the weights out.

        Args:
            backbone: Its weights, on the CPU; afterwards it holds the first rank's part, on the device.
            dtype: What they are cast to.
            device: The first rank's. On CUDA the others take the devices with the next numbers.
            count: How many ranks there are, this one included.
            fused: Whether the others use what makes the first fast.
            timeout_s: Seconds that a forward may take.

        Raises:
            RecipeError: The model cannot be split over so many.
            DeviceLost: A rank ended before it could begin.
        """
        check_splits(backbone, count)
        self.count = count
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._failure: str | None = None
        self._group: Group | None = None
        self._on_cuda = device.type == "cuda"
        self._closing = threading.Event()
        # Files without a name: nothing of them is left, however this process and its children end. The first is never
        # closed: torch opens it by its number as long as the group is there, and a number is given out again.
        self._meeting = os.memfd_create("polar-ray-ranks")
        self._logs = [tempfile.TemporaryFile() for _ in range(1, count)]  # noqa: SIM115
        self._children = [self._start(number) for number in range(1, count)]
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            with self.watched(_START_S):
                for number in range(1, count):
                    there = torch.device("cuda", number) if device.type == "cuda" else device
                    self._tell(
                        number,
                        Setup(
                            *(number, count, self._meeting, there, dtype, type(backbone), backbone.config, fused),
                            *(torch.get_num_threads(), _START_S),
                        ),
                    )
                for child in self._children:
                    assert child.stdout is not None
                    if child.stdout.read(1) != b"+":
                        raise EOFError("it ended before it could begin")
                self._group = join(self._meeting, 0, count, device, _START_S)
                self._share_out(backbone, dtype, device, self._group)
                self.free: list[int | None] = [pickle.load(child.stdout) for child in self._children if child.stdout]
        except BaseException:
            self.close()
            raise

    def packed(self, row: Row) -> None:
        """Has the others run a packed row, which this rank runs next."""
        order = PackedForward(row.layout, row.before, row.keep, frozenset(row.kept.by_run))
        self._tell_all(order)

    def plain(self, order: PlainForward) -> None:
        """Has the others run padded sequences, which this rank runs next."""
        self._tell_all(order)

    @contextlib.contextmanager
    def watched(self, timeout_s: float | None = None) -> Iterator[None]:
        """Watches over forwards until their results are here.

        Args:
            timeout_s: Seconds until the first forward; None for those of a forward.

        Raises:
            DeviceLost: Something went wrong in them, here or in another rank: some of the ranks may wait for others
                for ever, so that all are ended.
        """
        self._deadline = time.monotonic() + (timeout_s or self._timeout_s)
        try:
            if self._failure is not None:
                raise DeviceLost(self._failure)
            yield
            if self._failure is not None:
                # What was waiting for a rank that is gone may have been let go with whatever lay in its memory.
                raise DeviceLost(self._failure)
        except DeviceLost:
            raise
        except Exception as error:
            # A rank that died shows here as a broken connection; its own last words say more.
            self._wait_for_failure()
            message = self._failure or self._own_failure(error)
            self._fail(message)
            raise DeviceLost(message) from error
        finally:
            self._deadline = None

    def close(self) -> None:
        """Ends the other ranks. Nothing can be run afterwards."""
        self._failure = self._failure or "The ranks have been closed."
        self._closing.set()
        for child in self._children:
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
        for child in self._children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for log in self._logs:
            log.close()

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        # In a session of their own, so that Ctrl-C reaches the first rank alone, which then ends them.
        return subprocess.Popen(
            python("polar_ray.engine.rank"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._logs[number - 1],
            env=environment(),
            pass_fds=[self._meeting],
            start_new_session=True,
        )

    def _share_out(self, backbone: PreTrainedModel, dtype: torch.dtype, device: torch.device, group: Group) -> None:
        """Sends each rank its part of each weight, and keeps the first."""
        for name, parameter in list(backbone.named_parameters()):
            for number in range(1, self.count):
                theirs = part(name, parameter.data, number, self.count)
                if theirs is not None:
                    group.send([theirs.to(device=device, dtype=dtype).contiguous()], number, 0).wait()
            mine = part(name, parameter.data, 0, self.count)
            assert mine is not None
            # A copy in any case, so that the rest can be freed.
            set_part(backbone, name, mine.detach().to(device=device, dtype=dtype, copy=True).contiguous())
        for _, buffer in backbone.named_buffers():
            for number in range(1, self.count):
                group.send([buffer.to(device).contiguous()], number, 0).wait()
        sum_outputs(backbone, group)

    def _tell_all(self, order: PackedForward | PlainForward) -> None:
        # What came before is done, or nearly: from here on it is this forward's time.
        self._deadline = time.monotonic() + self._timeout_s
        for number in range(1, self.count):
            self._tell(number, order)

    def _tell(self, number: int, what: object) -> None:
        pipe = self._children[number - 1].stdin
        assert pipe is not None
        pickle.dump(what, pipe)
        pipe.flush()

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_S):
            for number, child in enumerate(self._children, 1):
                if (code := child.poll()) is not None:
                    self._fail(
                        f"Rank {number} of {self.count}, which held a part of the model, ended with exit code {code}. "
                        f"{self._last_words(number)}Start anew; if it was out of memory, set a smaller token_budget or "
                        "give an actor more GPUs (compute.gpus_per_actor)."
                    )
                    return
            if (deadline := self._deadline) is not None and time.monotonic() > deadline:
                self._fail(
                    f"The {self.count} ranks of the model have not finished a forward within {self._timeout_s:g} s, so "
                    "they were ended. Look for a device that hangs (nvidia-smi), and start anew."
                )
                return

    def _fail(self, message: str) -> None:
        """Notes why no forward can be run any more, and frees whoever waits for another rank."""
        self._failure = self._failure or message
        for child in self._children:
            child.kill()
        if self._group is not None and self._on_cuda:
            # Kernels that wait for a rank that is gone would wait for ever.
            self._group.abort()

    def _wait_for_failure(self) -> None:
        """Gives the watching thread time to find the child whose death was just felt."""
        end = time.monotonic() + 10 * _LOOK_S
        while self._failure is None and time.monotonic() < end:
            time.sleep(_LOOK_S)

    def _own_failure(self, error: Exception) -> str:
        return (
            f"The first of the {self.count} ranks of the model failed in the middle of a forward, so all were ended: "
            f"{type(error).__name__}: {error}. Start anew; if it was out of memory, set a smaller token_budget or give "
            "an actor more GPUs (compute.gpus_per_actor)."
        )

    def _last_words(self, number: int) -> str:
        # A ValueError where all was closed meanwhile.
        with contextlib.suppress(OSError, ValueError):
            log = self._logs[number - 1].fileno()
            # Not by seeking: the rank writes at the position that both have.
            lines = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace").strip().splitlines()
            return f"Its last words: {lines[-1].strip()} " if lines else ""
        return ""
