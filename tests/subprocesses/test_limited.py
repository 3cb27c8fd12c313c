"""A limited process gives each request its own answer, or none."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polar_ray.subprocesses import limited
from polar_ray.subprocesses.limited import Ended, LimitedProcess


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[LimitedProcess]:
    starts = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import echo_worker; echo_worker.main()"
    monkeypatch.setattr(limited, "python", lambda module, *given: [sys.executable, "-c", module + starts, *given])
    made = LimitedProcess("", 0.5, 2**31)
    yield made
    made.close()


def test_each_request_has_its_answer(process: LimitedProcess) -> None:
    assert [process.ask(request) for request in (b"a", b"", b"b\nc" * 100_000)] == [b"a", b"", b"b\nc" * 100_000]


def test_an_answer_that_nobody_waited_for_is_no_later_requests(
    process: LimitedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = limited._exchange

    def interrupted(worker: object, request: bytes) -> bytes | None:
        worker.stdin.write(b"%d\n%b" % (len(request), request))
        worker.stdin.flush()
        raise KeyboardInterrupt

    assert process.ask(b"first") == b"first"
    monkeypatch.setattr(limited, "_exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.ask(b"second")
    monkeypatch.setattr(limited, "_exchange", exchange)
    assert process.ask(b"third") == b"third"


def test_what_is_printed_as_it_starts_is_no_answer(process: LimitedProcess) -> None:
    process._module = "print('hello from sitecustomize', flush=True)\n"
    assert process.ask(b"a") == b"a"


def test_one_that_does_not_start_says_so(process: LimitedProcess) -> None:
    process._module = "raise SystemExit(3)\n"
    with pytest.raises(Ended) as end:
        process.ask(b"a")
    assert (end.value.status, end.value.started) == (3, False)


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_a_host_that_does_not_hear_the_signal_hands_that_not_down(process: LimitedProcess, how: str) -> None:
    before = signal.getsignal(signal.SIGPROF)
    if how == "ignored":
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    try:
        with pytest.raises(Ended) as end:
            process.ask(b"loop")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
        signal.signal(signal.SIGPROF, before)
    assert end.value.took_too_long
    assert process.ask(b"a") == b"a"
