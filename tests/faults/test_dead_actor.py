"""A process of Ray that is killed costs a retry, not the run."""

from pathlib import Path
from threading import Event, Thread

import pyarrow.parquet as pq
import pytest
from conftest import rows, write_jsonl
from processes import contents, kill, with_title, workers

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.progress import Silent
from polar_ray.running.run import run
from polar_ray.running.tally import Tally

SPLITS = 12
SCORER = "ray::MapWorker(MapBatches(Score))"
FILLER = "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch " * 3000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups to a split, each with enough text that no stage is over in a moment."""
    filled = [{**row, "filler": FILLER * 10} for row in rows(2 * SPLITS)]
    return write_jsonl(tmp_path_factory.mktemp("data") / "in.jsonl", filled)


def recipe_of(data: Path, output: Path, seconds: float) -> Recipe:
    return Recipe.of(
        {
            "input": {"path": str(data), "split_rows": 2},
            "scorer": {"kind": "custom", "target": "faulty:Slow", "settings": {"seconds": seconds}},
            "output": {"path": str(output)},
        }
    )


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> dict[str, bytes]:
    """The files of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    run(recipe_of(data, folder, seconds=0))
    assert pq.read_table(folder / "scores").num_rows == 2 * SPLITS
    return contents(folder)


class KillsAfter(Silent):
    """Kills the processes with a title when a number of splits is committed, once."""

    def __init__(self, splits: int, title: str) -> None:
        self._splits = splits
        self._title = title
        self.killed: list[int] = []

    def update(self, tally: Tally, done_share: float) -> None:
        if tally.splits >= self._splits and not self.killed:
            victims = with_title(self._title, workers())
            self.killed = [victim.pid for victim in victims]
            kill(victims)


class KillsWhenSeen(Thread):
    """Kills the first process that it sees at work on each of some titles."""

    def __init__(self, titles: list[str]) -> None:
        super().__init__()
        self._wanted = list(titles)
        self._over = Event()
        self.killed: list[str] = []

    def run(self) -> None:
        while self._wanted and not self._over.wait(0.002):
            for title in list(self._wanted):
                victims = with_title(title, workers())[:1]
                if victims:
                    kill(victims)
                    self._wanted.remove(title)
                    self.killed.append(title)

    def __enter__(self) -> "KillsWhenSeen":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self.join()


@pytest.mark.parametrize("title", [SCORER, "ray::AttemptLog"])
def test_a_run_outlives_an_actor_that_is_killed(
    title: str, data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    killer = KillsAfter(3, title)
    manifest = run(recipe_of(data, tmp_path, seconds=0.1), reporter=killer)
    assert killer.killed
    assert contents(tmp_path) == undisturbed
    assert manifest.counts["statuses"] == {"": {"ok": 2 * 3 * SPLITS}}
    assert manifest.counts["splits"] == SPLITS


def test_a_run_outlives_workers_killed_while_they_read_encode_and_write(
    data: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    titles = [f"ray::MapBatches({stage})" for stage in ("Read", "Encode", "Write")]
    with KillsWhenSeen(titles) as killer:
        run(recipe_of(data, tmp_path, seconds=0.1))
    assert sorted(killer.killed) == sorted(titles)
    assert contents(tmp_path) == undisturbed
