import pytest
from tiny import tiny_tokenizer

from rlhf.core.tokenizers import rendered_prompt

REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
LEAVES_OUT = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
TURNS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' / ' }}{% endfor %}"


@pytest.mark.parametrize("template", [REFUSES, LEAVES_OUT])
def test_an_opponent_is_told_what_its_template_has_no_place_for(template: str) -> None:
    """Else one side of a comparison would not know what it was asked to be."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template + TURNS
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    assert rendered_prompt(tokenizer, asked) == "user: Be kind.\n\nWhy? / "
    assert rendered_prompt(tokenizer, asked[1:]) == "user: Why? / "
