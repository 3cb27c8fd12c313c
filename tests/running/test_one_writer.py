"""Of several that would write into one folder one does; the others end at once and touch nothing."""

import os
import time
from pathlib import Path

import msgspec
import pytest
from conftest import rows, write_jsonl
from processes import as_nobody
from runs import Listening, files_below, part_files, recipe, score_table

from polar_ray.data.lease_record import LeaseRecord
from polar_ray.data.liveness import Process
from polar_ray.data.one_writer import one_writer
from polar_ray.data.storage import Storage
from polar_ray.deriving.derive import derive
from polar_ray.errors import ClusterTooSmall, LeaseLost, OutputBusy, StorageDenied
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.running.folder import RUN, RunFolder
from polar_ray.running.inputs import checked_files
from polar_ray.running.progress import Silent
from polar_ray.running.retry import retry
from polar_ray.running.run import run, score
from polar_ray.running.tally import Tally

HERE = rf"process {os.getpid()} on "


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What is in a folder, and when each file was written."""
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in files_below(folder)}


def derivation(scored: Path, output: Path) -> DeriveRecipe:
    return DeriveRecipe.of(
        {"run": {"path": str(scored)}, "best_of_n": {"top_k": 1}, "output": {"path": str(output)}},
    )


def test_a_second_writer_is_told_who_works_since_when_and_what_to_do(folder: Storage) -> None:
    with one_writer(folder, "_run", RUN) as lease:
        with (
            pytest.raises(
                OutputBusy,
                match=rf"another run has been writing into {folder.url} since 20.* \({HERE}.*wait for its end",
            ),
            one_writer(folder, "_run", RUN),
        ):
            pass
        lease.check()
    assert folder.list() == []
    with one_writer(folder, "_run", RUN) as later:
        assert later.token > lease.token


def test_where_nobody_can_write_nobody_waits(open_path: Path) -> None:
    (open_path / "in").mkdir()
    folder = Storage.of(str(open_path / "in" / "out"), wait_s=2)
    (open_path / "in").chmod(0o555)
    said = r"in/out cannot be written: .*in is read-only for this user"
    with as_nobody(), pytest.raises(StorageDenied, match=said), one_writer(folder, "_run", RUN):
        pass
    assert list((open_path / "in").iterdir()) == []


@pytest.mark.parametrize("fresh", [False, True])
def test_a_second_run_ends_at_once_and_leaves_the_first_ones_files_alone(
    tmp_path: Path, embedded_ray: None, fresh: bool
) -> None:
    wanted = recipe(write_jsonl(tmp_path / "in.jsonl", rows(6)), tmp_path / "out", "input.split_rows=2")
    run(wanted)
    # As if it were still at work: not finished, a split missing, and another half-written.
    out = tmp_path / "out"
    (out / "manifest.json").unlink()
    (out / "_run/commits/00000-00001.json").unlink()
    half_written = out / "scores" / f".tmp-{'0' * 32}"
    half_written.write_bytes(b"half")
    os.utime(half_written, (1, 1))
    with one_writer(Storage.of(str(out)), "_run", RUN):
        before = contents(out)
        with pytest.raises(OutputBusy, match="another run has been writing into"):
            run(wanted, fresh=fresh)
        assert contents(out) == before
    run(wanted, fresh=fresh)
    assert score_table(out).num_rows == 6
    assert not (out / "_run/lease").exists()


def test_what_is_finished_is_looked_at_whoever_writes_there(tmp_path: Path, embedded_ray: None) -> None:
    wanted = recipe(write_jsonl(tmp_path / "in.jsonl", rows(2)), tmp_path / "out")
    run(wanted)
    derived = derivation(tmp_path / "out", tmp_path / "best")
    derive(derived)
    said = Listening()
    with (
        one_writer(Storage.of(str(tmp_path / "out")), "_run", RUN),
        one_writer(Storage.of(str(tmp_path / "best")), "_derive", RUN),
    ):
        before = contents(tmp_path)
        run(wanted, reporter=said)
        assert derive(derived).counts["rows"] == 2
        assert contents(tmp_path) == before
    assert "nothing to do" in said.said[-1]


def test_a_retry_and_a_fresh_start_of_its_run_keep_each_other_out(tmp_path: Path, embedded_ray: None) -> None:
    flaky = {
        "kind": "custom",
        "target": "faulty:Flaky",
        "settings": {"mended": str(tmp_path / "mended"), "diary": str(tmp_path / "diary")},
        "public": ["mended", "diary"],
    }
    data = rows(2)
    data[1]["prompt"][0]["content"] = "bad"
    wanted = recipe(write_jsonl(tmp_path / "in.jsonl", data), tmp_path / "out", scorer=flaky)
    run(wanted)
    (tmp_path / "mended").touch()
    with one_writer(Storage.of(str(tmp_path / "out")), "_run", RUN):
        before = contents(tmp_path / "out")
        with pytest.raises(OutputBusy):
            retry(str(tmp_path / "out"))
        assert contents(tmp_path / "out") == before
    generation = retry(str(tmp_path / "out")).generation
    assert generation is not None
    assert generation.number == 2
    assert not [name for name in files_below(tmp_path / "out") if "lease" in name]


def test_a_run_takes_over_at_once_from_a_process_of_this_machine_that_was_killed(
    tmp_path: Path, embedded_ray: None
) -> None:
    wanted = recipe(write_jsonl(tmp_path / "in.jsonl", rows(4)), tmp_path / "out", "input.split_rows=2")
    run(wanted)
    before = part_files(tmp_path / "out")
    out = Storage.of(str(tmp_path / "out"))
    out.delete(out.join("manifest.json"))
    # Its number is another process's by now.
    dead = msgspec.structs.replace(Process.this(), started="1")
    left = LeaseRecord(owner="host:1:x", since="2026-01-01T00:00:00+00:00", expires=4e9, process=dead)
    out.write_atomic(out.join("_run", "lease", "000000000007.json"), msgspec.json.encode(left))
    assert run(wanted).resumed_splits == 2
    assert part_files(tmp_path / "out") == before
    assert not (tmp_path / "out/_run/lease").exists()


class TakenOver(Silent):
    """Another process takes the run over when the first splits are committed."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def update(self, tally: Tally, done_share: float) -> None:
        storage = self._folder.storage
        theirs = LeaseRecord(owner="host:1:x", since="2026-01-01T00:00:00+00:00", expires=4e9)
        storage.write_atomic(storage.join("_run", "lease", f"{10**12 - 1}.json"), msgspec.json.encode(theirs))


def test_a_run_that_was_taken_over_ends_and_finishes_nothing(tmp_path: Path, embedded_ray: None) -> None:
    wanted = recipe(write_jsonl(tmp_path / "in.jsonl", rows(40)), tmp_path / "out", "input.split_rows=2")
    folder = RunFolder.of(str(tmp_path / "out"))
    with pytest.raises(LeaseLost, match="the run goes on there"):
        run(wanted, reporter=TakenOver(folder))
    # What its helpers still had to write was not wanted any more.
    assert not folder.is_finished()
    assert [info.path for info in folder.storage.list(folder.join("_run", "lease"))][-1].endswith(f"{10**12 - 1}.json")


def test_where_nothing_came_of_a_run_nothing_is_left(tmp_path: Path, embedded_ray: None) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", rows(2))
    (tmp_path / "there").mkdir()
    for name in ("out", "there"):
        with pytest.raises(ClusterTooSmall):
            run(recipe(path, tmp_path / name, "compute.cpus_per_actor=1000"))
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "there").iterdir()) == []


def test_of_two_derivations_into_one_folder_the_second_deletes_nothing(tmp_path: Path, embedded_ray: None) -> None:
    run(recipe(write_jsonl(tmp_path / "in.jsonl", rows(2)), tmp_path / "out"))
    wanted = derivation(tmp_path / "out", tmp_path / "best")
    derive(wanted)
    (tmp_path / "best/manifest.json").unlink()
    with one_writer(Storage.of(str(tmp_path / "best")), "_derive", RUN):
        before = contents(tmp_path / "best")
        for fresh in (False, True):
            with pytest.raises(OutputBusy, match="another derivation has been writing into"):
                derive(wanted, fresh=fresh)
        assert contents(tmp_path / "best") == before
    assert derive(wanted).counts["rows"] == 2
    assert not (tmp_path / "best/_derive/lease").exists()


def overtaken(folder: Storage, records: str) -> None:
    """Another process takes over, as it may from one that did not renew its lease, be it asleep."""
    theirs = LeaseRecord(owner="host:1:x", since="2026-01-01T00:00:00+00:00", expires=4e9)
    folder.write_atomic(folder.join(records, "lease", f"{10**12 - 1}.json"), msgspec.json.encode(theirs))


@pytest.mark.parametrize("finished", [True, False])
def test_a_fresh_start_that_slept_while_another_finished_leaves_its_table_and_what_was_derived_alone(
    tmp_path: Path, embedded_ray: None, finished: bool
) -> None:
    best = {"best": {"best_of_n": {"top_k": 1}, "output": {"path": str(tmp_path / "best")}}}
    wanted = recipe(write_jsonl(tmp_path / "in.jsonl", rows(2)), tmp_path / "out", derive=best)
    run(wanted)
    folder = RunFolder.of(str(tmp_path / "out"))
    if not finished:
        folder.storage.delete(folder.manifest)
    files = checked_files(wanted, folder, fresh=True)
    with one_writer(folder.storage, "_run", RUN) as lease:
        overtaken(folder.storage, "_run")
        before = contents(tmp_path)
        with pytest.raises(LeaseLost, match="the run goes on there"):
            score(wanted, None, folder, files, lease, fresh=True, reporter=Silent())
        assert contents(tmp_path) == before


def test_a_run_that_slept_while_another_began_sweeps_and_takes_back_nothing(tmp_path: Path, embedded_ray: None) -> None:
    wanted = recipe(write_jsonl(tmp_path / "in.jsonl", rows(4)), tmp_path / "out", "input.split_rows=2")
    run(wanted)
    folder = RunFolder.of(str(tmp_path / "out"))
    folder.storage.delete(folder.manifest)
    taken = {"changed": [], "files": [0], "splits": [], "partitions": False}
    folder.storage.write_atomic(folder.taken_back, msgspec.json.encode(taken))
    half_written = tmp_path / "out" / "scores" / f".tmp-{'0' * 32}"
    half_written.write_bytes(b"half")
    os.utime(half_written, (1, 1))
    files = checked_files(wanted, folder, fresh=False)
    with one_writer(folder.storage, "_run", RUN) as lease:
        overtaken(folder.storage, "_run")
        before = contents(tmp_path / "out")
        with pytest.raises(LeaseLost):
            score(wanted, None, folder, files, lease, fresh=False, reporter=Silent())
        assert contents(tmp_path / "out") == before


def test_a_derivation_that_slept_while_another_finished_does_not_replace_its_files(
    tmp_path: Path, embedded_ray: None
) -> None:
    run(recipe(write_jsonl(tmp_path / "in.jsonl", rows(2)), tmp_path / "out"))
    best = Storage.of(str(tmp_path / "best"))

    def sleeps(done: int, units: int) -> None:
        overtaken(best, "_derive")
        best.write_atomic(best.join("data", "train", "part-00000.jsonl"), b"theirs")
        time.sleep(0.1)

    with pytest.raises(LeaseLost, match=r"another derivation \(process 1 on host\) has taken over"):
        derive(derivation(tmp_path / "out", tmp_path / "best"), progress=sleeps, lease_s=0.06)
    assert (tmp_path / "best/data/train/part-00000.jsonl").read_bytes() == b"theirs"
    assert not (tmp_path / "best/ledger").exists() or not list((tmp_path / "best/ledger").iterdir())
