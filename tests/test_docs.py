"""What the documents say is so: tables come from the code, and every test that is named exists."""

import re
from pathlib import Path

import pytest

import polar_ray.data.dead_letters
import polar_ray.data.parsing
from polar_ray.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INPUT = (ROOT / "docs" / "input.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [polar_ray.data.dead_letters, polar_ray.data.parsing], ids=lambda m: m.__name__)
def test_the_page_on_input_has_the_tables_of_the_code(module: object) -> None:
    lines = [line for line in str(module.__doc__).replace("\\\n", "").splitlines() if line.startswith("|")]
    assert len(lines) > 10
    for line in lines:
        assert line.replace("``", "`") in INPUT


def test_every_test_that_the_contributing_guide_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in files.get(file, "")]
    assert missing == []


def test_the_recipe_in_the_readme_is_valid_and_shows_the_defaults() -> None:
    text = README.split("## A recipe, line by line")[1].split("```yaml\n")[1].split("```")[0]
    path = ROOT / "pipelines" / "score_polar_7b.yaml"
    import yaml

    shown = Recipe.of(yaml.safe_load(text))
    shipped = Recipe.load(str(path))
    assert shown == shipped


def test_files_that_the_documents_link_to_exist() -> None:
    documents = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pipelines/sample/README.md")]
    for document in [*documents, *(ROOT / "docs").glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
            assert (document.parent / target).exists(), f"{document} links to {target}"
