"""Models of other families, through fetch's proofs and a step of each stage."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES, Verdict, fetched, one_step_each, random_model
from tiny import make_workspace

from rlhf.batches.pairs import pad_pairs
from rlhf.core.reach import PAIR_ROWS
from rlhf.data.proofs import prove
from rlhf.models.backbone import pair_hidden_states
from rlhf.workspace import Workspace

README = Path(__file__).parents[3] / "rlhf" / "data" / "README.md"
# capped logits with a window, ALiBi that sees pairs as one text without an error, learned positions
QUICK = ("gemma2", "mpt, ALiBi", "opt, narrower embeddings (350M)")


def through_the_stages(name: str, root: Path) -> Verdict:
    workspace = make_workspace(root)
    shutil.rmtree(workspace.model("base"))
    verdict = fetched(name, workspace.model("base"))
    if not verdict.refusal:
        one_step_each(workspace)
        check_numbers(workspace)
    return verdict


def check_numbers(workspace: Workspace) -> None:
    for stage, key in (("sft", "validation_loss"), ("reward", "accuracy"), ("ppo", "kl_last")):
        value = json.loads(workspace.metrics(stage).read_text())[key]
        assert math.isfinite(value), f"{stage}: {key} {value}"


@pytest.mark.parametrize("name", QUICK)
def test_families_run_from_fetch_to_ppo(name: str, tmp_path: Path) -> None:
    verdict = through_the_stages(name, tmp_path)
    assert verdict.row(name) in README.read_text(encoding="utf-8").splitlines()


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in QUICK])
def test_every_family_of_the_table_does_what_it_says(name: str, tmp_path: Path) -> None:
    verdict = through_the_stages(name, tmp_path)
    assert verdict.row(name) in README.read_text(encoding="utf-8").splitlines()


def test_the_table_has_each_family_once() -> None:
    rows = re.findall(
        r"^\| (.+?) \| (?:runs|refused: .*?) \|", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert rows == list(FAMILIES)


@torch.no_grad()
def test_alibi_reads_pairs_in_one_row_wrongly_and_without_an_error() -> None:
    """Why the proof is on the model itself: nothing in the configuration tells."""
    model = random_model("mpt, ALiBi")
    batch = pad_pairs([[5, 6, 7]], [[8, 9, 10, 11]], [[12, 13]], 0)
    alone = model.base_model(input_ids=torch.tensor([[5, 6, 7, 12, 13]])).last_hidden_state[0, 3:]
    setattr(model.config, PAIR_ROWS, True)
    wrong = pair_hidden_states(model, batch)[0, 7:9]
    assert (wrong - alone).abs().max() > 0.1 * alone.std()

    assert not prove(model)
    right = pair_hidden_states(model, batch)[0, 7:9]
    torch.testing.assert_close(right, alone, atol=1e-4, rtol=0)
