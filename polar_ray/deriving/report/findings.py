"""What stands out in a report, in sentences."""

from typing import Any

from polar_ray.data.status import Status
from polar_ray.deriving.report.numbers import compact, count, percent

NOTE, WARNING = "note", "warning"
TIES = 0.05
"""Share of prompts with a shared best reward from which ties are mentioned."""


def findings(scorer: dict[str, Any], data: dict[str, Any]) -> list[dict[str, str]]:
    """Returns sentences about one scorer, each ``{kind, text}``; warnings are what should be looked at."""
    found = [
        *_failures(scorer),
        *_curve(scorer),
        *_models(scorer),
        *_length(scorer),
        *_ties(scorer),
        *_labels(scorer),
    ]
    return [{"kind": kind, "text": text} for kind, text in found]


def verification(entries: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Returns a sentence for each scorer of whose rewards the run scored a sample again."""
    found = []
    for name, entry in entries.items():
        who, beyond = f"{name}: " if name else "", entry.get("beyond_tolerance", 0)
        if "nothing_to_verify" in entry:
            found.append({"kind": NOTE, "text": f"{who}nothing to verify, {entry['nothing_to_verify']}."})
            continue
        text = (
            f"{who}{count(entry['candidates'])} candidates of {count(entry['groups'])} prompts differ by "
            f"{compact(entry['max_delta'], 2)} at most; the tolerance is {compact(entry['tolerance'], 2)}."
        )
        if beyond:
            text += f" {count(beyond)} are beyond it: do not use these rewards before it is known why."
        found.append({"kind": WARNING if beyond else NOTE, "text": text})
    return found


def _failures(scorer: dict[str, Any]) -> list[tuple[str, str]]:
    statuses = scorer["statuses"]
    total = sum(statuses.values())
    failed = {name: many for name, many in statuses.items() if name not in (Status.OK.value, Status.TRUNCATED.value)}
    cut = statuses.get(Status.TRUNCATED.value, 0)
    found = []
    if failed:
        most = max(failed, key=lambda name: failed[name])
        many = sum(failed.values())
        found.append((WARNING, f"{count(many)} candidates ({percent(many / total)}) have no reward, mostly {most}."))
    elif total:
        found.append((NOTE, "Every candidate has a reward."))
    if cut:
        found.append((WARNING, f"{count(cut)} candidates ({percent(cut / total)}) were cut to fit the model."))
    return found


def _curve(scorer: dict[str, Any]) -> list[tuple[str, str]]:
    # Only points over all of the prompts can be compared.
    points = [point for point in scorer["curve"] if point["prompts"] == scorer["curve"][0]["prompts"]]
    if len(points) < 2:
        return []
    first, last = points[0], points[-1]
    gain = last["expected_best"] - first["expected_best"]
    if gain <= 0:
        return []
    half = next(point["n"] for point in points if point["expected_best"] >= first["expected_best"] + gain / 2)
    text = (
        f"The best of {count(last['n'])} candidates is expected to reach {compact(last['expected_best'])}, a single "
        f"one {compact(first['expected_best'])}."
    )
    if last["n"] > 2:
        text = f"{text[:-1]}; n = {count(half)} reaches half of that gain."
    return [(NOTE, text)]


def _models(scorer: dict[str, Any]) -> list[tuple[str, str]]:
    best, worst = scorer["best_model"], scorer["worst_model"]
    if best is None or worst is None:
        return []
    return [
        (
            NOTE,
            f"{best['model']} wins most often, {percent(best['win_rate'])} of {count(best['comparisons'])} comparisons "
            f"inside prompts; {worst['model']} least, {percent(worst['win_rate'])} of {count(worst['comparisons'])}.",
        )
    ]


def _length(scorer: dict[str, Any]) -> list[tuple[str, str]]:
    if not scorer["lengths"] or scorer["kind"] == "length":
        return []
    base = scorer["lengths"][0]["baseline"]
    if not base["prompts"]:
        return []
    text = (
        f"The longest candidate is the best one in {percent(base['longest_is_best'])} of the prompts; "
        f"a random one would be in {percent(base['chance'])}."
    )
    return [(WARNING if base["longest_is_best"] > 1.5 * base["chance"] else NOTE, text)]


def _ties(scorer: dict[str, Any]) -> list[tuple[str, str]]:
    ties = scorer["ties"]
    if not ties["of"] or ties["best_shared"] / ties["of"] < TIES:
        return []
    share = percent(ties["best_shared"] / ties["of"])
    return [(WARNING, f"In {share} of the prompts several candidates share the best reward.")]


def _labels(scorer: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for label in scorer["labels"]:
        if not label["pairs"]:
            continue
        name = label["kind"] or label["field"]
        right = percent(label["accuracy"])
        text = f"By the labels “{name}” the reward puts {right} of {count(label['pairs'])} pairs right"
        beaten = False
        if label["length_accuracy"] is not None and scorer["kind"] != "length":
            beaten = label["length_accuracy"] >= label["accuracy"]
            text += f"; length alone {percent(label['length_accuracy'])}"
        found.append((WARNING if beaten else NOTE, f"{text}."))
    return found
