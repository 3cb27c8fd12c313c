"""Rooms import downwards only, and heavy packages are loaded where they are needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import polar_ray

ROOT = Path(polar_ray.__file__).parent
FLOORS = (
    {"cli", "showing", "environment", "__main__"},
    {"curating"},
    {"running", "serving"},
    {"deriving"},
    {"scorers"},
    {"engine"},
    {"models"},
    {"data"},
    {"recipe"},
    {"errors", "subprocesses", "terminal", "termination"},
)
"""Rooms from top to bottom; those on one floor do not import each other, except for the commands on top."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
ALLOWED = {
    "ray": {"running", "serving"},
    "torch": {"environment", "running", "scorers", "engine", "models", "serving"},
    "transformers": {"engine", "models"},
}
"""Packages and the rooms that may import them."""


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and full name of each module that a file imports anywhere, type checking included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            if node.module == "polar_ray":
                yield from ((node.lineno, f"polar_ray.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def test_every_module_is_in_a_known_room() -> None:
    assert {room_of(path) for path in MODULES} <= FLOOR_OF.keys()


@pytest.mark.parametrize("room", sorted({room_of(path) for path in MODULES}))
def test_a_room_imports_only_from_rooms_below(room: str) -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in MODULES
        if room_of(path) == room
        for line, name in imports_of(path)
        if name.startswith("polar_ray.")
        and (other := name.split(".")[1]) != room
        and other != "__version__"
        and FLOOR_OF[other] <= FLOOR_OF[room]
        and not FLOOR_OF[other] == FLOOR_OF[room] == 0
    ]
    assert upward == []


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_heavy_package_is_imported_in_its_rooms_only(package: str) -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        if room_of(path) not in ALLOWED[package]
        for line, name in imports_of(path)
        if name.split(".")[0] == package
    ]
    assert elsewhere == []


def loaded_by(code: str) -> set[str]:
    """Returns the heavy packages that are loaded after some code ran in a new process."""
    heavy = sorted([*ALLOWED, "pandas", "pyarrow", "math_verify", "tokenizers"])
    report = f"\nimport sys; print('LOADED', *[name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split()[1:])


HELP = """
import sys
from polar_ray.cli import main
sys.argv = ["polar-ray", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
"""


@pytest.mark.parametrize(
    "code",
    [
        "import polar_ray",
        "from polar_ray import Recipe",
        HELP,
    ],
    ids=["import", "recipe", "help"],
)
def test_the_door_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == set()


def test_a_run_that_is_refused_for_a_column_loads_next_to_nothing_before(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "q", "outputs": ["a", "b"]}\n')
    recipe = f"{{input: {{path: {tmp_path}/in.jsonl}}, scorer: {{kind: length}}, output: {{path: {tmp_path}/out}}}}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    refused = (
        "import sys; from polar_ray.cli import main\n"
        f"sys.argv = ['polar-ray', 'run', '{tmp_path}/recipe.yaml']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 1"
    )
    assert loaded_by(refused) == {"pyarrow"}


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("from polar_ray import explode, read_scores, Group", {"pyarrow", "pandas"}),
        ("from polar_ray.deriving.score_table import score_table", {"pyarrow", "pandas"}),
        ("from polar_ray.running.plan import plan", {"pyarrow", "pandas"}),
        ("from polar_ray import TextClosenessScorer, LengthScorer", {"pyarrow", "pandas", "math_verify"}),
        ("from polar_ray import PolarScorer", {"pyarrow", "pandas", "torch", "transformers", "tokenizers"}),
    ],
    ids=["reading", "deriving", "plan", "text scorers", "model scorers"],
)
def test_a_part_loads_what_it_needs_and_no_more(code: str, allowed: set[str]) -> None:
    assert loaded_by(code) <= allowed


def test_every_name_that_is_offered_is_there() -> None:
    assert sorted(polar_ray.__all__) == polar_ray.__all__
    for name in polar_ray.__all__:
        assert getattr(polar_ray, name).__name__ == name.split(".")[-1]


def test_a_name_that_is_not_offered_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'polar_ray' has no attribute 'scores'"):
        polar_ray.scores  # noqa: B018
