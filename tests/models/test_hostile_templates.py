"""Templates from a stranger's checkpoint that go on for ever, or want all memory."""

import json
import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.errors import TokenizerError
from polar_ray.models import chat_template
from polar_ray.models.chat_template import ChatTemplate
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.plan import plan
from polar_ray.scorers.sequence_classifier_encoder import SequenceClassifierEncoder
from tests.fuzzing import fuzz

HEADS = Path(__file__).parents[1] / "golden" / "heads"
CHATML = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
ON_BOOM = "{% for message in messages %}{% if 'boom' in message.content %}" + LOOP + "{% endif %}{% endfor %}" + CHATML
TURNS = (Message("user", "a"), Message("assistant", "b"))
BOOM = (Message("user", "boom"), Message("assistant", "b"))

# What is too much is found as the template is compiled, where all is constant, or as it is run. Time or memory may be
# first, and the interpreter may refuse by itself.
BOUNDED = r"of processor time|GiB of memory|too long a text|RecursionError|OverflowError|ValueError|not valid Jinja"
HOSTILE = {
    "nested loops": LOOP,
    "a power of constants": "{{ 9 ** (9 ** 9) }}",
    "a power": "{{ 9 ** (9 ** (7 + messages | length)) }}",
    "a product": "{{ 'a' * 10 ** 12 }}",
    "a product of a message": "{{ messages[0].content * 10 ** 9 }}",
    "a list": "{% set x = [messages] * 10 ** 9 %}{{ x | length }}",
    "a format": "{{ '%1000000000d' % 1 }}",
    "a format method": "{{ '{:>1000000000}'.format(1) }}",
    "center": "{{ messages[0].content | center(10 ** 9) }}",
    "indent": "{{ ('\n' * 10 ** 6) | indent(10 ** 6) }}",
    "join": "{{ range(99999) | join('a' * 10 ** 6) }}",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "a macro that calls itself": "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
    "macros that fork": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "loops that call themselves": "{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}",
    "loops in loops": "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a text that is too long": "{{ 'a' * 2000000 }}",
    "batches": "{{ range(99999) | batch(1, 'x') | map('string') | list | length * 0 }}{{ 'x' | wordwrap(1) }}" * 30
    + LOOP,
}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 0.4)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_without_end_is_refused_within_its_limits(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TokenizerError, match=BOUNDED):
        ChatTemplate(HOSTILE[name] + CHATML)
    # In KiB: this process holds nothing of it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**18


def test_a_conversation_that_takes_too_long_costs_the_others_nothing() -> None:
    template = ChatTemplate(ON_BOOM)
    first, second, third = template.render_all([TURNS, BOOM, TURNS])
    assert first == third == "<|user|>a<|assistant|>b"
    assert str(second) == "The chat template took more than 0.4 s of processor time on this conversation."
    assert template.render(TURNS) == first


def test_a_conversation_that_wants_too_much_memory_costs_the_others_nothing() -> None:
    template = ChatTemplate("{% if messages[0].content == 'boom' %}{{ 'a' * 10 ** 10 }}{% endif %}" + CHATML)
    first, second, third = template.render_all([TURNS, BOOM, TURNS])
    assert first == third == "<|user|>a<|assistant|>b"
    assert str(second) == "The chat template wants more than 2 GiB of memory for this conversation."


def test_many_conversations_that_take_too_long_are_given_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "OVERRUN_S", 1.2)
    template = ChatTemplate(ON_BOOM)
    started = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    *failed, last = template.render_all([BOOM] * 400 + [TURNS])
    template.close()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started[1] + time.process_time() - started[0]
    # Three that were ended, and the start of the process that goes with each.
    assert spent < 10
    assert "on this conversation" in str(failed[0])
    assert "come to an end with, so this one was not rendered" in str(failed[-1])
    assert str(last) == str(failed[-1])


def test_what_a_template_may_make_of_a_conversation_grows_with_it() -> None:
    template = ChatTemplate("{% for message in messages %}{{ message.content * 7 }}{% endfor %}")
    long = (Message("user", "a" * 300_000), Message("assistant", "b"))
    assert len(template.render(long)) == 7 * 300_001


def test_a_long_word_of_a_template_is_cut() -> None:
    template = ChatTemplate(
        "{% if messages[0].content == 'boom' %}{{ raise_exception('no ' * 10**7) }}{% endif %}" + CHATML
    )
    with pytest.raises(TokenizerError) as error:
        template.render(BOOM)
    assert len(str(error.value)) < 40_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier whose template goes on for ever where it sees a word."""
    model = tmp_path / "model"
    shutil.copytree(HEADS / "ckpt_llama_seqcls", model)
    shutil.copytree(HEADS / "tok_llama3_bos_in_template", model, dirs_exist_ok=True)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = settings["chat_template"] + ON_BOOM.removesuffix(CHATML)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def test_a_candidate_with_which_the_template_comes_to_no_end_is_an_error(folder: Path) -> None:
    encoder = SequenceClassifierEncoder.from_pretrained(folder)
    group = Group(
        "p",
        (Message("user", "q"),),
        (),
        tuple(Candidate(text, (Message("assistant", text),)) for text in ("a", "boom", "c")),
    )
    encoded = encoder.encode(groups_to_table([group]))
    assert encoded["status"].to_pylist() == ["ok", "error", "ok"]
    assert (
        encoded["error"][1].as_py() == "The chat template took more than 0.4 s of processor time on this conversation."
    )
    assert encoded["ids"].is_valid().to_pylist() == [True, False, True]


def test_candidates_whose_cut_conversation_comes_to_no_end_are_given_up_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "OVERRUN_S", 0.8)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # Only what was shortened, and begins with another turn, has no end.
    shortened = "{% if messages[0].content == 'second' %}" + LOOP + "{% endif %}" + CHATML
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": shortened}))
    encoder = SequenceClassifierEncoder.from_pretrained(folder, max_length=20, on_too_long="cut_prompt")
    prompt = (Message("user", "first " * 30), Message("assistant", "a"), Message("user", "second"))
    candidates = tuple(Candidate(str(number), (Message("assistant", "b"),)) for number in range(6))
    errors = encoder.encode(groups_to_table([Group("p", prompt, (), candidates)]))["error"].to_pylist()
    assert ["on this conversation" in error for error in errors] == [True, True, False, False, False, False]
    assert all("so this one was not rendered" in error for error in errors[2:])


def test_a_plan_with_a_template_that_comes_to_no_end_is_an_error(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": LOOP + CHATML}))
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "q", "candidates": ["a"]}) + "\n")
    recipe = Recipe.model_validate(
        {
            "input": {"path": str(tmp_path / "in.jsonl")},
            "scorer": {"kind": "sequence_classifier", "model": str(folder)},
            "output": {"path": str(tmp_path / "out")},
        }
    )
    with pytest.raises(TokenizerError, match=r"The chat template took more than 0\.4 s"):
        plan(recipe)


PIECES = [
    *(
        "9 ** (9 ** 9)",
        "'a' * 10 ** 8",
        "range(99999)",
        "messages",
        "messages[0].content",
        "'%99999999d'",
        "[[]] * 10 ** 7",
        "1",
    ),
    *(
        "namespace(x=1)",
        "cycler('a', 'b')",
        "joiner(',')",
        "dict(a=1)",
        "{'a': [1]}",
        "strftime_now",
        "raise_exception",
    ),
]
FILTERS = [
    *(
        "join",
        "list",
        "length",
        "center(10 ** 7)",
        "indent(10 ** 6)",
        "tojson",
        "string",
        "upper",
        "sort",
        "unique | list",
    ),
    *("pprint", "wordwrap(1)", "batch(3) | list", "slice(10 ** 7) | list", "reverse", "urlize", "map('string') | join"),
    *(
        "title",
        "truncate(3)",
        "replace('a', 'a' * 9999)",
        "float",
        "int",
        "sum",
        "groupby('x')",
        "xmlattr",
        "format(1)",
    ),
]


def test_no_template_takes_more_than_its_limits() -> None:
    def check(chance: Random) -> None:
        def value() -> str:
            made = chance.choice(PIECES)
            for _ in range(chance.randrange(4)):
                kind = chance.randrange(3)
                if kind == 0:
                    made = f"({made} {chance.choice(('*', '**', '%', '+', '~', '//'))} {chance.choice(PIECES)})"
                else:
                    made = f"({made}) | {chance.choice(FILTERS)}"
            return made

        source = "".join(
            chance.choice(
                ("{{{{ {0} }}}}", "{{% for x in {0} %}}{{% for y in {0} %}}.{{% endfor %}}{{% endfor %}}")
            ).format(value())
            for _ in range(chance.choice((1, 2, 3)))
        )
        started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        with suppress(TokenizerError):
            ChatTemplate(source + CHATML).close()
        # Two conversations of 0.4 s each, and the starts of the processes.
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started < 5, source

    fuzz("templates", 20, check)
