"""`import rlhf.ppo as ppo` gives every formula by its name."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

import rlhf.ppo as ppo

FILES = sorted(path.stem for path in Path(ppo.__path__[0]).glob("[a-z]*.py"))


def test_every_formula_is_among_the_names() -> None:
    defined = set()
    for name in FILES:
        module = import_module(f"rlhf.ppo.{name}")
        members = inspect.getmembers(module, lambda member: hasattr(member, "__module__"))
        for member_name, member in members:
            is_ours = member.__module__ == module.__name__
            is_code = inspect.isfunction(member) or inspect.isclass(member)
            if is_ours and is_code and not member_name.startswith("_"):
                defined.add(member_name)
                assert getattr(ppo, member_name) is member
    assert defined == set(ppo.__all__) == set(dir(ppo))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"rlhf\.ppo.*no attribute 'reinforce'"):
        ppo.reinforce  # noqa: B018
