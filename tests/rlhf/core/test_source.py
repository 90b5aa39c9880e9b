"""Which source a stage can run, by which its checkpoints are keyed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from neighbours import APA
from tiny import tiny_settings

from rlhf.common.errors import RlhfError
from rlhf.core.source import ROOT, closure, code_sha256, file_of, imported_names
from rlhf.registry import ALGORITHMS
from rlhf.stages import STAGES

LOOP = "rlhf.training.loop"


def names(modules: list[str]) -> set[str]:
    return {path.as_posix() for path in closure(modules)}


def test_a_name_of_ours_has_a_file() -> None:
    assert file_of("rlhf.core.seeds") == ROOT / "rlhf" / "core" / "seeds.py"
    assert file_of("rlhf.core") == ROOT / "rlhf" / "core" / "__init__.py"
    # a name in a module, and what is not there
    assert file_of("rlhf.core.seeds.generator") is None
    assert file_of("rlhf.core.nothing") is None
    assert file_of("nothing.at.all") is None


def test_the_imports_of_a_file_are_read_and_not_run(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "import json.decoder\n"
        "from rlhf.core import seeds\n"
        "if TYPE_CHECKING:\n"
        "    import torch\n"
        "else:\n"
        "    import numpy\n"
        "def later():\n"
        "    from rlhf.core.tally import Tally\n"
    )
    found = set(imported_names(source))
    assert {"json.decoder", "rlhf.core.seeds", "rlhf.core.tally", "numpy"} <= found
    # what is for type checkers alone is not run
    assert "torch" not in found


def test_what_a_module_imports_is_in_its_closure_and_nothing_else() -> None:
    found = names(["rlhf.ppo.advantages"])
    assert found == {"rlhf/ppo/advantages.py", "rlhf/ppo/moments.py", "rlhf/ppo/rewards.py"}


# -- the facade of the formulas -----------------------------------------------------------------

FORMULAS = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlhf/ppo").glob("[a-z]*.py")}


@pytest.fixture
def closure_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], set[str]]:
    """The closure of a module with a line in it, a package of somebody else's around it."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "__init__.py").write_text('"""Theirs."""\n')

    def find(line: str) -> set[str]:
        (package / "algorithm.py").write_text(f'"""An algorithm."""\n{line}\n')
        return names(["theirs.algorithm"]) - {(package / "algorithm.py").as_posix()}

    return find


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from rlhf.ppo import apa_loss", {"rlhf/ppo/apa.py"}),
        ("from rlhf.ppo import apa_loss as loss", {"rlhf/ppo/apa.py"}),
        ("from rlhf.ppo import kl_estimate, merge", {"rlhf/ppo/kl.py", "rlhf/ppo/moments.py"}),
        ("from rlhf.ppo.kl import kl_estimate", {"rlhf/ppo/kl.py"}),
        # whatever it has may be used
        ("import rlhf.ppo as ppo", FORMULAS),
        ("import rlhf.ppo", FORMULAS),
        ("from rlhf import ppo", FORMULAS),
        ("from rlhf.ppo import *", FORMULAS),
        ("def later():\n    from rlhf.ppo import apa_loss", {"rlhf/ppo/apa.py"}),
    ],
)
def test_a_formula_that_the_facade_gives_counts(
    closure_of: Callable[[str], set[str]], line: str, expected: set[str]
) -> None:
    assert closure_of(line) == expected


# -- code that lies elsewhere -------------------------------------------------------------------


def test_registered_code_elsewhere_counts_with_what_it_imports_of_its_own(
    tmp_path: Path, closure_of: Callable[[str], set[str]]
) -> None:
    package = tmp_path / "theirs"
    (package / "losses.py").write_text("import torch\nfrom . import tables\n")
    (package / "tables.py").write_text("ROWS = 1\n")
    expected = {(package / name).as_posix() for name in ("losses.py", "tables.py")}
    imports = ("from theirs.losses import loss", "from .losses import loss", "from . import losses")
    for line in imports:
        assert closure_of(line) == expected
    before = code_sha256(["theirs.algorithm"])
    (package / "tables.py").write_text("ROWS = 22\n")
    assert code_sha256(["theirs.algorithm"]) != before


def test_registered_code_that_is_not_found_is_refused_by_name() -> None:
    for name in ("mypackage.algorithm", "rlhf.algorithms.mine", "sys"):
        message = rf"{name}: no source file .* rlhf/registry\.py names code below rlhf/"
        with pytest.raises(RlhfError, match=message):
            code_sha256([name])


# -- what counts --------------------------------------------------------------------------------


def test_what_can_change_no_number_is_left_out() -> None:
    found = names([LOOP])
    assert "rlhf/training/validation.py" in found and "rlhf/core/tally.py" in found
    for place in ("rlhf/common/", "rlhf/settings/", "rlhf/registry.py", "rlhf/workspace.py"):
        assert not any(name.startswith(place) for name in found)


def test_the_loop_knows_no_algorithm() -> None:
    found = names([LOOP])
    assert not {"rlhf/algorithms/ppo_max.py", "rlhf/algorithms/apa.py"} & found


def test_the_settings_choose_which_algorithm_counts() -> None:
    """Changing one algorithm, or adding another, makes no run of a third stale."""
    ppo_max = names(STAGES["ppo"].modules(tiny_settings({})))
    apa = names(STAGES["ppo"].modules(tiny_settings(APA)))
    assert "rlhf/algorithms/ppo_max.py" in ppo_max - apa
    assert "rlhf/algorithms/apa.py" in apa - ppo_max
    for found in (ppo_max, apa):
        assert {"rlhf/rewards/model.py", "rlhf/rollout/local.py"} <= found
        assert "rlhf/engine/single.py" in found and "rlhf/engine/zero.py" not in found


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_formulas_that_an_algorithm_uses_count(name: str) -> None:
    settings = tiny_settings(APA if name == "apa" else {})
    found = names(STAGES["ppo"].modules(settings))
    assert ("rlhf/ppo/apa.py" in found) is (name == "apa")
    assert {"rlhf/ppo/losses.py", "rlhf/ppo/advantages.py"} <= found


def test_the_hash_is_of_names_and_contents() -> None:
    assert code_sha256([LOOP]) == code_sha256([LOOP])
    assert code_sha256([LOOP]) != code_sha256([LOOP, "rlhf.algorithms.apa"])
    # the order in which modules are named does not matter
    both = ["rlhf.ppo.kl", "rlhf.ppo.moments"]
    assert code_sha256(both) == code_sha256(both[::-1])
