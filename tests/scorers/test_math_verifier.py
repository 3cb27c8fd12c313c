"""Comparing mathematical answers outside the process."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import math_verify
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.data.status import Status
from polar_ray.errors import ScoringError
from polar_ray.scorers.math_verifier import MathVerifier, Verdict
from polar_ray.subprocesses import limited

PAIRS = json.loads((Path(__file__).parents[1] / "golden/math/pairs.json").read_text(encoding="utf-8"))["rows"]
HANG = r"\boxed{9^{9^{9^{9}}}}"


@pytest.fixture(scope="module")
def verifier() -> Any:
    verifier = MathVerifier(timeout_s=20)
    yield verifier
    verifier.close()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['gold']}|{pair['pred']}"[:40])
def test_it_says_what_math_verify_says(verifier: MathVerifier, pair: dict[str, Any]) -> None:
    assert verifier.equal(pair["gold"], pair["pred"]) == Verdict(pair["verify(gold,pred)"])
    assert verifier.equal(pair["pred"], pair["gold"]) == Verdict(pair["verify(pred,gold)"])


def test_the_reference_comes_first(verifier: MathVerifier) -> None:
    assert verifier.equal("$1<x<2$", r"\boxed{(1,2)}").holds
    assert not verifier.equal("$(1,2)$", r"\boxed{1<x<2}").holds


NUMBERS = st.one_of(
    st.integers(-999, 999).map(str),
    st.integers(-(10**12), 10**12).map(str),
    st.decimals(-9999, 9999, places=2).map(lambda value: f"{value:f}"),
    st.decimals(-9, 9, places=6).map(lambda value: f"{value:f}"),
    st.sampled_from(["0", "-0", "0.0", "007", "0.5", "0.50", "0.500000", "12.0", "12", "0.3", "0.300001"]),
)


@settings(max_examples=300, deadline=None)
@given(NUMBERS, st.one_of(NUMBERS, st.none()))
def test_plain_numbers_are_compared_as_math_verify_compares_them(gold: str, answer: str | None) -> None:
    answer = gold + ("0" if "." in gold and len(gold.partition(".")[2]) < 6 else "") if answer is None else answer
    expected = math_verify.verify(
        math_verify.parse(gold, parsing_timeout=None),
        math_verify.parse(answer, parsing_timeout=None),
        timeout_seconds=None,
    )
    assert MathVerifier(timeout_s=1).equal(gold, answer) == Verdict(expected)


@pytest.mark.parametrize(
    ("gold", "is_one"), [("42", True), (r"$\frac{1}{3}$", True), (r"\boxed{\text{Yes}}", True), ("Yes", False)]
)
def test_whether_a_reference_holds_an_expression(verifier: MathVerifier, gold: str, is_one: bool) -> None:
    assert verifier.is_expression(gold) == Verdict(is_one)


def test_a_comparison_that_hangs_is_a_timeout_and_the_next_one_works() -> None:
    verifier = MathVerifier(timeout_s=0.7)
    verdict = verifier.equal("42", HANG)
    assert (verdict.holds, verdict.status) == (False, Status.TIMEOUT)
    assert verdict.error == "math-verify took more than 0.7 s of processor time"
    assert verifier.equal("$42$", r"\boxed{42}") == Verdict(True)
    verifier.close()


def test_threads_get_the_same_verdicts(verifier: MathVerifier) -> None:
    # math-verify's own time limit works in the main thread only and raises elsewhere.
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda pair: verifier.equal(pair["gold"], pair["pred"]), PAIRS))
    assert [verdict.holds for verdict in verdicts] == [pair["verify(gold,pred)"] for pair in PAIRS]


def workers(timeout_s: float) -> list[int]:
    """Process ids of the workers that were started with a time limit."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(timeout_s).encode() in command and any(b"polar_ray.scorers.math_worker" in part for part in command):
            found.append(int(folder.name))
    return found


def wait_until_gone(timeout_s: float) -> None:
    deadline = time.monotonic() + 20
    while workers(timeout_s):
        assert time.monotonic() < deadline
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


@needs_proc
def test_the_process_starts_when_it_is_needed_and_ends_with_its_owner() -> None:
    verifier = MathVerifier(timeout_s=11.25)
    assert verifier.equal("1", "1.0").holds
    assert workers(11.25) == []
    assert verifier.equal("$1$", r"\boxed{1}").holds
    assert len(workers(11.25)) == 1
    del verifier
    wait_until_gone(11.25)


@needs_proc
def test_a_worker_that_was_killed_while_idle_is_replaced() -> None:
    verifier = MathVerifier(timeout_s=11.5)
    assert verifier.equal("$1$", r"\boxed{1}").holds
    os.kill(workers(11.5)[0], signal.SIGKILL)
    assert verifier.equal("$1$", r"\boxed{1}") == Verdict(True)
    verifier.close()


def in_its_place(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Lets a program stand where math-verify's process would."""
    monkeypatch.setattr(limited, "python", lambda *_: [sys.executable, "-c", code])


def test_an_answer_that_kills_the_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    in_its_place(monkeypatch, "import os; print('ready', flush=True); input(); os._exit(3)")
    verdict = MathVerifier(timeout_s=5).equal("$1$", r"\boxed{1}")
    assert (verdict.holds, verdict.status) == (False, Status.ERROR)
    assert verdict.error == "math-verify's process ended with status 3 on ['$1$', '\\\\boxed{1}']"


@needs_proc
def test_the_process_has_a_limit_of_memory() -> None:
    verifier = MathVerifier(timeout_s=11.125, memory_bytes=3 * 2**30)
    assert verifier.equal("$1$", r"\boxed{1}").holds
    limits = Path(f"/proc/{workers(11.125)[0]}/limits").read_text()
    assert f"Max address space         {3 * 2**30} " in limits
    verifier.close()


def test_an_answer_that_wants_too_much_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # What math-verify does with an exception: it logs it at the lowest level and answers no.
    code = """
import logging, sys
from polar_ray.scorers import math_worker
def verify(gold, answer, **_):
    try:
        bytearray(2**40)
    except Exception:
        logging.getLogger("math_verify").debug("Error during comparison", exc_info=True)
        return False
math_worker.verify = verify
sys.argv[1:] = ["5", str(2**30)]
math_worker.main()
"""
    in_its_place(monkeypatch, code)
    verdict = MathVerifier(timeout_s=5, memory_bytes=2**30).equal("$1$", r"\boxed{1}")
    assert verdict == Verdict(False, Status.ERROR, "math-verify wanted more than 1 GiB of memory")


def test_nothing_that_lies_in_a_working_folder_is_executed(tmp_path: Path) -> None:
    for name in ("math_verify", "sympy", "latex2sympy2_extended", "resource"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})")
    (tmp_path / "script.py").write_text(
        "from polar_ray.scorers.math_verifier import MathVerifier\n"
        "print(MathVerifier(5).equal('$1$', r'\\boxed{1}').holds)\n"
    )
    # Its folder is the first place where Python looks, the working folder, and on PYTHONPATH.
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "script.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ran.stdout == "True\n", ran.stderr
    assert not (tmp_path / "executed").exists()


@needs_proc
def test_the_process_does_not_outlive_an_owner_that_was_killed() -> None:
    script = (
        "from polar_ray.scorers.math_verifier import MathVerifier\n"
        "verifier = MathVerifier(timeout_s=11.75)\n"
        "print(verifier.equal('$1$', r'\\boxed{1}').holds, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "True\n"
        owner.kill()
    wait_until_gone(11.75)


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from polar_ray.scorers.math_verifier import MathVerifier\n"
        "print(MathVerifier(5).equal('$1$', r'\\boxed{1}').holds)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout == "once\nTrue\n"
    assert ran.stderr == ""


def test_a_math_verify_that_cannot_be_imported_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    in_its_place(monkeypatch, "raise ImportError('broken installation')")
    with pytest.raises(ScoringError, match="Repair the math-verify installation"):
        MathVerifier(timeout_s=5).equal("$1$", r"\boxed{1}")
    assert "broken installation" in capfd.readouterr().err
