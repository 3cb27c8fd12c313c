"""A scorer of the user's that cannot be used is one sentence, whatever its module does."""

from pathlib import Path

import pytest

from polar_ray.errors import RecipeError
from polar_ray.recipe.scorers import Custom
from polar_ray.scorers.catalog import fingerprint_of, make_scorer


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("raises_value", "raise ValueError('no licence')", "ended in ValueError: no licence"),
        ("raises_syntax", "def f(:", "ended in SyntaxError: "),
        ("divides", "1 / 0", "ended in ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_raises_when_imported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, says: str
) -> None:
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = Custom(kind="custom", target=f"{name}:Mine")
    for use in (fingerprint_of, make_scorer):
        with pytest.raises(RecipeError) as refused:
            use(config)
        assert f"scorer.target {name}:Mine: importing {name} {says}" in str(refused.value)
        assert f"python -c 'import {name}' shows where it fails" in str(refused.value)
