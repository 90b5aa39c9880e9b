"""Planted errors, and how well a policy's log-ratio finds them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import tiny_model, tiny_settings, tiny_tokenizer

from rlhf.batches.tables import read_rows_of
from rlhf.engine.single import TorchEngine
from rlhf.models.saving import load_causal_lm, load_tokenizer, save_causal_lm
from rlhf.studies.credit import Planted, auc, credit_auc, differing, logprobs_of, plant
from rlhf.workspace import Workspace

PAIRS = pd.DataFrame(
    {
        "prompt_ids": [[2, 9], [2, 8], [2, 7]],
        # the second has no place for an error
        "chosen_ids": [[11, 12, 13, 1], [1], [14, 15, 1]],
    }
)


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(tiny_settings().engine)


def planted_in(workspace: Workspace, engine: TorchEngine, seed: int = 0) -> Planted:
    pairs = read_rows_of(workspace, "preferences", "test")
    return plant(pairs, workspace.model("sft"), engine, seed)


def test_one_token_of_each_answer_is_another_one(prepared: Workspace, engine: TorchEngine) -> None:
    planted = plant(PAIRS, prepared.model("sft"), engine, seed=3)
    assert planted.prompts == [[2, 9], [2, 7]]
    originals = ([11, 12, 13, 1], [14, 15, 1])
    special = load_tokenizer(prepared.model("sft")).all_special_ids
    for response, error, original in zip(planted.responses, planted.errors, originals, strict=True):
        wrong = [at for at, token in enumerate(response) if token != original[at]]
        assert wrong == list(error) and wrong[0] < len(original) - 1
        assert response[wrong[0]] not in special


def test_errors_are_drawn_by_the_reference(engine: TorchEngine, tmp_path: Path) -> None:
    # peaked predictions
    model, tokenizer = tiny_model(1, std=0.2), tiny_tokenizer()
    save_causal_lm(model, tokenizer, tmp_path)
    with torch.no_grad():
        table = model(input_ids=torch.tensor([[2, 9]])).logits[0, -1].softmax(0)
    table[tokenizer.all_special_ids] = 0.0
    # the right token is the one that would be drawn most often
    right = int(table.argmax())
    pairs = pd.DataFrame({"prompt_ids": [[2, 9]] * 400, "chosen_ids": [[right, 41, 1]] * 400})
    found = plant(pairs, tmp_path, engine, seed=1)
    # the last token is never another one
    assert {error.start for error in found.errors} == {0, 1}
    drawn = [
        response[0]
        for response, error in zip(found.responses, found.errors, strict=True)
        if 0 in error
    ]
    assert right not in drawn
    table[right] = 0.0
    table /= table.sum()
    assert float(table.max()) > 0.1
    for token in range(len(table)):
        share = drawn.count(token) / len(drawn)
        assert share == pytest.approx(float(table[token]), abs=0.1)


def test_errors_are_fixed_by_the_seed(prepared: Workspace, engine: TorchEngine) -> None:
    assert planted_in(prepared, engine, 3) == planted_in(prepared, engine, 3)
    drawn = {tuple(planted_in(prepared, engine, seed).errors) for seed in range(5)}
    assert len(drawn) > 1


def test_the_word_in_which_a_pair_differs_is_the_error() -> None:
    pairs = pd.DataFrame(
        {
            "prompt_ids": [[2, 9], [2, 8], [2, 7], [2, 6], [2, 5]],
            # one token for two; two for one; the first; one that the rejected answer lacks; one
            # that says a neighbour's again
            "chosen_ids": [[11, 12, 13, 1], [11, 12, 1], [14, 15, 1], [11, 12, 1], [11, 11, 1]],
            "rejected_ids": [
                [11, 21, 22, 13, 1],
                [11, 21, 1],
                [24, 15, 1],
                [11, 1],
                [11, 11, 11, 1],
            ],
        }
    )
    found = differing(pairs)
    assert found.prompts == [[2, 9], [2, 8], [2, 7], [2, 5]]
    assert found.responses == [[11, 21, 22, 13, 1], [11, 21, 1], [24, 15, 1], [11, 11, 11, 1]]
    assert found.errors == [range(1, 3), range(1, 2), range(1), range(2, 3)]


def test_the_area_by_hand() -> None:
    # wrong -1.0 and 0.5; others 0.0, 1.0, 0.5: of six pairs four are in order, one is a tie
    credits = [[0.0, -1.0, 1.0], [0.5, 0.5]]
    assert auc(credits, [range(1, 2), range(1)]) == pytest.approx(4.5 / 6)
    assert auc([[0.0, 0.0, 0.0]], [range(1, 2)]) == 0.5
    assert auc([[-9.0, 1.0], [2.0, -3.0]], [range(1), range(1, 2)]) == 1.0
    # a word of two tokens, -2.0 and 3.0, against 0.0: one of two is in order
    assert auc([[-2.0, 3.0, 0.0]], [range(2)]) == 0.5


def test_log_probabilities_are_those_of_one_response_at_a_time(
    prepared: Workspace, engine: TorchEngine
) -> None:
    planted = planted_in(prepared, engine)
    found = logprobs_of(prepared.model("sft"), planted, engine)
    model = load_causal_lm(prepared.model("sft"))
    for row in range(3):
        ids = torch.tensor([[*planted.prompts[row], *planted.responses[row]]])
        with torch.no_grad():
            table = model(input_ids=ids).logits[0].log_softmax(1)
        first = len(planted.prompts[row])
        expected = [float(table[at - 1, ids[0, at]]) for at in range(first, ids.shape[1])]
        assert found[row] == pytest.approx(expected, abs=1e-5)


def test_a_policy_that_never_learnt_has_no_credit_to_give(
    workspace: Workspace, engine: TorchEngine
) -> None:
    planted = planted_in(workspace, engine)
    sft = workspace.model("sft")
    assert credit_auc(sft, sft, planted, engine) == 0.5

    # one that has moved gives some
    policy = load_causal_lm(sft)
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(1.1)
    policy.save_pretrained(workspace.model("policy"))
    found = credit_auc(workspace.model("policy"), sft, planted, engine)
    assert found != 0.5
    # log pi - log pi_ref, and not the other way round
    ours, theirs = (
        logprobs_of(workspace.model(name), planted, engine) for name in ("policy", "sft")
    )
    credits = [
        [one - other for one, other in zip(*pair, strict=True)]
        for pair in zip(ours, theirs, strict=True)
    ]
    assert found == auc(credits, planted.errors)
