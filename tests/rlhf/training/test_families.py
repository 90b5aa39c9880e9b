"""Models of other families, through fetch's proofs and a step of each stage."""

import re
from pathlib import Path

import pytest
import torch
from families import FAMILIES, Verdict, random_model, through_the_stages, with_table
from tiny import VOCABULARY
from transformers import AutoModelForCausalLM, XLNetConfig

from rlhf.batches.pairs import pad_pairs
from rlhf.common.errors import ModelError
from rlhf.core.reach import PAIR_ROWS
from rlhf.data.proofs import prove
from rlhf.models.backbone import pair_hidden_states

PAGE = Path(__file__).parents[3] / "rlhf" / "data" / "bring_your_own.md"
# capped logits with a window, ALiBi that sees pairs as one text without an error, learned positions
QUICK = ("gemma2", "mpt, ALiBi", "opt, narrower embeddings (350M)")


@pytest.mark.parametrize("name", QUICK)
def test_families_run_from_fetch_to_ppo(name: str, tmp_path: Path) -> None:
    check_line(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in QUICK])
def test_every_family_of_the_table_does_what_it_says(name: str, tmp_path: Path) -> None:
    check_line(name, tmp_path)


def check_line(name: str, root: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = with_table(page, {name: through_the_stages(name, root)})
    # `python -m tests.families_table NAME` writes it
    assert page == found


def test_the_table_has_each_family_once_in_their_order() -> None:
    page = PAGE.read_text(encoding="utf-8")
    # as none is left over and none is left out
    assert with_table(page, {}) == page
    rows = re.findall(r"^\| (.+?) \| (?:runs|refused: .*?) \|", page, re.MULTILINE)
    assert rows == list(FAMILIES)


def test_a_line_that_is_wrong_or_missing_is_written() -> None:
    page = PAGE.read_text(encoding="utf-8")
    line = Verdict(pairs="one row", layers="yes").row("gpt2")
    assert line in page.splitlines()
    for broken in (page.replace(f"{line}\n", ""), page.replace(line, "| gpt2 | runs | no |")):
        assert broken != page
        assert with_table(broken, {"gpt2": Verdict(pairs="one row", layers="yes")}) == page
    # and of a family that is none any more none stays
    assert with_table(page.replace(line, f"| gpt1 | runs |\n{line}"), {}) == page


def test_an_error_without_words_is_told_by_its_kind() -> None:
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    model = AutoModelForCausalLM.from_config(XLNetConfig(vocab_size=VOCABULARY, **sizes)).eval()
    with pytest.raises(ModelError, match=r"XLNetLMHeadModel cannot be read as it must be: [A-Z]"):
        prove(model)


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
