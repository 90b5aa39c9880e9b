"""Rewards that judge as well: such a judge tells how well the policy pleased its own teacher."""

from filecmp import cmp
from pathlib import Path

from rlhf.common.address import Address
from rlhf.common.errors import RlhfError
from rlhf.settings.schema import Settings
from rlhf.workspace import HEAD_FILE

# names of files that `rlhf export-reward` writes: the head, and what stands before the others
_EXPORTED_HEAD, _EXPORTED = "score.safetensors", "backbone-"


def judging_rewards(settings: Settings, root: Path) -> list[str]:
    """The addresses in `ppo.rewards` of the model that judges as gold: what `evaluate.gold` names, or models/gold.

    That is one directory under any name, or a copy of it, or of the reward model what `rlhf
    export-reward` wrote. Only what lies there is found: relative paths are from `root` on.
    """
    section = settings.evaluate
    if "gold" not in section.judges:
        return []
    gold = _directory(Address.parse(section.gold or "model:gold"), root)
    found = []
    for source in settings.ppo.rewards:
        place = _directory(source.address, root)
        if gold is not None and place is not None and _is_same(place, gold):
            found.append(source.reward)
    return found


def _directory(address: Address, root: Path) -> Path | None:
    if address.kind == "model":
        return root / "models" / address.detail
    if address.kind != "hf":
        return None
    try:
        return root / address.path
    # whoever loads it says that a variable is not set
    except RlhfError:
        return None


def _is_same(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    # an exported head has another file, and is the same
    is_export = (one / HEAD_FILE).is_file() != (other / HEAD_FILE).is_file()
    ours, theirs = _weights(one, heads=not is_export), _weights(other, heads=not is_export)
    # models of one family are as large: they differ in their first numbers, and are read no further
    return (
        bool(ours)
        and ours.keys() == theirs.keys()
        and all(cmp(path, theirs[name], shallow=False) for name, path in ours.items())
    )


def _weights(directory: Path, *, heads: bool) -> dict[str, Path]:
    """Files of weights by name, heads among them or not."""
    return {
        path.name.removeprefix(_EXPORTED): path
        for path in directory.glob("*.safetensors")
        if heads or path.name not in (HEAD_FILE, _EXPORTED_HEAD)
    }
