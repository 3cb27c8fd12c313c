"""Which final answer a text has."""

import time

import pytest

from polar_ray.scorers.final_answer import candidate_answer, reference_answer

STATED = [
    ("42", "42"),
    ("  **1,234.50** ", "1234.50"),
    ("-3", "-3"),
    ("−3", "-3"),
    ("50%", "50%"),
    ("5 cm", "5"),
    ("5km", "5"),
    ("90°", "90"),
    ("3/4", "$3/4$"),
    ("$x=5$", "$x=5$"),
    ("x = 5", "5"),
    (r"\frac{1}{3}", r"$\frac{1}{3}$"),
    ("She makes 9 * 2 = $<<9*2=18>>18 a day.\nA: 18", "18"),
    ("9 + 9 = 18\n#### 18", "18"),
    ("Some work.\n\n**Final Answer:** $18", "18"),
    ("Answer: -$5", "-5"),
    ("So the answer is 18 dollars.", "18"),
    ("The answer to this question is 5 apples.", "5"),
    ("Answer:\n\n42", "42"),
    (r"Hence the answer is $\frac{1}{3}$.", r"$\frac{1}{3}$"),
    ("The answer is:\n$$\n\\frac{1}{3}\n$$", "$$\n\\frac{1}{3}\n$$"),
    (r"Thus $\boxed{\frac{1}{2}}$.", r"\boxed{\frac{1}{2}}"),
    (r"First \boxed{6}, but actually \boxed{7}", r"\boxed{7}"),
    (r"\boxed{1} and \boxed{2}", r"\boxed{1} and \boxed{2}"),
    (r"\boxed{\boxed{3}}", r"\boxed{3}"),
    ("In total, 12 × 7 = 84.", "84"),
    ("所以答案是 42", "42"),
    ("因此,答案为：４２ 个。", "42"),
    ("答：他们一共需要 18 元。", "18"),
    ("La respuesta es 4.", "4"),
    ("答えは 7 です。", "7"),
]


@pytest.mark.parametrize(("text", "answer"), STATED)
def test_a_stated_answer_is_found_in_a_reference_and_in_a_candidate(text: str, answer: str) -> None:
    assert reference_answer(text) == answer
    assert candidate_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "Answer: Paris",
        "A: Yes",
        "2024-01-05",
        "It was founded in 1850.",
        "The answer is 2-fold: first do this, then that.",
        "return [i for i in range(lower, upper + 1) if i % 2 == 0]",
        "count = 3\nn = 0",
        "a = 3, b = 4",
        "The answer is 7. " + "This is what is said about it at length. " * 10,
        "\\boxed{7}" + " and so on" * 50,
        "答案是负数",
    ],
)
def test_a_text_that_does_not_end_in_a_number_or_formula_is_no_mathematical_reference(text: str) -> None:
    assert reference_answer(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 18 left.", "18"),
        ("那么一共是42个苹果", "42"),
        ("That is 3/4 of it", "$3/4$"),
        ("from 10-4", "4"),
        ("He pays $18 and then $5 more.", "5"),
        ("so $x=5$ then", "so $x=5$ then"),
        ("The answer is about 18 or a little more than that, I think.", "18"),
        ("see Q3 and x2", None),
        ("no idea", None),
        ("", None),
        (r"<think>\boxed{6}</think> so 7", "7"),
        (r"<think>\boxed{6}</think>", None),
        ("The answer is 7. " + "This is what is said about it at length. " * 10, "7"),
    ],
)
def test_a_candidate_without_a_stated_answer_is_taken_by_its_last_number(text: str, answer: str | None) -> None:
    assert candidate_answer(text) == answer


@pytest.mark.parametrize(
    "piece",
    ["7", "1 ", "1,", "1/", "$ ", "$1 ", "\\boxed{", "\\boxed{1}", "\\boxed{1},", "{", "\n", "\\(", "answer is ", "= "],
)
def test_a_very_long_text_takes_no_noticeable_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    reference_answer(text)
    candidate_answer(text)
    assert time.process_time() - started < 1
