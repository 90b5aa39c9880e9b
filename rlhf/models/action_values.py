"""A language model that gives action values: its unembedding is Q(s, w) of each token w.

The head is its own, not tied to the embedding, and starts at 0: so Q = 0 and no token is preferred
before a reward was seen. The logits of the language model, which the authors of ETPO start from, are
of another scale than rewards, and hold log pi_ref already.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.logits import leave_logits_alone
from rlhf.models.saving import load_causal_lm


class QHead(nn.Linear):
    """Q of all tokens from a hidden state, in float32.

    The policy learns from Q / beta, where beta may be a hundredth: autocast would round that by
    half a nat.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__(width, vocabulary, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> [..., V]."""
        with torch.autocast(hidden.device.type, enabled=False):
            # ZeRO may keep the weights in bf16
            return nn.functional.linear(hidden.float(), self.weight.float())

    def of_tokens(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Q of one token at each state: hidden [N, H], tokens [N] -> [N]; the rest is not computed."""
        return (hidden.float() * self.weight[tokens].float()).sum(dim=1)


def load_q_model(directory: Path) -> PreTrainedModel:
    """The language model in `directory` with a head of action values; raises ModelError."""
    model = load_causal_lm(directory)
    vocabulary, width = model.get_output_embeddings().weight.shape
    model.config.tie_word_embeddings = False
    leave_logits_alone(model)
    model.set_output_embeddings(QHead(width, vocabulary))
    return model


# -- a target network ------------------------------------------------------------------------------


def moving_parts(target: nn.Module, online: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The weights of two models of one build in which the second one learns: name, target's, its own."""
    pairs = zip(target.named_parameters(), online.parameters(), strict=True)
    for (name, kept), learnt in pairs:
        if learnt.requires_grad:
            yield name, kept, learnt


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, polyak: float) -> None:
    """target <- polyak target + (1 - polyak) online, in place, in the target's precision."""
    for _, kept, learnt in moving_parts(target, online):
        kept.lerp_(learnt.to(kept.dtype), 1 - polyak)
