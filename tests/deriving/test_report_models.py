"""Models in a report: who wins most and least is found over all of them, however many the page shows."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import reported
from score_tables import group, score_table, write_run

from polar_ray.deriving.report.report import report

STRENGTH = {f"model-{number:02d}": 50.0 for number in range(33)} | {
    "all others": 60.0,
    "strong but rare": 90.0,
    "weak but rare": 10.0,
}


def made_rows() -> list[dict[str, Any]]:
    """Prompts with ten candidates each; the strongest and the weakest model have the fewest."""
    draw = random.Random(3)
    weights = [1 if "rare" in name else 8 for name in STRENGTH]
    rows = []
    for number in range(120):
        names = draw.choices(list(STRENGTH), weights, k=10)
        row = group(f"p{number}", [float(round(draw.gauss(STRENGTH[name], 15))) for name in names])
        for candidate, name in zip(row["candidates"], names, strict=True):
            candidate["model"] = name if number else None
        rows.append(row)
    return rows


ROWS = made_rows()


def win_rates() -> dict[str | None, tuple[float, int]]:
    """Win rate and comparisons of each model, by a loop over pairs."""
    won: Counter[str | None] = Counter()
    met: Counter[str | None] = Counter()
    for row in ROWS:
        names = [candidate["model"] for candidate in row["candidates"]]
        for pair in reported.pairs(row, row["reward"]):
            for a, b in (pair, pair[::-1]):
                if names[a] != names[b]:
                    met[names[a]] += 1
                    won[names[a]] += (1 + reported.sign(row["reward"][a], row["reward"][b])) / 2
    return {name: (won[name] / met[name], met[name]) for name in met}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_run(folder / "run", score_table(ROWS))
    report(str(folder / "run"), str(folder / "page.html"), processes=1)
    return folder / "page.html"


@pytest.fixture(scope="module")
def scorer(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = reported.page_data(path)["scorers"][0]
    return found


def test_the_best_and_the_worst_are_those_of_all_models(scorer: dict[str, Any], path: Path) -> None:
    rates = win_rates()
    best, worst = max(rates, key=lambda name: rates[name]), min(rates, key=lambda name: rates[name])
    assert (best, worst) == ("strong but rare", "weak but rare")
    for found, name in ((scorer["best_model"], best), (scorer["worst_model"], worst)):
        assert found["model"] == name
        assert (found["win_rate"], found["comparisons"]) == (pytest.approx(rates[name][0]), rates[name][1])
    text = path.read_text(encoding="utf-8")
    assert "strong but rare wins most often" in text
    assert "; weak but rare least" in text


def test_twelve_that_win_most_and_twelve_that_win_least_are_shown(scorer: dict[str, Any]) -> None:
    rates = win_rates()
    ordered = sorted(set(rates) - {None}, key=lambda name: rates[name])
    named = [entry for entry in scorer["models"] if entry["named"]]
    assert {entry["model"] for entry in named} == {*ordered[:12], *ordered[-12:]}
    for place, entry in enumerate(named):
        assert (entry["win_rate"], entry["comparisons"]) == (
            pytest.approx(rates[entry["model"]][0]),
            rates[entry["model"]][1],
        )
        assert scorer["duels"][place][place] is None
    assert scorer["choice"] == {"most": 12, "least": 12, "shown": 24, "of": 37, "among": 37}
    assert len(scorer["duels"]) == 24


def test_a_model_called_all_others_is_not_the_others(scorer: dict[str, Any]) -> None:
    own = [
        reward
        for row in ROWS
        for candidate, reward in zip(row["candidates"], row["reward"], strict=True)
        if candidate["model"] == "all others"
    ]
    one, rest = [entry for entry in scorer["models"] if entry["model"] == "all others"]
    assert (one["named"], one["candidates"], one["mean"]) == (True, len(own), pytest.approx(sum(own) / len(own)))
    assert (rest["named"], rest["win_rate"], rest["comparisons"]) == (False, None, 0)
    every = [reward for row in ROWS for reward in row["reward"]]
    assert sum(entry["candidates"] for entry in scorer["models"]) == len(every)
    total = sum(entry["mean"] * entry["count"] for entry in scorer["models"])
    assert total == pytest.approx(sum(every))
    assert [sum(counts) for counts in zip(*(entry["counts"] for entry in scorer["models"]), strict=True)] == (
        scorer["reward"]["histogram"]["counts"]
    )


def test_the_page_says_that_it_shows_a_choice(path: Path) -> None:
    html = path.read_text(encoding="utf-8")
    assert html.count("Of 37 models these are the 12 that win most often and the 12 that win least.") == 3
    assert "The last row takes all others together." in html
    assert '<th scope="row" dir="auto" class="rest">all others</th>' in html


def test_a_model_beyond_the_matrix_is_still_the_best(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("polar_ray.deriving.report.measure.MATRIX", 30)
    run = write_run(tmp_path / "run", score_table(ROWS))
    [found] = report(str(run), str(tmp_path / "page.html"), processes=1)["scorers"]
    assert (found["best_model"]["model"], found["worst_model"]["model"]) == ("strong but rare", "weak but rare")
    assert "strong but rare" not in {entry["model"] for entry in found["models"]}
    assert len(found["duels"]) == 24
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "the 12 that win least among the 30 with the most candidates." in html


def test_candidates_whose_model_is_not_told_are_not_called_a_model(tmp_path: Path) -> None:
    rows = [group(f"p{number}", [3.0, 2.0, 1.0]) for number in range(4)]
    for row in rows:
        for candidate, name in zip(row["candidates"], [None, "not named", "small"], strict=True):
            candidate["model"] = name
    run = write_run(tmp_path / "run", score_table(rows))
    [found] = report(str(run), str(tmp_path / "page.html"), processes=1)["scorers"]
    assert [(entry["model"], entry["named"], entry["win_rate"]) for entry in found["models"]] == [
        ("not named", False, 1.0),
        ("not named", True, 0.5),
        ("small", True, 0.0),
    ]
    assert found["best_model"] == {"model": "not named", "win_rate": 0.5, "comparisons": 8}
