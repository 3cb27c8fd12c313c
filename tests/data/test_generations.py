"""Which folder of a run is read by which path."""

from pathlib import Path

from polar_ray.data.generations import newest, run_of


def make(top: Path, *names: str) -> str:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("{}")
    return str(top)


def test_a_generation_is_that_of_the_run_in_which_it_lies(tmp_path: Path) -> None:
    run = make(tmp_path, "_run/run.json", "manifest.json", "generations/2/manifest.json", "generations/3/scores/x")
    assert run_of(f"{run}/generations/2/") == (run, 2)
    assert newest(run) == (f"{run}/generations/2", 2)
    assert newest(f"{run}/generations/1") == (run, 1)
    assert newest(f"{run}/generations/2") == (f"{run}/generations/2", 2)


def test_a_run_in_a_folder_of_such_a_name_is_read_by_its_own_path(tmp_path: Path) -> None:
    # What lies above is no run, whatever else it holds.
    top = make(tmp_path, "manifest.json", "generations/1/_run/run.json", "generations/1/manifest.json")
    assert run_of(f"{top}/generations/1") == (f"{top}/generations/1", None)
    assert newest(f"{top}/generations/1") == (f"{top}/generations/1", 1)


def test_and_has_generations_of_its_own(tmp_path: Path) -> None:
    one = make(tmp_path / "generations" / "1", "_run/run.json", "manifest.json", "generations/2/manifest.json")
    assert newest(one) == (f"{one}/generations/2", 2)
    assert newest(f"{one}/generations/1") == (one, 1)
