"""What the command line says of a report."""

import sys
from typing import Any

from polar_ray.deriving.report.findings import findings
from polar_ray.deriving.report.numbers import count, duration


def summary(data: dict[str, Any], output: str) -> str:
    """Returns what stands out for each scorer, and where the page is."""
    lines = [f"{count(data['candidates'])} candidates for {count(data['prompts'])} prompts in {data['run']['name']}"]
    for scorer in data["scorers"]:
        lines.append(f"{scorer['label']}:")
        lines += [f"  {finding['text']}" for finding in findings(scorer, data)]
    lines.append(f"report: {output} (made in {duration(data['made']['seconds'])})")
    return "\n".join(lines)


def progress_line(step: str, done: int, many: int) -> None:
    """Shows how far it is, on one line of a terminal."""
    print(f"\r{step}: {done:,} of {many:,}", end="\n" if done == many else "", file=sys.stderr, flush=True)
