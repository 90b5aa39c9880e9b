import json

from tiny import tiny_settings, write_settings

from rlhf import reward
from rlhf.studies.run import run_arm
from rlhf.workspace import Workspace


def test_arms_share_their_models_and_differ_by_their_changes(workspace: Workspace) -> None:
    reward.train(tiny_settings({"gold.max_steps": 2}), workspace, "gold")
    write_settings(workspace, tiny_settings({"ppo.iterations": 2}))
    roots = [workspace.root / "arms" / name for name in ("vanilla-1", "vanilla-2", "kl-1", "again")]
    arms = [("vanilla", 1), ("vanilla", 2), ("kl", 1), ("vanilla", 1)]
    one, two, kl, again = (run_arm(workspace, root, *arm) for root, arm in zip(roots, arms, strict=True))
    assert (one["arm"], one["seed"], one["settings"]["kl"]) == ("vanilla", 1, None)
    assert kl["settings"]["kl"]["coefficient"] == 0.05
    assert one["curves"] == again["curves"] and one["looks"] == again["looks"]
    assert one["curves"] != two["curves"]
    assert one["looks"][0] == kl["looks"][0] != kl["looks"][-1]  # the same policy, prompts and random numbers at first
    assert (roots[0] / "models" / "sft").resolve() == workspace.model("sft").resolve()
    assert json.loads(json.dumps(one)) == one
