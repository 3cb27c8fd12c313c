"""Sentences about rows that became dead letters: why, with an example of each reason, and what to do about them."""

from collections import Counter
from collections.abc import Mapping

from polar_ray.data.dead_letters import Example
from polar_ray.recipe.input import Layout
from polar_ray.recipe.run import Limits

SHOWN = 3
"""Reasons that a sentence names; the rest is counted in it."""
REMEDY = "correct the input or the recipe's columns"


def are_too_many(dead_letters: int, rows: int, limits: Limits) -> bool:
    """Whether these are more dead letters than ``limits.max_dead_letters`` allows among so many rows."""
    return dead_letters > (limits.max_dead_letters * rows if limits.max_dead_letters < 1 else limits.max_dead_letters)


def reasons(dead_letters: Mapping[str, int], examples: Mapping[str, Example]) -> str:
    """Returns the most frequent reasons with their counts, an example of each, and how many rows have another."""
    common = Counter(dead_letters).most_common()
    said = [
        f"{reason} {count}" + (f" [{examples[reason]}]" if reason in examples else "")
        for reason, count in common[:SHOWN]
    ]
    if rest := common[SHOWN:]:
        said.append(f"and {sum(count for _, count in rest)} for {len(rest)} other reason{'s'[: len(rest) > 1]}")
    return ", ".join(said)


def layout_hint(dead_letters: Mapping[str, int], layout: Layout) -> str | None:
    """Returns what to do where candidates were lost for standing apart from the others of their prompt, if any were."""
    if layout != "candidates" or not dead_letters.get("duplicate_prompt_id"):
        return None
    return "set input.layout=scattered, as the rows of a prompt are not all next to each other"
