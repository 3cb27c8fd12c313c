"""The page: a template, style and scripts filled with the data of a report, in one file that loads nothing else."""

import base64
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from polar_ray.deriving.report.findings import findings, verification
from polar_ray.deriving.report.numbers import compact, count, duration, percent, size

FILES = Path(__file__).parent / "page_files"
SCRIPTS = ("page.js", "charts.js", "examples.js")


def page(data: dict[str, Any]) -> str:
    """Returns the HTML of a report.

    Every text in it is escaped: what stands in a candidate is shown, never run. Scripts run by their hash alone, and
    nothing can be loaded from anywhere (Content Security Policy).
    """
    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "compact": compact,
        "count": count,
        "percent": percent,
        "duration": duration,
        "size": size,
        "day": day,
        "pretty": pretty,
    }
    script = "\n".join((FILES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return environment.get_template("report.html.j2").render(
        **data,
        findings=[findings(scorer, data) for scorer in data["scorers"]],
        verified=verification(data["run"]["verification"]),
        style=Markup((FILES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        json=Markup(embedded(data)),
    )


def embedded(data: Any) -> str:
    """Returns JSON that may stand inside a script element: no text in it can end the element or open a comment."""
    # msgspec writes NaN and infinity as null, which is what JSON has for them.
    text = msgspec.json.encode(data).decode()
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def day(time: str | None) -> str:
    """Returns an ISO time as a person writes it."""
    return f"{datetime.fromisoformat(time):%-d %B %Y, %H:%M} UTC" if time else ""


def pretty(value: Any) -> str:
    """Returns a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value)).decode()
