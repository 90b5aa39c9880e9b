"""KeptTrunks: what the trunk says of a sequence is computed once, and stays the same."""

import pytest
import torch
from test_roles import make_models
from tiny import PAD

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.models.kept_trunks import KeptTrunks
from rlhf.models.roles import Models
from rlhf.workspace import Workspace

# the first and the last are responses to one prompt
PROMPTS = [[2, 9, 30], [2, 11], [2, 9, 30]]
RESPONSES = [[12, 13, 14, 1], [15, 1], [12, 40, 41, 42, 43]]


@pytest.fixture
def models(prepared: Workspace) -> Models:
    models = make_models(prepared)
    models.share_trunk()
    return models


@pytest.fixture
def read(models: Models, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sequences that the trunk read, in order."""
    sequences: list[list[int]] = []
    with_trunk_states = models.with_trunk_states

    def noted(batch: TokenBatch, micro_batch: int) -> TokenBatch:
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
            sequences.append(ids[mask].tolist())
        return with_trunk_states(batch, micro_batch)

    monkeypatch.setattr(models, "with_trunk_states", noted)
    return sequences


def batch(rows: list[int]) -> TokenBatch:
    return pad_responses([PROMPTS[row] for row in rows], [RESPONSES[row] for row in rows], PAD)


def test_results_are_those_of_the_whole_model(models: Models) -> None:
    kept = KeptTrunks(models)
    for rows in ([0, 1, 2], [2, 0]):
        joined = kept.join(batch(rows))
        assert joined.trunk_blocks == models.trunk_blocks > 0
        torch.testing.assert_close(
            models.target_logits("policy", joined),
            models.target_logits("policy", batch(rows)),
            atol=1e-6,
            rtol=1e-5,
        )


def test_a_sequence_is_read_once(models: Models, read: list[list[int]]) -> None:
    kept = KeptTrunks(models)
    kept.join(batch([1, 1, 0]))
    kept.join(batch([2, 0]))
    assert read == [PROMPTS[row] + RESPONSES[row] for row in (1, 0, 2)]
    kept.forget()
    kept.join(batch([0]))
    assert read[3:] == [PROMPTS[0] + RESPONSES[0]]


def test_states_do_not_depend_on_when_a_sequence_came(models: Models) -> None:
    """A run that is resumed, which keeps none, therefore gives the same numbers."""
    early, late = KeptTrunks(models), KeptTrunks(models)
    early.join(batch([0]))
    early.join(batch([1, 2]))
    one, other = (kept.join(batch([2, 1, 0])).trunk_states for kept in (early, late))
    assert one is not None and other is not None
    assert torch.equal(one, other)


def test_models_without_a_trunk_keep_nothing(prepared: Workspace) -> None:
    rows = batch([0, 1])
    assert KeptTrunks(make_models(prepared, layers=None)).join(rows) is rows
