"""Judges: whoever compares two responses to one prompt. `make_judge` gets one ready by its address.

A judge is a class with `load(settings, workspace, detail)` in a file of its own, and a line in
`rlhf.registry.JUDGES`. It is imported only where the settings name it. README.md of
`rlhf/evaluation` shows a whole one.
"""

from rlhf.common.address import Address
from rlhf.common.errors import RlhfError, SettingsError
from rlhf.evaluation.types import Judge, JudgeClass
from rlhf.registry import JUDGES, find
from rlhf.settings.evaluation import judge_name
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def make_judge(address: str, settings: Settings, workspace: Workspace) -> Judge:
    """Get a judge ready by its address in `evaluate.judges`.

    Raises SettingsError, with the names there are, for a kind that the registry does not have.
    """
    parsed = Address.parse(address)
    if parsed.kind not in JUDGES:
        known = ", ".join(sorted(JUDGES))
        raise SettingsError(f"no judge {parsed.kind!r}; there are: {known}")
    judge_class: JudgeClass = find(JUDGES, parsed.kind)
    judge = judge_class.load(settings, workspace, parsed.detail)

    # metrics, tables and the report find a judge by the name that the settings give it
    expected = judge_name(address)
    if judge.name != expected:
        raise RlhfError(f"judge {address}: its name is {judge.name!r}; it must be {expected!r}")
    return judge
