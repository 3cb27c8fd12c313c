"""The final mathematical answer of a text, as a string that math-verify can read.

Where an answer is looked for, first match first; the last one in the text counts:

| form | example | answer |
| --- | --- | --- |
| boxed | `so $\\boxed{\\frac{1}{3}}$.` | `\\boxed{\\frac{1}{3}}` |
| marker | `A: 18`, `#### 18`, `The answer is $18.`, `答案是 18 个。` | `18` |
| equality in the last line | `In total 12 × 7 = 84.` | `84` |
| the whole text | `42`, `$x=5$`, `3/4` | the text |
| the last number near the end (candidates only) | `She has 18 left.` | `18` |
| the last formula near the end (candidates only) | `That leaves $x = 5$ then.` | what math-verify finds there |

In a reference the answer must be a number (with a unit or currency, which are dropped, or a percent sign), a fraction
or power of numbers, or one formula, and stand at the end: only then is the reference taken for a mathematical one.
"""

import re

TAIL = 4096
"""Characters at the end of a text in which an answer is looked for (a boxed one is found anywhere)."""
END = 200
"""Most characters that may follow the answer of a reference."""
LOOSE = 300
"""Characters at the end that are searched when a candidate states no answer in a form known here."""
LONGEST_BOX = 1000
"""Characters after which an unclosed ``\\boxed{`` is given up."""
MOST_BOXES = 32
"""Boxes, counted from the end, that are looked at."""

_FULL_WIDTH = str.maketrans("０１２３４５６７８９．＋－−＝％＄￥／：", "0123456789.+--=%$¥/:")

_NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_SIGNED = rf"[-+]?\s?{_NUMBER}"
_CURRENCY = r"(?:US|HK|NT|R)?[$€£¥₹₽₩₫฿]"
# A unit is a few words: set apart by a space, or not Latin ("5个", "90°"), or of two letters and more ("5km").
_UNIT = r"(?:(?:\s|(?![A-Za-z]))[^\d\n=+*/^\\${}()<>|%]{0,24}|[A-Za-z]{2,12})"
_QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)\s?(?:{_CURRENCY})?\s?(?P<sign2>-?)(?P<number>{_NUMBER})\s?(?P<percent>%|percent\b)?{_UNIT}?"
)
_POWER_OR_RATIO = re.compile(rf"{_SIGNED}\s?[/^]\s?{_SIGNED}")
# A dollar sign before a digit opens a formula but never closes one: "$5 and $6" is money.
_FORMULA = re.compile(r"\$\$.+?\$\$|\$(?!\s)[^$\n]+(?<!\s)\$(?!\d)|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
# A command, then commands, single letters and whatever else is no letter. Each place has one way to go on: where a name
# could also end sooner, an engine that backtracks would try all the ways to cut all the names.
_BARE_COMMAND = re.compile(
    r"-?\\(?:[dt]?frac|sqrt|pi|infty)\b"
    r"(?:\\[A-Za-z]+(?![A-Za-z])|\\(?![A-Za-z])|[^A-Za-z\n\\]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])){0,80}"
)
# The last number, fraction or percentage of a text: not the 2 of "x2", nor a minus that stands between two numbers.
_LOOSE_NUMBER = re.compile(rf"(?<![A-Za-z0-9_.])(?:(?<!\))-[$€£¥]?)?{_NUMBER}(?:\s?/\s?{_NUMBER})?\s?%?")
_ASSIGNMENT = re.compile(rf"[A-Za-z]\s?=\s?(?P<value>{_SIGNED})")

_MARKER = re.compile(
    r"""
      (?:^|\n)[ \t*_\#>]*(?:(?i:final\s+)?(?i:answer|ans)|A)[ \t*_]*:    # "A: 18" opens a line
    | \#{4}(?!\#)                                                        # "#### 18", the mark of GSM8K
    | (?i:\banswer\b[^\n.:=]{0,40}?(?:\s(?:is|equals)\b|[=:]))\s*:?      # "the answer to this is 18"
    | (?i:\b(?:respuesta(?:\s+final)?|resposta|risposta|réponse|antwort)
          (?:\s+(?:es|est|é|è|ist|lautet)\b|\s*:))\s*:?
    | (?i:\bответ)\s*(?:[:—-]|\bравен\b)
    | 答案\s*(?:就|应该|應該)?\s*(?:等于|等於|是|为|為)?\s*:?
    | (?:^|\n)[ \t*_]*答\s*:[^\d\n.$\\¥-]{0,16}                           # "答：一共需要 18 元"
    | 答え\s*(?:は|:)
    | 정답\s*(?:은|:)
    """,
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"[.!;](?=\s|$)|[。！；]")
_BETWEEN_BOXES = re.compile(r"[\s$.]*(?:,|and|or|,\s*and|和|或|、|，)[\s$]*")


def reference_answer(text: str) -> str | None:
    """Returns the mathematical answer that a reference ends in, or None where it does not end in one."""
    text = text.translate(_FULL_WIDTH).rstrip()
    box = _last_boxes(text)
    if box is not None:
        return box[0] if len(text) - box[1] <= END else None
    tail = text[-TAIL:]
    marker = _last_marker(tail)
    if marker is not None:
        stated, end = _stated_after(tail, marker)
        answer = _strict(stated)
        if answer is not None and len(tail) - end <= END:
            return answer
    return _at_the_end(text)


def candidate_answer(text: str) -> str | None:
    """Returns what a candidate gives as its final answer, or None where it gives nothing like a number or formula.

    What precedes the last ``</think>`` is not part of the answer.
    """
    text = text.rpartition("</think>")[2].translate(_FULL_WIDTH).rstrip()
    box = _last_boxes(text)
    if box is not None:
        return box[0]
    tail = text[-TAIL:]
    marker = _last_marker(tail)
    if marker is not None:
        stated, _ = _stated_after(tail, marker)
        return _strict(stated) or _loose(stated) or _loose(tail[marker:])
    return _at_the_end(text) or _loose(tail)


def _at_the_end(text: str) -> str | None:
    """Returns the answer of a text that is nothing else, or whose last line ends in ``= answer``."""
    whole = _cleaned(text)
    if len(whole) <= END:
        assignment = _ASSIGNMENT.fullmatch(whole)
        answer = _strict(whole) if assignment is None else _strict(assignment["value"])
        if answer is not None:
            return answer
    before, equals, value = text[-TAIL:].rpartition("\n")[2].replace("≈", "=").rpartition("=")
    # The left side must be a computation: a lone "n = 0" in the last line is more likely code, like "x == 0".
    computed = any(character.isdigit() for character in re.split("[,;，；]", before)[-1])
    return _strict(value) if equals and computed and before[-1] not in "=!<>:" else None


def _strict(stated: str) -> str | None:
    """Returns the answer where the text is one number, quantity, ratio, power or formula and nothing more."""
    stated = _cleaned(stated)
    quantity = _QUANTITY.fullmatch(stated)
    if quantity is not None:
        negative = "-" in (quantity["sign"], quantity["sign2"])
        number = ("-" if negative else "") + quantity["number"].replace(",", "")
        return f"{number}%" if quantity["percent"] else number
    if _POWER_OR_RATIO.fullmatch(stated) or _BARE_COMMAND.fullmatch(stated):
        return f"${stated}$"
    formula = _FORMULA.match(stated)
    if formula is not None and re.fullmatch(_UNIT + "?", stated[formula.end() :]):
        return formula[0]
    return None


def _loose(text: str) -> str | None:
    """Returns the last number near the end of a text; where there is a formula, that end for math-verify to search."""
    end = text[-LOOSE:]
    if _FORMULA.search(end) or "\\" in end:
        return end
    numbers = [match[0] for match in _LOOSE_NUMBER.finditer(end)]
    return _strict(numbers[-1]) if numbers else None


def _cleaned(text: str) -> str:
    """Takes off white space, markdown and closing punctuation."""
    return text.strip(" \t\n\r*_`\"'“”").rstrip(" \t.。!！;；,，*_`").strip()


def _last_marker(text: str) -> int | None:
    """Returns where the last answer marker ends."""
    return max((match.end() for match in _MARKER.finditer(text)), default=None)


def _stated_after(text: str, start: int) -> tuple[str, int]:
    """Returns what is stated after a marker (a formula, or the rest of its sentence or line) and where that ends."""
    rest = text[start:]
    skipped = len(rest) - len(rest.lstrip(" \t\n\r*_:"))
    start, rest = start + skipped, rest[skipped:]
    formula = _FORMULA.match(rest)
    from_here = formula.end() if formula is not None else 0
    line = rest[from_here:].partition("\n")[0]
    end = _SENTENCE_END.search(line)
    length = from_here + (end.start() if end is not None else len(line))
    return rest[:length], start + length


def _last_boxes(text: str) -> tuple[str, int] | None:
    """Returns the last ``\\boxed{...}`` and where it ends.

    Boxes joined by nothing but "and", "or" or a comma are one answer of several values.
    """
    boxes: list[tuple[int, int]] = []
    at = text.rfind("\\boxed{")
    for _ in range(MOST_BOXES):
        if at < 0:
            break
        end = _closing_brace(text, at + len("\\boxed"))
        if end is not None:
            if boxes and not _BETWEEN_BOXES.fullmatch(text, end, boxes[-1][0]):
                break
            boxes.append((at, end))
        at = text.rfind("\\boxed{", 0, at)
    if not boxes:
        return None
    return " and ".join(text[start:end] for start, end in reversed(boxes)), boxes[0][1]


def _closing_brace(text: str, opening: int) -> int | None:
    """Returns the position after the brace that closes the one at ``opening``, or None where there is none."""
    depth = 0
    for at in range(opening, min(len(text), opening + LONGEST_BOX)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at + 1
    return None
