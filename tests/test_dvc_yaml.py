"""dvc.yaml and its links against the code: what a stage runs and reads must make it stale when it changes."""

import ast
from pathlib import Path
from typing import Any

import pytest

from rlhf.commands.code_links import (
    LINKS,
    algorithm_folder,
    link_name,
    linked_code,
    links_of,
    stage_folder,
)
from rlhf.commands.dvc_yaml import pipeline_text, told
from rlhf.common.errors import RlhfError
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.core.source import closure, unwatched
from rlhf.registry import ALGORITHMS, REWARDS, module_of
from rlhf.settings import Settings, preset_names, preset_text, settings_from
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tests.source_tree import ROOT

TEXT = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
PIPELINE: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")


def listed(stage: str, settings: Settings) -> list[str]:
    """The dependencies of a stage as DVC fills them in."""
    chosen = {
        "${ppo.algorithm}": settings.ppo.algorithm,
    }
    filled = []
    for entry in PIPELINE["stages"][stage]["deps"]:
        for place, value in chosen.items():
            entry = entry.replace(place, value)
        filled.append(entry)
    return filled


def preset(name: str, **ppo: Any) -> Settings:
    content = parse_yaml(preset_text(name), name)
    content["ppo"] |= ppo
    return settings_from(content)


APA = {
    "algorithm": "apa",
    "apa": {"lambda": 0.1},
    "kl": None,
    "surrogate_clip": None,
    "ptx": None,
}


def outs_of(stage: dict[str, Any]) -> list[str]:
    return [*stage["outs"], *stage.get("metrics", [])]


def is_covered(path: Path, entries: list[str]) -> bool:
    return any(path == Path(entry) or Path(entry) in path.parents for entry in entries)


def test_the_stages_are_the_ten_in_their_order() -> None:
    """Users and their scripts know them by these names."""
    names = [
        "fetch",
        "prepare",
        "sft",
        "reward",
        "dpo",
        "process",
        "ppo",
        "gold",
        "evaluate",
        "report",
    ]
    assert list(STAGES) == list(PIPELINE["stages"]) == names
    commands = [stage["cmd"] for stage in PIPELINE["stages"].values()]
    assert commands == [f"python -m flows.{name}" for name in names]


def test_what_a_user_added_stays() -> None:
    content = parse_yaml(TEXT, "dvc.yaml")
    content["stages"]["mine"] = {"cmd": "make tea", "outs": ["tea"]}
    content["stages"]["sft"]["outs"][0] = {"models/sft": {"persist": True}}
    content["stages"]["sft"]["frozen"] = True
    written = parse_yaml(pipeline_text(write_yaml(content)), "dvc.yaml")
    assert written == content


def test_it_is_what_the_table_says() -> None:
    assert pipeline_text(TEXT) == TEXT, "run `make dvc.yaml`"


def test_the_links_are_those_to_the_code_that_is_run() -> None:
    expected = {
        ROOT / folder / link_name(path): (ROOT / path).resolve()
        for folder, files in linked_code(ROOT).items()
        for path in files
    }
    # beside them lies what stages have written here
    written = {ROOT / path for stage in STAGES.values() for path in stage.stand_ins}
    files = {path for path in (ROOT / LINKS).rglob("*") if not path.is_dir()}
    links = files - written
    assert {link: link.resolve() for link in links} == expected, "run `make dvc.yaml`"
    # a clone has them
    assert all(link.is_symlink() and not link.readlink().is_absolute() for link in links)


def test_it_says_what_it_wrote() -> None:
    links = [path.relative_to(ROOT).as_posix() for path in (ROOT / LINKS).rglob("*")]
    assert set(links_of(ROOT)) <= set(links)
    assert told(False, ["a"], ["a"]) == "dvc.yaml and its links: nothing changed"
    assert told(False, ["a"], ["a", "c", "b"]) == "linked: b, c"
    assert told(True, ["a"], []) == "rewritten: dvc.yaml; no longer linked: a"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_has_a_link_to_its_own_file(algorithm: str) -> None:
    own = (ROOT / module_of(ALGORITHMS, algorithm).replace(".", "/")).with_suffix(".py")
    assert own in {link.resolve() for link in (ROOT / algorithm_folder(algorithm)).iterdir()}


def test_what_was_chosen_once_stays_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ROOT / "rlhf" / "data" / "clean.py"
    monkeypatch.setitem(REWARDS, "mine", "rlhf.data.clean:reward")
    folder = stage_folder("ppo")
    (tmp_path / folder).mkdir(parents=True)
    assert own.relative_to(ROOT) not in linked_code(tmp_path)[folder]
    (tmp_path / folder / "data.clean").symlink_to(own)
    # what is no choice of this stage is forgotten
    (tmp_path / folder / "report.page").symlink_to(ROOT / "rlhf" / "report" / "page.py")
    assert own.relative_to(ROOT) in linked_code(tmp_path)[folder]
    assert Path("rlhf/report/page.py") not in linked_code(tmp_path)[folder]


@pytest.mark.parametrize("algorithm", [{}, APA], ids=["ppo-max", "apa"])
@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("stage", STAGES)
def test_every_file_that_a_stage_runs_is_a_dependency(
    stage: str, name: str, algorithm: dict[str, Any]
) -> None:
    settings = preset(name, **algorithm)
    modules = STAGES[stage].modules(settings)
    assert closure(modules)
    assert unwatched(modules, listed(stage, settings)) == []


def test_an_algorithm_that_is_not_chosen_is_no_dependency() -> None:
    own = ROOT / "rlhf" / "algorithms" / "apa.py"
    for algorithm, watched in (({}, False), (APA, True)):
        paths = [ROOT / entry for entry in listed("ppo", preset("laptop", **algorithm))]
        links = {link.resolve() for path in paths if path.is_dir() for link in path.iterdir()}
        assert (own in {*paths, *links}) is watched
        assert own.parent not in paths


def test_no_neighbour_makes_ppo_max_stale() -> None:
    """Neither its file nor what the formulas of its own are in."""
    formulas = ("aihf", "apa", "dpo", "etpo", "groups", "steps", "xpo")
    others = {module_of(ALGORITHMS, name) for name in ALGORITHMS if name != "ppo-max"}
    others |= {f"rlhf.ppo.{name}" for name in formulas}
    paths = [ROOT / entry for entry in listed("ppo", preset("laptop"))]
    run = {link.resolve() for path in paths if path.is_dir() for link in path.iterdir()} | {*paths}
    assert not {(ROOT / name.replace(".", "/")).with_suffix(".py") for name in others} & run


def test_a_stage_that_makes_an_optional_model_writes_beside_the_code_of_those_that_read_it() -> (
    None
):
    """Which ties the stage ppo to it under these algorithms, and under no other."""
    readers = {"dpo": ("rto", "dpo"), "process": ("process",)}
    for name, stage in STAGES.items():
        folders = [algorithm_folder(reader).as_posix() for reader in readers.get(name, ())]
        assert stage.stand_ins == [f"{folder}/{name}.json" for folder in folders]
        assert set(stage.stand_ins) <= set(PIPELINE["stages"][name]["outs"])
    for model in readers:
        assert f"models/{model}" not in PIPELINE["stages"]["ppo"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_code_that_a_stage_does_not_run_is_no_dependency(stage: str) -> None:
    judges = {"judges": ("gold", "rules", "api:x", "people:y")}
    # what rlhf/studies/README.md sets for a study
    pairs = {"preferences": ("starter", "planted:6000")}
    everything = []
    for one in map(preset, preset_names()):
        evaluate, data = one.evaluate.model_copy(update=judges), one.data.model_copy(update=pairs)
        everything += [one, one.model_copy(update={"evaluate": evaluate, "data": data})]
    files = {path for one in everything for path in closure(STAGES[stage].modules(one))}
    linked = {link.resolve() for link in (ROOT / stage_folder(stage)).iterdir()}
    # DeepSpeed is chosen by hh-7b alone, every other engine and source by some preset
    assert linked <= {(ROOT / path).resolve() for path in files}


def test_what_cannot_change_a_number_is_followed_no_further() -> None:
    files = closure(["rlhf.training.loop"])
    assert Path("rlhf/training/loop.py") in files
    assert not [path for path in files if path.parts[1] in ("common", "settings", "report")]


def test_imports_for_type_checkers_alone_do_not_count() -> None:
    """`rlhf.ppo` gives every formula by name: whoever uses one must not depend on the others."""
    assert closure(["rlhf.ppo"]) == []
    assert closure(["rlhf.ppo.kl"]) == [Path("rlhf/ppo/kl.py")]


@pytest.mark.parametrize("stage", STAGES)
def test_the_table_names_a_function_that_is_there(stage: str) -> None:
    module, _, function = STAGES[stage].function.partition(":")
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("stage", STAGES)
def test_params_exist_in_every_preset(stage: str, name: str) -> None:
    content = parse_yaml(preset_text(name), name)
    for key in PIPELINE["stages"][stage]["params"]:
        node: Any = content
        for part in key.split("."):
            assert part in node, f"{name} has no {key}, which {stage} depends on"
            node = node[part]


@pytest.mark.parametrize("name", preset_names())
def test_every_section_of_a_preset_makes_some_stage_stale(name: str) -> None:
    used = {key.split(".")[0] for stage in PIPELINE["stages"].values() for key in stage["params"]}
    # where MLflow keeps the weights, and where processes run, changes no output
    assert set(parse_yaml(preset_text(name), name)) <= used | {"mlflow", "hosts"}


def test_changes_of_ppo_reach_only_what_follows_it() -> None:
    using = {name for name, stage in PIPELINE["stages"].items() if "ppo" in stage["params"]}
    assert using == {"ppo", "report"}


def test_every_stage_writes_its_metrics_and_every_dependency_is_code_or_written() -> None:
    workspace = Workspace()
    written = [out for stage in PIPELINE["stages"].values() for out in outs_of(stage)]
    assert len(written) == len(set(written))
    for name, stage in PIPELINE["stages"].items():
        if name != "report":
            assert str(workspace.metrics(name)) in stage["outs"]
        key_figures = [str(workspace.key_figures(name))] if STAGES[name].compared else []
        assert stage.get("metrics", []) == key_figures
        for entry in listed(name, preset("laptop")):
            there = is_covered(Path(entry), written) or (ROOT / entry).exists()
            assert there, f"{name}: {entry} is neither"


def test_what_dvc_compares_is_part_of_what_is_key() -> None:
    for stage in STAGES.values():
        assert set(stage.compared) <= set(stage.key_metrics)


def test_an_algorithm_that_reads_what_its_stage_does_not_list_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop asks before any work, whichever algorithm it is."""
    from rlhf.algorithms.base import Inputs
    from rlhf.algorithms.ppo_max import PpoMax

    def inputs(_settings: Settings) -> Inputs:
        return Inputs(tables=("prompts", "steps"), models=("sft", "gold"))

    monkeypatch.setattr(PpoMax, "inputs", inputs)
    message = r"stages\.py: algorithm ppo-max reads table steps, model gold, which the row"
    with pytest.raises(RlhfError, match=message):
        STAGES["ppo"].load()(preset("tiny"), Workspace(tmp_path))


def test_plots_read_files_that_stages_write_and_have_titles() -> None:
    written = [out for stage in PIPELINE["stages"].values() for out in outs_of(stage)]
    plotted = set()
    for plot in PIPELINE["plots"]:
        for name, properties in plot.items():
            assert properties["title"] == name
            assert properties["x"] == "step"
            assert set(properties["y"]) <= set(written)
            plotted |= {key for keys in properties["y"].values() for key in keys}
    assert {"reward", "kl", "perplexity", "response_length", "value_loss"} <= plotted
