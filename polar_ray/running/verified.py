"""What a manifest says of verification, and what a person is told of it."""

from collections.abc import Mapping
from typing import Any

from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.scorers import RewardModel
from polar_ray.scorers.verification import Verification


def verification_of(recipe: Recipe, verified: Mapping[str, Verification]) -> dict[str, dict[str, Any]]:
    """Returns the manifest's entry: by scorer, what came of scoring a sample again; empty where it was never asked for.

    Args:
        recipe: Of the attempt that finished the run.
        verified: Sums over the commit records of all attempts, some of which may have verified and others not.
    """
    entries: dict[str, dict[str, Any]] = {}
    for name, scorer in recipe.named_scorers.items():
        if name in verified and not verified[name].groups:
            entries[name] = {
                "nothing_to_verify": (
                    f"no group is in the sample: a share of {recipe.verify:g} chosen by the hash of prompt_id met none"
                    "; raise verify"
                )
            }
        elif name in verified:
            entries[name] = {"share": recipe.verify, **_figures(verified[name])}
        elif recipe.verify and not isinstance(scorer, RewardModel):
            entries[name] = {"nothing_to_verify": f"{scorer.kind} has no model"}
        elif recipe.verify:
            entries[name] = {"nothing_to_verify": "no split was scored since verification was asked for"}
    return entries


def verification_line(name: str, entry: Mapping[str, Any]) -> str:
    """Returns what a person is told of one scorer's entry."""
    who = f"verification{f' of {name}' if name else ''}"
    if "nothing_to_verify" in entry:
        return f"{who}: nothing to verify, {entry['nothing_to_verify']}"
    line = (
        f"{who}: {entry['candidates']:,} candidates of {entry['groups']:,} groups scored again plainly, "
        f"max |Δ| {entry['max_delta']:.2g}, mean |Δ| {entry['mean_delta']:.2g}, tolerance {entry['tolerance']:g}"
    )
    if entry["not_rescored"]:
        line += f"; {entry['not_rescored']:,} candidates could not be scored again ({entry['error']})"
    if entry["beyond_tolerance"]:
        line = (
            f"VERIFICATION FAILED. {line}. {entry['beyond_tolerance']:,} candidates are beyond the tolerance, worst "
            f"in the group with prompt_id {entry['worst_prompt_id']!r}. These rewards depend on how they were "
            "computed: do not use them before it is known why, and report it with the output of 'polar-ray env'"
        )
    return line


def failed(entry: Mapping[str, Any]) -> bool:
    """Whether a scorer's entry tells of rewards beyond the tolerance."""
    return bool(entry.get("beyond_tolerance"))


def _figures(verified: Verification) -> dict[str, Any]:
    mean = verified.sum_delta / max(1, verified.candidates)
    return {
        "tolerance": verified.tolerance,
        "groups": verified.groups,
        "candidates": verified.candidates,
        "max_delta": _rounded(verified.max_delta),
        "mean_delta": _rounded(mean),
        "beyond_tolerance": verified.beyond,
        "not_rescored": verified.failed,
        "worst_prompt_id": verified.worst,
        "error": verified.error,
    }


def _rounded(value: float) -> float:
    # Sums of floating-point numbers depend on the order of commits, in digits that say nothing.
    return float(f"{value:.4g}")
