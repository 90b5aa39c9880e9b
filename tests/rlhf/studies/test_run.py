import json
import shutil
from collections.abc import Mapping

import pytest
from tiny import tiny_settings, write_settings

from rlhf.common.errors import DataError
from rlhf.common.files import read_json, weights_sha256
from rlhf.common.metrics import Value
from rlhf.common.yaml import write_yaml
from rlhf.core.steps import StepLog
from rlhf.settings.edit import edited
from rlhf.settings.read import settings_text
from rlhf.settings.variants import VARIANTS
from rlhf.studies.arms import ARMS
from rlhf.studies.run import run_arm, run_seed
from rlhf.training import reward
from rlhf.workspace import Workspace


@pytest.fixture
def base(workspace: Workspace) -> Workspace:
    """A workspace with a gold judge, and settings of two iterations."""
    reward.train(tiny_settings({"gold.max_steps": 2}), workspace, "gold")
    write_settings(workspace, tiny_settings({"ppo.iterations": 2}))
    return workspace


def test_arms_share_their_models_and_differ_by_their_changes(base: Workspace) -> None:
    folder = base.root / "arms"
    one = run_seed(base, folder, "vanilla", ARMS["vanilla"], 1)
    again = run_seed(base, folder / "again", "vanilla", ARMS["vanilla"], 1)
    two = run_seed(base, folder, "vanilla", ARMS["vanilla"], 2)
    kl = run_seed(base, folder, "kl", ARMS["kl"], 1)
    assert (one["seed"], one["settings"]["kl"]) == (1, None)
    assert kl["settings"]["kl"]["coefficient"] == 0.05
    assert one["curves"] == again["curves"] and one["looks"] == again["looks"]
    assert one["curves"] != two["curves"]
    # the same policy, prompts and random numbers at first
    assert one["looks"][0] == kl["looks"][0]
    assert kl["looks"][0] != kl["looks"][-1]
    assert (folder / "vanilla-1" / "models" / "sft").resolve() == base.model("sft").resolve()
    assert json.loads(json.dumps(one)) == one


@pytest.mark.long
def test_an_arm_is_all_its_seeds_side_by_side_and_gives_what_each_gives_alone(
    base: Workspace,
) -> None:
    plan = base.root / "arms" / "kl.yaml"
    plan.parent.mkdir()
    plan.write_text(write_yaml({"seeds": [3, 4], "changes": ARMS["kl"]}))
    run_arm(base, "kl")
    arm = read_json(base.root / "runs" / "kl.json")
    assert arm["changes"] == ARMS["kl"]
    assert [run["seed"] for run in arm["runs"]] == [3, 4]
    # nothing is left of the seeds' workspaces
    assert not list((base.root / ".arms").iterdir())

    alone = run_seed(base, base.root / "alone", "kl", ARMS["kl"], 4)
    _, of_seed_4 = arm["runs"]
    assert of_seed_4["curves"] == alone["curves"] and of_seed_4["looks"] == alone["looks"]


def test_a_seed_that_was_interrupted_goes_on_from_its_checkpoint(
    base: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_settings(base, tiny_settings({"ppo.iterations": 3, "ppo.checkpoint_every": 1}))
    changes = ARMS["vanilla"]
    undisturbed = run_seed(base, base.root / "undisturbed", "vanilla", changes, 1)
    assert "resuming from" not in capfd.readouterr().err

    write = StepLog.write

    def write_and_stop(log: StepLog, step: int, values: Mapping[str, Value]) -> None:
        write(log, step, values)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "write", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_seed(base, base.root / "arms", "vanilla", changes, 1)
    resumed = run_seed(base, base.root / "arms", "vanilla", changes, 1)
    assert "vanilla, seed 1: resuming from" in capfd.readouterr().err
    assert resumed["looks"] == undisturbed["looks"]
    assert resumed["curves"] == undisturbed["curves"]


def test_an_arm_that_changes_the_section_of_a_stage_trains_its_model_itself(
    base: Workspace,
) -> None:
    text = edited(settings_text(base.params), {"dpo": VARIANTS["dpo"]["dpo"]}, "params.yaml")
    base.params.write_text(text)
    # no stage of the study makes one
    shutil.rmtree(base.model("dpo"), ignore_errors=True)
    changes = ARMS["dpo"] | {"dpo.max_steps": 2}
    folder = base.root / "arms"
    runs = [run_seed(base, folder, "dpo", changes, seed) for seed in (1, 2)]
    weights = [weights_sha256(folder / f"dpo-{seed}" / "models" / "dpo") for seed in (1, 2)]
    assert weights[0] != weights[1]
    assert runs[0]["looks"] != runs[1]["looks"]


def test_a_plan_that_is_missing_or_no_plan_is_named(base: Workspace) -> None:
    with pytest.raises(DataError, match=r"none\.yaml: no such file"):
        run_arm(base, "none")
    (base.root / "arms").mkdir()
    (base.root / "arms" / "odd.yaml").write_text("seeds: 3\n")
    with pytest.raises(DataError, match=r"odd\.yaml: expected seeds and changes"):
        run_arm(base, "odd")
