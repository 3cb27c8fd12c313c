from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from polar_ray.data.group import Message
from polar_ray.errors import TokenizerError
from polar_ray.models.chat_template import ChatTemplate, read_chat_template

GOLDEN = Path(__file__).parents[1] / "golden" / "heads"

CHATML = "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{%- endfor %}"
DATED = (
    "{%- if date_string is not defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "Today Date: {{ date_string }}"
) + CHATML
DATED_WITHOUT_SYSTEM = (
    "{%- if messages[0].role == 'system' %}{%- set date = strftime_now('%Y') %}{{ date }}{%- endif %}" + CHATML
)
NO_SYSTEM = (
    "{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}" + CHATML
)
# The features that published templates use: loop controls, namespaces, macros, JSON, generation blocks.
RICH = """{%- set state = namespace(first=true) %}
{%- macro show(text) %}[{{ text | tojson }}]{% endmacro %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {%- if state.first %}{{ bos_token }}{% set state.first = false %}{% endif %}
    {{- '<' + message['role'] + '>' }}
    {% generation %}{{ show(message['content'] | trim) }}{% endgeneration %}
{%- endfor %}
{%- if tools is not none %}TOOLS{% endif %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""

TURNS = (Message("user", "a < b & é"), Message("tool", "7"), Message("assistant", "  yes\n"))


def as_dicts(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.parametrize("template", [CHATML, RICH], ids=["chatml", "rich"])
def test_a_template_renders_as_transformers_renders_it(template):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(GOLDEN / "tok_llama3_bos_in_template")
    expected = tokenizer.apply_chat_template(as_dicts(TURNS), chat_template=template, tokenize=False)
    assert ChatTemplate(template, {"bos_token": "<|begin_of_text|>"}).render(TURNS) == expected


def test_a_template_that_is_not_jinja_is_refused():
    with pytest.raises(TokenizerError, match="not valid Jinja"):
        ChatTemplate("{% for message in messages %}{{ message.content }}")


def test_a_template_that_asks_for_todays_date_is_refused():
    with pytest.raises(TokenizerError, match=r"today's date.*date_string"):
        ChatTemplate(DATED)


def test_a_template_that_asks_for_the_date_only_beside_a_system_message_is_refused_too():
    with pytest.raises(TokenizerError, match="today's date"):
        ChatTemplate(DATED_WITHOUT_SYSTEM)


def test_a_date_in_the_templates_variables_makes_it_usable():
    rendered = ChatTemplate(DATED, kwargs={"date_string": "26 Jul 2024"}).render(TURNS)
    assert rendered.startswith("Today Date: 26 Jul 2024<|im_start|>user")


def test_a_fixed_clock_makes_any_template_usable():
    rendered = ChatTemplate(DATED, kwargs={"strftime_now": "2024-07-26"}).render(TURNS)
    assert rendered.startswith("Today Date: 26 Jul 2024<|im_start|>user")


def test_a_fixed_clock_that_is_no_date_is_refused():
    with pytest.raises(TokenizerError, match="strftime_now"):
        ChatTemplate(DATED, kwargs={"strftime_now": "yesterday"})


def test_a_template_that_prints_something_random_is_refused():
    with pytest.raises(TokenizerError, match="random"):
        ChatTemplate("{{ ['a', 'b'] | random }}" + CHATML)


def test_a_template_that_leaves_the_answer_out_is_refused():
    with pytest.raises(TokenizerError, match="leaves the assistant's answer out"):
        ChatTemplate("{{ messages[0].content }}")


def test_a_template_may_refuse_a_system_message_and_says_so_in_its_own_words():
    template = ChatTemplate(NO_SYSTEM)
    assert "<|im_start|>user" in template.render(TURNS)
    with pytest.raises(TokenizerError, match="System role not supported"):
        template.render((Message("system", "Be brief."), *TURNS))


def test_a_template_that_fails_on_a_conversation_is_an_error_of_that_conversation():
    template = ChatTemplate("{{ 1 // messages[0].content | length }}" + CHATML)
    with pytest.raises(TokenizerError, match="ZeroDivisionError"):
        template.render((Message("user", ""), Message("assistant", "x")))


def test_a_template_cannot_leave_its_sandbox():
    with pytest.raises(TokenizerError, match="refuses"):
        ChatTemplate("{{ messages.__class__.__mro__ }}" + CHATML)


def test_the_users_variables_win_and_cannot_replace_the_messages():
    template = ChatTemplate("{{ bos_token }}" + CHATML, {"bos_token": "<s>"}, {"bos_token": "<b>"})
    assert template.render(TURNS).startswith("<b><|im_start|>user")
    with pytest.raises(TokenizerError, match="add_generation_prompt"):
        ChatTemplate(CHATML, kwargs={"add_generation_prompt": True})


def test_the_recipes_template_wins_over_the_file_and_the_file_over_the_config(tmp_path):
    config = {"chat_template": "from the config"}
    assert read_chat_template(tmp_path, config, None) == "from the config"
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert read_chat_template(tmp_path, config, None) == "from the file"
    assert read_chat_template(tmp_path, config, "from the recipe") == "from the recipe"
    (tmp_path / "mine.jinja").write_text("from my file")
    assert read_chat_template(tmp_path, config, str(tmp_path / "mine.jinja")) == "from my file"


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert read_chat_template(tmp_path, {"chat_template": named}, None) == "plain"
    with pytest.raises(TokenizerError, match="tool_use"):
        read_chat_template(tmp_path, {"chat_template": named[:1]}, None)


def test_a_model_without_a_template_and_a_missing_file_are_errors(tmp_path):
    with pytest.raises(TokenizerError, match="no chat template"):
        read_chat_template(tmp_path, {}, None)
    with pytest.raises(TokenizerError, match=r"there is no file .*gone\.jinja"):
        read_chat_template(tmp_path, {}, str(tmp_path / "gone.jinja"))
