"""Log-probabilities of both answers of a pair, from the one row that the pair lies in."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batches.pairs import PairBatch
from rlhf.models.backbone import pair_hidden_states, scatter_to_mask, token_logprobs, unembed


@dataclass(frozen=True)
class AnswerTokens:
    """Where the answers of pairs lie, and where their tokens are predicted.

    chosen, rejected: [B, T] bool, True on the tokens of that answer
    predicting: [B, T] int64, on these tokens the place in the row whose hidden state predicts them
    """

    chosen: Tensor
    rejected: Tensor
    predicting: Tensor

    @property
    def both(self) -> Tensor:
        """[B, T] bool, True on the tokens of either answer."""
        return self.chosen | self.rejected


def answer_tokens(batch: PairBatch) -> AnswerTokens:
    """The answers' tokens, and where each is predicted.

    The first token of either answer is predicted at the prompt's last token. What lies before the
    rejected answer in its row is the end of the chosen one, which it does not see.
    """
    # 1. where the parts of each row lie
    ids = batch.tokens.input_ids
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    chosen_end, rejected_end = batch.last[:, :1], batch.last[:, 1:]
    chosen = batch.tokens.target_mask
    rejected = (places > chosen_end) & (places <= rejected_end)
    prompt_end = chosen_end - chosen.sum(dim=1, keepdim=True)

    # 2. what predicts a token: the one before it, but for the first behind the chosen answer
    first_of_rejected = places == chosen_end + 1
    predicting = torch.where(first_of_rejected, prompt_end, places - 1)
    return AnswerTokens(chosen, rejected, predicting)


def answer_logprobs(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """log pi of the chosen and the rejected answer of each pair, [B, 2] float32, at temperature 1.

    Sums over the tokens of an answer, its end token included.
    """
    hidden, found = pair_hidden_states(model, batch), answer_tokens(batch)
    rows, places = found.both.nonzero(as_tuple=True)
    logits = unembed(model, hidden[rows, found.predicting[rows, places]])
    tokens = batch.tokens.input_ids[rows, places]
    by_place = scatter_to_mask(token_logprobs(logits, tokens), found.both)
    # sums over rows: adding up by index has no fixed order on a GPU
    sums = [(by_place * answer).sum(dim=1) for answer in (found.chosen, found.rejected)]
    return torch.stack(sums, dim=1)
