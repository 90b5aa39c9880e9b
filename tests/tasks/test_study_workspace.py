from pathlib import Path

import pytest
from dvc.repo import Repo

from rlhf.common.errors import RlhfError, SettingsError
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.settings import load_settings, preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.studies.arms import ARMS
from tasks.environment import records_root
from tasks.lineage import stage_lineage
from tasks.study import SHARED_STAGES, arm_stage, lay_out, mean_metrics, study_stages
from tests.project_copy import forget_link, link_clone
from tests.source_tree import ROOT

CHAIN = read_yaml(ROOT / "dvc.yaml")["stages"]


def test_an_arm_depends_on_its_plan_the_shared_models_and_all_code_that_ppo_and_the_judge_depend_on() -> (
    None
):
    arms = {arm: ARMS[arm] for arm in ("kl", "reward-norm-0.3")}
    stages = study_stages(CHAIN, arms, ["fig7"])
    assert list(stages)[-3:] == ["arm-kl", "arm-reward-norm-0_3", "findings"]
    arm = stages["arm-reward-norm-0_3"]
    code = [path for path in CHAIN["ppo"]["deps"] if path.startswith("rlhf/")]
    assert set(code) <= set(arm["deps"])
    assert {"models/sft", "models/reward", "models/gold", "models/base"} <= set(arm["deps"])
    assert {"arms/reward-norm-0.3.yaml": None} in arm["params"] and "ppo" in arm["params"]
    assert arm["outs"] == ["runs/reward-norm-0.3.json"]
    assert {"runs/kl.json", "runs/reward-norm-0.3.json"} <= set(stages["findings"]["deps"])
    assert "evaluate" not in stages and "ppo" not in stages


def test_an_arm_depends_on_the_code_of_its_own_algorithm() -> None:
    links = "rlhf/.code/algorithms/${ppo.algorithm}"
    chain = CHAIN | {"ppo": CHAIN["ppo"] | {"deps": [links, "models/sft"]}}
    stages = study_stages(chain, {"kl": ARMS["kl"], "apa": ARMS["apa"]}, ["apa"])
    # DVC fills in the algorithm of params.yaml
    assert links in stages["arm-kl"]["deps"]
    assert "rlhf/.code/algorithms/apa" in stages["arm-apa"]["deps"]
    assert links not in stages["arm-apa"]["deps"]


def test_an_arm_that_reads_an_optional_model_depends_on_the_model_itself() -> None:
    """And not on the file that stands for it, which is that of the workspace around the study."""
    stages = study_stages(CHAIN, {"kl": ARMS["kl"], "rto": ARMS["rto"]}, ["rto"])
    deps = stages["arm-rto"]["deps"]
    assert "models/dpo" in deps and "rlhf/algorithms/rto.py" in deps
    assert "rlhf/algorithms/apa.py" not in deps
    assert not [path for path in deps if path.startswith("rlhf/.code/algorithms")]
    # the stage that makes it, without what it writes beside code
    assert stages["dpo"]["cmd"] == "python -m flows.dpo"
    assert not [path for path in stages["dpo"]["outs"] if path.startswith("rlhf/")]
    assert list(stages).index("dpo") < list(stages).index("arm-rto")
    # others depend on neither
    assert "models/dpo" not in stages["arm-kl"]["deps"]
    assert "dpo" not in study_stages(CHAIN, {"kl": ARMS["kl"]}, ["fig7"])


def test_an_arm_that_changes_the_section_of_a_stage_runs_it_itself() -> None:
    changes = ARMS["dpo"] | {"dpo.beta": 0.3}
    stages = study_stages(CHAIN, {"dpo": changes}, ["dpo"])
    # so the study has no such stage
    assert "dpo" not in stages
    arm = stages["arm-dpo"]
    assert "models/dpo" not in arm["deps"] and "rlhf/algorithms/dpo.py" in arm["deps"]
    assert set(CHAIN["dpo"]["deps"]) <= set(arm["deps"])
    assert {"ppo", "dpo"} <= {key for key in arm["params"] if isinstance(key, str)}


def test_the_settings_of_a_study_switch_on_what_its_arms_read(tmp_path: Path) -> None:
    root = link_clone(tmp_path / "rlhf")
    arms = {arm: ARMS[arm] for arm in ("ppo-max", "rto", "rto-shaping", "dpo")}
    study = lay_out(root, "tiny", preset_text("tiny"), arms, [1], ["rto"])
    settings = load_settings(study / "params.yaml")
    assert settings.dpo is not None and settings.dpo.beta == 0.1
    # one that is on stays as it is, and without such arms it stays off
    given = edited((study / "params.yaml").read_text(), {"dpo.beta": 0.3}, "given")
    assert load_settings(
        lay_out(root, "given", given, arms, [1], ["rto"]) / "params.yaml"
    ).dpo == settings.dpo.model_copy(update={"beta": 0.3})
    plain = lay_out(root, "plain", preset_text("tiny"), {"kl": ARMS["kl"]}, [1], ["fig7"])
    assert load_settings(plain / "params.yaml").dpo is None
    with Repo(str(study)) as repo:
        assert {"dpo", arm_stage("rto-shaping")} <= {stage.name for stage in repo.index.stages}


def test_the_stages_that_arms_share_are_all_that_they_read() -> None:
    assert SHARED_STAGES == ("fetch", "prepare", "sft", "reward", "gold")


def test_what_is_laid_out_is_a_workspace_that_dvc_reads_with_the_records_of_the_one_around_it(
    tmp_path: Path,
) -> None:
    root = link_clone(tmp_path / "rlhf")
    arms = {arm: ARMS[arm] for arm in ("kl", "reward-norm-0.3")}
    study = lay_out(root, "tiny", preset_text("tiny"), arms, [1, 2], ["fig7"])
    assert records_root(study) == root.resolve()
    with Repo(str(study)) as repo:
        assert {stage.name for stage in repo.index.stages} >= {
            "fetch",
            "gold",
            "findings",
            arm_stage("kl"),
        }
        assert Path(repo.cache.local.path).resolve().is_relative_to((root / ".dvc").resolve())
    plan = read_yaml(study / "arms" / "kl.yaml")
    assert plan == {"seeds": [1, 2], "changes": ARMS["kl"]}
    with pytest.raises(RlhfError, match=r"data/prepared/sft\.parquet: missing, and sft reads it"):
        stage_lineage(study, "sft", settings_from(parse_yaml(preset_text("tiny"), "tiny")))


def test_compiled_code_makes_nothing_stale_and_changed_code_does(tmp_path: Path) -> None:
    root = tmp_path / "rlhf"
    for name in ("rlhf/report/page.py", "rlhf/studies/run.py", "requirements.lock"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("first\n")
    for name in ("dvc.yaml", ".dvcignore"):
        (root / name).symlink_to(ROOT / name)
    study = lay_out(root, "tiny", preset_text("tiny"), {"kl": ARMS["kl"]}, [1], ["fig7"])
    (study / "runs").mkdir()
    (study / "runs" / "kl.json").write_text("{}")
    settings = settings_from(parse_yaml(preset_text("tiny"), "tiny"))
    before = stage_lineage(study, "findings", settings).dependencies
    assert before.keys() == {"rlhf/report", "rlhf/studies", "requirements.lock", "runs/kl.json"}

    (root / "rlhf" / "report" / "__pycache__").mkdir()
    (root / "rlhf" / "report" / "__pycache__" / "page.cpython-311.pyc").write_bytes(b"compiled")
    assert stage_lineage(study, "findings", settings).dependencies == before

    (root / "rlhf" / "report" / "page.py").write_text("second\n")
    after = stage_lineage(study, "findings", settings).dependencies
    assert {path for path in before if after[path] != before[path]} == {"rlhf/report"}


def test_a_copy_of_the_code_in_a_study_is_refused_not_taken_for_the_link(tmp_path: Path) -> None:
    root = link_clone(tmp_path / "rlhf")
    (root / "studies" / "tiny" / "rlhf").mkdir(parents=True)
    with pytest.raises(RlhfError, match=r"studies/tiny/rlhf: not the link"):
        lay_out(root, "tiny", preset_text("tiny"), {"kl": ARMS["kl"]}, [1], ["fig7"])


def test_laying_out_again_touches_only_what_changed(tmp_path: Path) -> None:
    root = link_clone(tmp_path / "rlhf")
    study = lay_out(
        root,
        "tiny",
        preset_text("tiny"),
        {"kl": ARMS["kl"], "vanilla": ARMS["vanilla"]},
        [1],
        ["fig7"],
    )
    before = {path: path.stat().st_ino for path in study.rglob("*") if path.is_file()}
    changed = {"kl": ARMS["kl"] | {"ppo.iterations": 7}, "vanilla": ARMS["vanilla"]}
    lay_out(root, "tiny", preset_text("tiny"), changed, [1], ["fig7"])
    assert [path.name for path, inode in before.items() if path.stat().st_ino != inode] == [
        "kl.yaml"
    ]


def test_a_new_study_knows_what_the_workspace_around_it_has_run(tmp_path: Path) -> None:
    root = link_clone(tmp_path / "rlhf")
    dep = {"hash": "md5", "md5": "c0ffee", "size": 1}
    stage = {
        "cmd": "python -m flows.sft",
        "deps": [{"path": "rlhf/data", **dep}, {"path": "models/base", **dep}],
    }
    lock = {"schema": "2.0", "stages": {"sft": stage, "ppo": stage}}
    (root / "dvc.lock").write_text(write_yaml(lock))
    study = lay_out(root, "tiny", preset_text("tiny"), {"kl": ARMS["kl"]}, [1], ["fig7"])
    known = read_yaml(study / "dvc.lock")
    assert (
        known["stages"].keys() == {"sft"} and known["schema"] == "2.0"
    )  # ppo is not what an arm runs
    assert [each["path"] for each in known["stages"]["sft"]["deps"]] == ["rlhf/data", "models/base"]

    (root / "dvc.lock").write_text(
        write_yaml(lock | {"stages": {}})
    )  # what the study has run since is its own
    lay_out(root, "tiny", preset_text("tiny"), {"kl": ARMS["kl"]}, [1], ["fig7"])
    assert read_yaml(study / "dvc.lock") == known


def test_an_arm_that_runs_what_is_not_listed_is_refused(tmp_path: Path) -> None:
    root = link_clone(tmp_path / "rlhf")
    chain = read_yaml(root / "dvc.yaml")
    for stage in ("ppo", "gold"):
        forget_link(chain["stages"], stage, "engine.zero", tmp_path / "links" / stage)
    (root / "dvc.yaml").unlink()
    (root / "dvc.yaml").write_text(write_yaml(chain))
    settings = preset_text("tiny").replace("kind: torch", "kind: deepspeed")
    with pytest.raises(SettingsError, match=r"ppo runs rlhf/engine/zero\.py"):
        lay_out(root, "tiny", settings, {"kl": ARMS["kl"]}, [1], ["fig7"])


def test_a_study_needs_a_clone_around_it(tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match=r"dvc\.yaml: no such file"):
        lay_out(tmp_path, "tiny", preset_text("tiny"), {}, [1], [])


def test_a_study_needs_a_seed(tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match="at least one seed"):
        lay_out(link_clone(tmp_path / "rlhf"), "tiny", preset_text("tiny"), {}, [], [])


def test_means_are_of_what_all_seeds_have() -> None:
    assert mean_metrics(
        [{"a": 1, "b": 2.0, "c": "x", "d": True}, {"a": 2, "c": "y", "d": False}]
    ) == {
        "a": 1.5,
        "d": 0.5,
    }
