"""Every figure of a report against a plain computation over the rows of its score table."""

import json
import math
import random
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import reported
from conftest import rows as input_rows
from conftest import write_jsonl
from processes import COMMAND
from runs import recipe
from score_tables import assistant, group, score_table, write_run

from polar_ray.deriving.report.report import report
from polar_ray.deriving.report.summary import summary
from polar_ray.errors import ConservationError, NotARun, NotFinished, OutputError, RecipeError
from polar_ray.running.run import run

ROOT = Path(__file__).parents[2]
MODELS = ["small", "large", "old", None]
INPUT = {
    "layout": "groups",
    "columns": {"labels": "judged"},
    "candidate_fields": {"candidate_id": "output_id"},
}
SCORERS = ("close", "long")
TYPES = {
    **{f"reward_{name}": pa.list_(pa.float32()) for name in SCORERS},
    **{f"status_{name}": pa.list_(pa.string()) for name in SCORERS},
    **{f"error_{name}": pa.list_(pa.string()) for name in SCORERS},
    "tokens_close": pa.list_(pa.int32()),
}


def made_rows() -> list[dict[str, Any]]:
    """Prompts with up to eight candidates of four models; two scorers with ties and gaps; labels of two kinds."""
    draw = random.Random(7)
    rows = []
    for number in range(60):
        many = draw.choice([1, 2, 3, 5, 8])
        texts = ["word " * draw.randrange(0, 30) for _ in range(many)]
        close = [draw.choice([None, *(step / 8 for step in range(-8, 9))]) for _ in range(many)]
        if number % 10 == 0:
            close = [0.5] * many
        labels = [
            {"output_id": f"c{place}", "kind": "judge", "score": draw.randrange(1, 6)}
            for place in range(many)
            if draw.random() < 0.8
        ]
        if number % 3 == 0:
            labels += [
                {"output_id": f"c{place}", "kind": "test", "correct": draw.random() < 0.5} for place in range(many)
            ]
        labels.append({"output_id": "not there", "kind": "judge", "score": 1000})
        row = group(f"p{number:02d}", [], texts)
        for name in ("reward", "status", "tokens"):
            del row[name]
        for place, candidate in enumerate(row["candidates"]):
            candidate["model"] = MODELS[(place * number) % 4]
        rows.append(
            row
            | {
                "extra": json.dumps({"source": "made", "judged": labels}) if number % 5 else None,
                "reward_close": close,
                "status_close": ["error" if each is None else "truncated" if each == 1 else "ok" for each in close],
                "error_close": ["it broke" if each is None else None for each in close],
                "tokens_close": [draw.choice([None, 10, 20, 30]) for _ in range(many)],
                "reward_long": [float(len(text)) for text in texts],
                "status_long": ["ok"] * many,
                "error_long": [None] * many,
            }
        )
    return rows


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    base = score_table([]).schema
    fields = [field for field in base if field.name not in ("reward", "status", "tokens")]
    schema = pa.schema([*fields, *(pa.field(name, type_) for name, type_ in TYPES.items())])
    return pa.Table.from_pylist(rows, schema=schema)


def write_made(folder: Path, part_rows: int = 7) -> Path:
    write_run(folder, table_of(made_rows()), part_rows)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["input"] = INPUT
    manifest["recipe"]["scorers"] = {"close": {"kind": "custom"}, "long": {"kind": "length"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """As the table holds them: float32 rewards are exact for eighths."""
    return made_rows()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, Any]:
    page = folder.parent / "report.html"
    report(str(folder), str(page), processes=1)
    return reported.page_data(page)


@pytest.fixture(scope="module")
def close(made: dict[str, Any]) -> dict[str, Any]:
    scorer: dict[str, Any] = made["scorers"][0]
    return scorer


def test_the_page_holds_what_the_call_returns(folder: Path, tmp_path: Path) -> None:
    data = report(str(folder), str(tmp_path / "page.html"), processes=1)
    assert reported.page_data(tmp_path / "page.html") == json.loads(json.dumps(data))


def test_what_is_said_of_length_is_left_out_where_the_reward_is_the_length(folder: Path, tmp_path: Path) -> None:
    data = report(str(folder), str(tmp_path / "page.html"), processes=1)
    lines = summary(data, "page.html").splitlines()
    of_close, of_long = lines[2 : lines.index("long:")], lines[lines.index("long:") :]
    assert any("The longest candidate is the best one" in line for line in of_close)
    assert any("length alone" in line for line in of_close)
    assert not any("longest" in line or "length alone" in line for line in of_long)


def test_prompts_candidates_and_statuses_are_counted(
    made: dict[str, Any], close: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    assert made["prompts"] == 60
    assert made["candidates"] == sum(len(row["candidates"]) for row in rows)
    assert close["statuses"] == Counter(status for row in rows for status in row["status_close"])
    missing = sum(reward is None for row in rows for reward in row["reward_close"])
    assert close["errors"] == [{"message": "it broke", "count": missing}]


def test_the_distribution_is_that_of_all_rewards(close: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    every = [reward for row in rows for reward in reported.rewards(row, "reward_close")]
    shown = close["reward"]
    assert shown["count"] == len(every)
    assert shown["mean"] == pytest.approx(statistics.fmean(every))
    assert shown["sd"] == pytest.approx(statistics.pstdev(every))
    assert (shown["min"], shown["max"]) == (min(every), max(every))
    assert [each["value"] for each in shown["quantiles"]] == [
        reported.quantile(every, share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)
    ]
    edges, counts = shown["histogram"]["edges"], shown["histogram"]["counts"]
    last = len(counts) - 1
    assert counts == [
        sum(
            edges[bin_] <= reward and (reward < edges[bin_ + 1] or (bin_ == last and reward == edges[-1]))
            for reward in every
        )
        for bin_ in range(len(counts))
    ]
    assert sum(counts) + shown["histogram"]["below"] + shown["histogram"]["above"] == len(every)


def test_each_model_has_its_own_distribution(
    made: dict[str, Any], close: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    assert sorted(made["models"]) == ["large", "not named", "old", "small"]
    for shown in close["models"]:
        name = None if shown["model"] == "not named" else shown["model"]
        own = [
            reward
            for row in rows
            for candidate, reward in zip(row["candidates"], row["reward_close"], strict=True)
            if candidate["model"] == name
        ]
        there = [reward for reward in own if reward is not None]
        assert (shown["candidates"], shown["count"]) == (len(own), len(there))
        assert shown["mean"] == pytest.approx(statistics.fmean(there))
        assert shown["sd"] == pytest.approx(statistics.pstdev(there))
        assert shown["truncated"] == there.count(1.0)
        assert sum(shown["counts"]) == len(there)


def test_margins_and_ties_are_those_of_prompts_with_two_rewards(
    close: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    each = [reported.rewards(row, "reward_close") for row in rows]
    several = [rewards for rewards in each if len(rewards) >= 2]
    for name, place in (("second", 1), ("worst", -1)):
        margins = [rewards[0] - rewards[place] for rewards in several]
        shown = close["margins"][name]
        assert shown["count"] == len(several)
        assert shown["mean"] == pytest.approx(statistics.fmean(margins))
        assert shown["max"] == max(margins)
        edges, counts = shown["histogram"]["edges"], shown["histogram"]["counts"]
        assert counts[0] == sum(edges[0] <= margin < edges[1] for margin in margins)
        assert sum(counts) + shown["histogram"]["above"] == len(several)
    tied = [reported.sign(one, other) == 0 for rewards in each for one in rewards for other in rewards]
    own = sum(len(rewards) for rewards in each)
    assert close["ties"] == {
        "best_shared": sum(rewards[0] == rewards[1] for rewards in several),
        "all_equal": sum(len(set(rewards)) == 1 for rewards in several),
        "of": len(several),
        "pairs": (len(tied) - own) // 2,
        "tied_pairs": (sum(tied) - own) // 2,
    }
    assert close["prompts"] == {
        "with_none": sum(not rewards for rewards in each),
        "with_one": sum(len(rewards) == 1 for rewards in each),
        "with_several": len(several),
    }


def test_the_curve_is_the_mean_over_all_subsets(close: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    each = [reported.rewards(row, "reward_close") for row in rows]
    for point in close["curve"]:
        enough = [rewards for rewards in each if len(rewards) >= point["n"]]
        assert point["prompts"] == len(enough)
        assert point["expected_best"] == pytest.approx(
            statistics.fmean(reported.best_of(rewards, point["n"]) for rewards in enough)
        )


def test_win_rates_count_pairs_of_different_models_and_ties_as_half(
    made: dict[str, Any], close: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    won: Counter[tuple[Any, Any]] = Counter()
    met: Counter[tuple[Any, Any]] = Counter()
    for row in rows:
        models = [candidate["model"] or "not named" for candidate in row["candidates"]]
        for one, other in reported.pairs(row, row["reward_close"]):
            for a, b in ((one, other), (other, one)):
                met[models[a], models[b]] += 1
                won[models[a], models[b]] += (1 + reported.sign(row["reward_close"][a], row["reward_close"][b])) / 2
    names = made["models"]
    for place, shown in enumerate(close["models"]):
        others = [name for name in names if name != shown["model"]]
        compared = sum(met[shown["model"], name] for name in others)
        assert shown["comparisons"] == compared
        assert shown["win_rate"] == pytest.approx(sum(won[shown["model"], name] for name in others) / compared)
        for column, name in enumerate(names):
            rate = close["duels"][place][column]
            if column == place:
                assert rate is None
            else:
                assert rate == pytest.approx(won[shown["model"], name] / met[shown["model"], name])


@pytest.mark.parametrize("unit", ["characters", "tokens"])
def test_reward_against_length(unit: str, close: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    [shown] = [length for length in close["lengths"] if length["unit"] == unit]
    prompts, base, told, longer = [], [], 0, 0
    for row in rows:
        lengths = (
            [len(reported.text(each)) for each in row["candidates"]] if unit == "characters" else row["tokens_close"]
        )
        known = [
            (length, reward)
            for length, reward in zip(lengths, row["reward_close"], strict=True)
            if length is not None and reward is not None
        ]
        prompts.append(([float(length) for length, _ in known], [reward for _, reward in known]))
        if len(known) >= 2:
            most, best = max(length for length, _ in known), max(reward for _, reward in known)
            longest = [reward == best for length, reward in known if length == most]
            base.append((statistics.fmean(longest), statistics.fmean(reward == best for _, reward in known)))
        for one, other in reported.pairs(row, lengths, row["reward_close"]):
            product = reported.sign(lengths[one], lengths[other]) * reported.sign(
                row["reward_close"][one], row["reward_close"][other]
            )
            told += product != 0
            longer += product == 1
    x, y = [each for xs, _ in prompts for each in xs], [each for _, ys in prompts for each in ys]
    assert shown["count"] == len(x)
    assert shown["pearson"] == pytest.approx(reported.pearson(x, y))
    assert shown["spearman"] == pytest.approx(reported.spearman(x, y))
    pearson, spearman, many = reported.inside(prompts)
    assert shown["within_pearson"] == pytest.approx(pearson)
    assert shown["within_spearman"] == pytest.approx(spearman)
    assert shown["within_prompts"] == many
    assert shown["baseline"] == {
        "prompts": len(base),
        "longest_is_best": pytest.approx(statistics.fmean(hit for hit, _ in base)),
        "chance": pytest.approx(statistics.fmean(chance for _, chance in base)),
        "pairs": told,
        "longer_is_better": pytest.approx(longer / told),
    }
    density = shown["density"]
    for place, column in enumerate(density["counts"]):
        low, high = density["edges"][place], density["edges"][place + 1]
        own = [
            reward for length, reward in zip(x, y, strict=True) if low <= length < (math.inf if high is None else high)
        ]
        assert sum(column) == len(own)
        assert density["mean_reward"][place] == (pytest.approx(statistics.fmean(own)) if own else None)


def test_two_scorers_are_compared_on_what_both_scored(made: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    both = told = same = 0
    prompts = []
    for row in rows:
        for one, other in reported.pairs(row, row["reward_close"], row["reward_long"]):
            product = reported.sign(row["reward_close"][one], row["reward_close"][other]) * reported.sign(
                row["reward_long"][one], row["reward_long"][other]
            )
            both, told, same = both + 1, told + (product != 0), same + (product == 1)
        known = [pair for pair in zip(row["reward_close"], row["reward_long"], strict=True) if None not in pair]
        prompts.append(([one for one, _ in known], [other for _, other in known]))
    x, y = [each for xs, _ in prompts for each in xs], [each for _, ys in prompts for each in ys]
    _, within, many = reported.inside(prompts)
    assert made["agreement"] == [
        {
            "scorers": ["close", "long"],
            "pairs": both,
            "told_apart": told,
            "same_order": same / told,
            "spearman": pytest.approx(reported.spearman(x, y)),
            "within_spearman": pytest.approx(within),
            "within_prompts": many,
        }
    ]


@pytest.mark.parametrize(("kind", "field"), [("judge", "score"), ("test", "correct")])
def test_agreement_with_labels(kind: str, field: str, close: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    [shown] = [label for label in close["labels"] if label["kind"] == kind]
    labelled = usable = pairs = length_pairs = 0
    agreeing = by_length = 0.0
    picked, mean, longest, oracle = [], [], [], []
    telling = 0
    for row in rows:
        labels = {
            label["output_id"]: float(label[field])
            for label in json.loads(row["extra"] or "{}").get("judged", [])
            if label["kind"] == kind
        }
        known = [
            (labels[each["candidate_id"]], reward, len(reported.text(each)))
            for each, reward in zip(row["candidates"], row["reward_close"], strict=True)
            if each["candidate_id"] in labels and reward is not None
        ]
        labelled += sum(each["candidate_id"] in labels for each in row["candidates"])
        usable += len(known)
        if len(known) < 2:
            continue
        telling += len({label for label, _, _ in known}) > 1
        top, most = max(reward for _, reward, _ in known), max(length for *_, length in known)
        picked.append(statistics.fmean(label for label, reward, _ in known if reward == top))
        longest.append(statistics.fmean(label for label, _, length in known if length == most))
        mean.append(statistics.fmean(label for label, _, _ in known))
        oracle.append(max(label for label, _, _ in known))
        for place, one in enumerate(known):
            for other in known[:place]:
                if one[0] != other[0]:
                    order = reported.sign(one[0], other[0])
                    pairs += 1
                    agreeing += (1 + order * reported.sign(one[1], other[1])) / 2
                    length_pairs += 1
                    by_length += (1 + order * reported.sign(one[2], other[2])) / 2
    assert shown == {
        "kind": kind,
        "field": field,
        "labelled": labelled,
        "usable": usable,
        "prompts": len(picked),
        "telling_prompts": telling,
        "pairs": pairs,
        "accuracy": pytest.approx(agreeing / pairs),
        "length_pairs": length_pairs,
        "length_accuracy": pytest.approx(by_length / length_pairs),
        "best": pytest.approx(statistics.fmean(picked)),
        "random": pytest.approx(statistics.fmean(mean)),
        "longest": pytest.approx(statistics.fmean(longest)),
        "oracle": pytest.approx(statistics.fmean(oracle)),
    }


def test_examples_are_the_first_of_their_kind_in_the_whole_table(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    data = report(str(folder), str(tmp_path / "page.html"), sample=5, processes=1)
    each = {row["prompt_id"]: reported.rewards(row, "reward_close") for row in rows}
    several = {name: rewards for name, rewards in each.items() if len(rewards) >= 2}
    apart = {name: rewards[0] - rewards[1] for name, rewards in several.items() if rewards[0] > rewards[1]}
    failed = {row["prompt_id"]: -row["reward_close"].count(None) for row in rows if None in row["reward_close"]}
    longest = {row["prompt_id"]: -max(len(reported.text(c)) for c in row["candidates"]) for row in rows}
    keys: dict[str, dict[str, float]] = {
        "best": {name: -rewards[0] for name, rewards in each.items() if rewards},
        "worst": {name: rewards[0] for name, rewards in each.items() if rewards},
        "closest": apart,
        "tied": {name: -rewards[0] for name, rewards in several.items() if rewards[0] == rewards[1]},
        "widest": {name: rewards[-1] - rewards[0] for name, rewards in several.items() if rewards[0] > rewards[-1]},
        "failed": {name: float(number) for name, number in failed.items()},
        "longest": {name: float(number) for name, number in longest.items()},
    }
    shown = {name: [example["id"] for example in data["examples"] if name in example["categories"]] for name in keys}
    for name, key in keys.items():
        assert len(shown[name]) == min(5, len(key))
        assert sorted(key[each] for each in shown[name]) == sorted(key.values())[:5]
    for example in data["examples"]:
        [row] = [row for row in rows if row["prompt_id"] == example["id"]]
        ordered = [candidate["scores"][0]["reward"] for candidate in example["candidates"]]
        assert [reward for reward in ordered if reward is not None] == each[example["id"]]
        assert example["prompt"] == row["prompt"]
        assert [len(example["references"]), example["of"]] == [1, len(row["candidates"])]


def test_a_prompt_against_its_labels_has_a_better_candidate_than_the_best(made: dict[str, Any]) -> None:
    found = [example for example in made["examples"] if "against_label" in example["categories"]]
    assert found
    for example in found:
        by_kind: dict[str, list[tuple[float, float]]] = {}
        for candidate in example["candidates"]:
            for label in candidate["labels"]:
                if candidate["scores"][0]["reward"] is not None:
                    by_kind.setdefault(label["kind"], []).append((candidate["scores"][0]["reward"], label["value"]))
        assert any(
            max(label for _, label in both) > max(label for reward, label in both if reward == max(both)[0])
            for both in by_kind.values()
        )


def test_processes_do_not_change_a_figure_and_parts_only_the_last_digits(folder: Path, tmp_path: Path) -> None:
    def figures(run_: Path, processes: int) -> dict[str, Any]:
        data = report(str(run_), str(tmp_path / "page.html"), processes=processes)
        return {name: data[name] for name in ("prompts", "models", "scorers", "agreement", "examples")}

    small_parts = write_made(tmp_path / "small", part_rows=2)
    one, other_parts = figures(folder, 1), figures(small_parts, 1)
    assert figures(small_parts, 2) == other_parts
    for scorer, other in zip(one["scorers"], other_parts["scorers"], strict=True):
        assert scorer["duels"] == other["duels"]
        assert scorer["ties"] == other["ties"]
        assert scorer["reward"]["histogram"] == other["reward"]["histogram"]
        assert scorer["reward"]["mean"] == pytest.approx(other["reward"]["mean"], rel=1e-12)


def test_the_other_scorer_comes_first_when_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    data = report(str(folder), str(tmp_path / "page.html"), scorer="long", processes=1)
    assert [scorer["label"] for scorer in data["scorers"]] == ["long", "close"]
    best = next(example for example in data["examples"] if "best" in example["categories"])
    assert best["candidates"][0]["scores"][0]["reward"] == max(
        reward for row in made_rows() for reward in row["reward_long"]
    )


def test_correlations_of_ranks_in_a_large_table_come_from_a_sample_and_say_so(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    groups = []
    for number in range(4000):
        lengths = draw.integers(1, 60, 8)
        rewards = (lengths / 60 + draw.normal(size=8)).astype(np.float32).tolist()
        groups.append(group(f"p{number}", rewards, ["x" * int(length) for length in lengths]))
    folder = write_run(tmp_path / "run", score_table(groups), part_rows=500)
    data = report(str(folder), str(tmp_path / "page.html"), processes=1, sample=0)
    x = np.array([len(reported.text(each)) for row in groups for each in row["candidates"]], float)
    y = np.array([reward for row in groups for reward in row["reward"]])
    exact = np.corrcoef(_mean_ranks(x), _mean_ranks(y))[0, 1]
    sampled = data["sampled"]
    assert sampled["of"] == 32_000
    assert sampled["candidates"] == pytest.approx(20_000, rel=0.05)
    assert data["scorers"][0]["lengths"][0]["spearman"] == pytest.approx(exact, abs=0.02)
    assert data["scorers"][0]["lengths"][0]["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    html = (tmp_path / "page.html").read_text()
    assert f"computed from {sampled['candidates']:,} of them at random" in html


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[place]


@pytest.mark.parametrize(
    "rewards",
    [[], [[1.0]], [[None, None]], [[None], [None, None]], [[0.5, 0.5, 0.5]] * 3, [[1e30, -1e30]], [[0.0, -0.0]]],
    ids=["no prompts", "one candidate", "null", "all null", "all equal", "far apart", "two zeros"],
)
def test_a_small_or_odd_table_has_a_page_without_nan(rewards: list[list[float | None]], tmp_path: Path) -> None:
    rows = [group(f"p{number}", each) for number, each in enumerate(rewards)]
    folder = write_run(tmp_path / "run", score_table(rows))
    report(str(folder), str(tmp_path / "page.html"))
    data = reported.page_data(tmp_path / "page.html")
    there = [reward for each in rewards for reward in each if reward is not None]
    assert data["scorers"][0]["reward"]["count"] == len(there)
    histogram = data["scorers"][0]["reward"]["histogram"]
    assert sum(histogram["counts"]) + histogram["below"] + histogram["above"] == len(there)


def test_an_outlier_does_not_flatten_the_histogram(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rewards = draw.normal(size=(500, 4)).astype(np.float32).tolist()
    rewards[3][2] = 1e6
    folder = write_run(tmp_path / "run", score_table([group(f"p{n}", each) for n, each in enumerate(rewards)]), 100)
    data = report(str(folder), str(tmp_path / "page.html"), processes=1)
    reward = data["scorers"][0]["reward"]
    assert reward["max"] == 1e6
    assert reward["histogram"]["above"] >= 1
    assert reward["histogram"]["edges"][-1] < 10
    assert sum(count > 0 for count in reward["histogram"]["counts"]) > 20


def test_without_text_the_page_has_nothing_that_was_written(tmp_path: Path) -> None:
    secret = "the secret answer"
    rows = [group("p", [1.0, None], [secret, "other"], prompt=[assistant(secret)], references=[[assistant(secret)]])]
    folder = write_run(tmp_path / "run", score_table(rows))
    data = report(str(folder), str(tmp_path / "page.html"), text=False)
    assert secret not in (tmp_path / "page.html").read_text()
    assert data["examples"] == []
    assert [length["unit"] for length in data["scorers"][0]["lengths"]] == ["tokens"]


def test_a_page_stays_small_whatever_the_candidates_are(tmp_path: Path) -> None:
    rows = [
        group(f"p{number}", [float(place) for place in range(40)], [f"{place} " * 8000 for place in range(40)])
        for number in range(30)
    ]
    folder = write_run(tmp_path / "run", score_table(rows), part_rows=5)
    data = report(str(folder), str(tmp_path / "page.html"), sample=100, processes=1)
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    assert len(data["examples"]) == 30
    first = data["examples"][0]["candidates"]
    assert [len(first), data["examples"][0]["of"]] == [24, 40]
    assert [candidate["scores"][0]["rank"] for candidate in first[:12]] == list(range(12))
    assert [candidate["scores"][0]["rank"] for candidate in first[-6:]] == list(range(34, 40))
    [message] = first[0]["messages"]
    assert len(message["content"]) == data["settings"]["cut"]
    assert message["characters"] == len("39 ") * 8000


def test_what_the_manifest_says_of_waiting_and_verifying_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", score_table([group("p", [1.0, 2.0])]))
    manifest = json.loads((folder / "manifest.json").read_text())
    figures = {
        "share": 0.1,
        "candidates": 1200,
        "groups": 300,
        "max_delta": 0.02,
        "mean_delta": 1e-6,
        "tolerance": 1e-4,
    }
    manifest["stages"] = {"read": {"busy_s": 2.0}, "score": {"busy_s": 8.0, "waited": 0.125}}
    manifest["verification"] = {"": figures | {"beyond_tolerance": 7}, "rule": {"nothing_to_verify": "it has no model"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    report(str(folder), str(tmp_path / "page.html"))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "8.0 s, waited 12.5%" in html
    assert "1,200 candidates of 300 prompts differ by 0.02 at most" in html
    assert "7 are beyond it" in html
    assert "rule: nothing to verify, it has no model" in html


def test_markup_in_a_text_is_escaped_everywhere(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\u2028"
    rows = [group(attack, [1.0, None], [attack, "<!--"], prompt=[assistant(attack)], error=[attack, None])]
    rows[0]["candidates"][0]["model"] = attack
    table = score_table(rows, error=pa.list_(pa.string()))
    report(str(write_run(tmp_path / "run", table)), str(tmp_path / "page.html"))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html
    [example] = reported.page_data(tmp_path / "page.html")["examples"]
    assert example["id"] == example["candidates"][0]["messages"][0]["content"] == attack


def test_a_table_that_is_not_whole_is_not_reported(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", score_table([group(f"p{n}", [1.0]) for n in range(9)]), part_rows=3)
    (folder / "scores" / "part-00000-00001.parquet").unlink()
    with pytest.raises(ConservationError, match="9 groups and its score table 6"):
        report(str(folder), str(tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()


def test_a_folder_in_the_pages_place_is_said_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"give the page a name in it, such as {tmp_path}/report.html"):
        report(str(folder), f"{tmp_path}/")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", [["good", "bad"], {"c0": True}, [{"candidate_id": "c0", "correct": 1}], "c0"])
def test_labels_of_another_shape_that_were_carried_unread_are_no_labels(tmp_path: Path, labels: Any) -> None:
    fine = [{"candidate_id": "c0", "score": 1.0}, {"candidate_id": "c1", "score": 0.0}]
    table = score_table(
        [
            group("odd", [1.0, 0.0], extra=json.dumps({"labels": labels})),
            group("fine", [1.0, 0.0], extra=json.dumps({"labels": fine})),
        ]
    )
    run = write_run(tmp_path / "run", table)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["recipe"]["input"] = {
        "layout": "groups",
        "columns": {"labels": "labels"},
        "candidate_fields": {"candidate_id": "candidate_id"},
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    [shown] = report(str(run), str(tmp_path / "page.html"), processes=1)["scorers"][0]["labels"]
    assert (shown["labelled"], shown["accuracy"]) == (2, 1.0)


def test_what_is_no_finished_run_or_no_scorer_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotARun):
        report(str(tmp_path), str(tmp_path / "page.html"))
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run" / "run.json").write_text("{}")
    with pytest.raises(NotFinished):
        report(str(tmp_path), str(tmp_path / "page.html"))
    with pytest.raises(RecipeError, match="no scorer 'short'; it has close, long"):
        report(str(folder), str(tmp_path / "page.html"), scorer="short")


@pytest.mark.usefixtures("embedded_ray")
def test_the_command_reports_what_a_run_left(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", input_rows(5, candidates=3))
    with source.open("ab") as stream:
        stream.write(b'{"prompt": 7}\n')
    run(recipe(source, tmp_path / "run", "input.split_rows=2"))
    source.unlink()
    page = tmp_path / "page.html"
    result = subprocess.run(
        [sys.executable, "-c", COMMAND, "report", str(tmp_path / "run"), "--output", str(page), "--processes", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("15 candidates for 5 prompts in ")
    assert lines[-2].startswith(f"report: {page} (made in ")
    assert lines[-1] == "LOADED"
    data = reported.page_data(page)
    assert data["run"]["conservation"] == {
        "rows_read": 6,
        "rows_in_groups": 5,
        "dead_letters": 1,
        "drops": 0,
        "holds": True,
    }
    [letter] = data["dead_letters"]
    assert (letter["stage"], letter["row"], letter["raw"]) == ("schema", 5, '{"prompt": 7}')
    assert [model["model"] for model in data["scorers"][0]["models"]] == ["model-0", "model-1", "model-2"]
    # Each candidate is one character longer than the one before it.
    assert data["scorers"][0]["margins"]["second"]["mean"] == 1.0
