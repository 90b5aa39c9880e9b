"""The models of one algorithm by the role they play, and what an algorithm asks of each.

models = Models(engine, trainable_layers=10)
models.train("policy", load_causal_lm(...), optimizer, total_steps)
models.freeze("reference", load_causal_lm(...))
models.share_trunk()
logits = models.target_logits("policy", batch)
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batches.padding import TokenBatch, pad_width
from rlhf.common.files import staged_directory
from rlhf.engine import Engine, Trainer
from rlhf.engine.shards import put_together
from rlhf.models import backbone, heads
from rlhf.models.blocks import blocks_of, find_stack
from rlhf.models.heads import ScalarModel
from rlhf.models.saving import save_causal_lm
from rlhf.models.sharing import Weights, share_weights
from rlhf.models.trainable import choose_trainable
from rlhf.settings.training import Lora, Optimizer

AnyModel = PreTrainedModel | ScalarModel


class Models:
    """Role -> module, trainable or frozen. Saving, gathering and forward passes go through here."""

    def __init__(
        self,
        engine: Engine,
        trainable_layers: int | None,
        lora: Lora | None = None,
        seed: int = 0,
    ) -> None:
        self._engine = engine
        self._trainable_layers = trainable_layers
        self._lora, self._seed = lora, seed
        # with adapters: the weights of each model that do not learn
        self._frozen_weights: list[Weights] = []
        self._modules: dict[str, AnyModel] = {}
        self._trainers: dict[str, Trainer] = {}
        # the roles that have their lowest blocks in common, and how many those are
        self._sharing: list[str] = []
        self.trunk_blocks = 0

    def train(self, role: str, model: AnyModel, optimizer: Optimizer, total_steps: int) -> None:
        """Take a model over for training in its top layers; raises ValueError if the role is taken.

        With `lora` by adapters of its own in them.
        """
        self._refuse_taken(role)
        layers, lora = self._trainable_layers, self._lora
        choose_trainable(language_model(model), layers, lora, self._seed, role)
        self._modules[role] = model
        self._trainers[role] = self._engine.trainer(model, optimizer, total_steps)
        self._share_weights(role)

    def freeze(self, role: str, model: AnyModel, *, whole: bool = False) -> None:
        """Take a model over that is only read; raises ValueError if the role is taken.

        whole: on every process, whatever the settings say
        """
        self._refuse_taken(role)
        lm = language_model(model)
        stack = find_stack(lm)
        # with adapters its weights may be those of a model that learns
        if whole or self._lora is not None or stack is None:
            self._modules[role] = self._engine.frozen(model)
        else:
            blocks = blocks_of(lm, stack)
            self._modules[role] = self._engine.frozen(model, lm.base_model, blocks)
        self._share_weights(role)

    def _share_weights(self, role: str) -> None:
        """With adapters: one backbone for all roles that have the same weights, as policy and reference.

        The one that learns reads it with its adapters, the frozen one without.
        """
        if self._lora is not None:
            own = share_weights(self.language_model(role), self._frozen_weights)
            self._frozen_weights.append(own)

    def _refuse_taken(self, role: str) -> None:
        # a trainer of the model before would go on with that one
        if role in self._modules:
            raise ValueError(f"role {role!r} is taken; roles so far: {', '.join(self._modules)}")

    def __getitem__(self, role: str) -> AnyModel:
        return self._modules[role]

    @property
    def engine(self) -> Engine:
        """The machine that they run on."""
        return self._engine

    @property
    def trainers(self) -> Mapping[str, Trainer]:
        """Every trainable model with its optimiser, by role."""
        return self._trainers

    def language_model(self, role: str) -> PreTrainedModel:
        """The language model that plays a role, without a head."""
        return language_model(self._modules[role])

    def gathered(self, role: str) -> AbstractContextManager[object]:
        """Whole weights of a model inside the block, for sampling and saving."""
        trainer = self._trainers.get(role)
        return put_together(self._modules[role]) if trainer is None else trainer.gathered()

    def save(self, role: str, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
        """Write a trained language model as a Hugging Face directory; every process calls it."""
        with self.gathered(role):
            if self._engine.rank == 0:
                with staged_directory(directory) as partial:
                    save_causal_lm(self.language_model(role), tokenizer, partial)

    # -- the trunk ---------------------------------------------------------------------------------

    def share_trunk(self) -> None:
        """Let the roles that have the frozen blocks of the first one that learns read their states.

        Call it once all models are in. A role of another origin or build reads its own. ZeRO keeps
        weights in parts, which cannot be compared.
        """
        layers = self._trainable_layers
        first = next(iter(self._trainers), None)
        if layers is None or first is None or not self._engine.whole_weights:
            return
        model = self.language_model(first)
        sharing = [
            role
            for role in self._modules
            if backbone.shares_trunk(model, self.language_model(role), layers)
        ]
        # the first one alone has nobody to share with
        if len(sharing) > 1:
            self._sharing = sharing
            self.trunk_blocks = backbone.trunk_size(model, layers)

    @torch.no_grad()
    def with_trunk_states(self, batch: TokenBatch, micro_batch: int) -> TokenBatch:
        """The batch with the states of the shared trunk, if there is one: computed once for its roles."""
        if not self.trunk_blocks:
            return batch
        # their lower blocks are the same
        anyone = self.language_model(self._sharing[0])
        states = []
        for part in batch.micro_batches(micro_batch):
            with self._engine.autocast():
                own = backbone.trunk_states(anyone, self.trunk_blocks, part)
            states.append(pad_width(own, batch.width))
        return replace(batch, trunk_states=torch.cat(states), trunk_blocks=self.trunk_blocks)

    # -- forward passes ----------------------------------------------------------------------------

    def target_logits(self, role: str, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """Logits that predict each target token, [N, V] float32, divided by `temperature`."""
        model, own = self.language_model(role), self._as_read_by(role, batch)
        with self._engine.autocast():
            hidden = backbone.hidden_states(model, own)
            return backbone.target_logits(model, hidden, own, temperature)

    def target_states(self, role: str, batch: TokenBatch) -> Tensor:
        """The hidden states that predict each target token, [N, H]: small where logits are large."""
        own = self._as_read_by(role, batch)
        with self._engine.autocast():
            hidden = backbone.hidden_states(self.language_model(role), own)
            return backbone.target_states(hidden, own)

    def unembed(self, role: str, states: Tensor, temperature: float = 1.0) -> Tensor:
        """Logits [n, V] float32 of some of these states [n, H], divided by `temperature`."""
        with self._engine.autocast():
            return backbone.unembed(self.language_model(role), states) / temperature

    def values(self, role: str, batch: TokenBatch) -> Tensor:
        """Value of the state before each target token, [N] float32, by a model with a head."""
        with self._engine.autocast():
            return heads.response_values(self._scalar_model(role), self._as_read_by(role, batch))

    def scores(self, role: str, batch: TokenBatch) -> Tensor:
        """Score of each sequence, [B] float32, by a model with a head."""
        with self._engine.autocast():
            return heads.response_scores(self._scalar_model(role), self._as_read_by(role, batch))

    def scalars_at(self, role: str, batch: TokenBatch, places: Tensor) -> Tensor:
        """The scalar at each True place of [B, T], [N] float32 row by row, by a model with a head."""
        with self._engine.autocast():
            own = self._as_read_by(role, batch)
            return heads.scalars_at(self._scalar_model(role), own, places)

    def _as_read_by(self, role: str, batch: TokenBatch) -> TokenBatch:
        """The batch without the states of a trunk that a role does not share."""
        if batch.trunk_states is None or role in self._sharing:
            return batch
        return replace(batch, trunk_states=None, trunk_blocks=0)

    def _scalar_model(self, role: str) -> ScalarModel:
        model = self._modules[role]
        assert isinstance(model, ScalarModel)
        return model


def language_model(model: AnyModel) -> PreTrainedModel:
    """The language model of a model with or without a head."""
    return model.lm if isinstance(model, ScalarModel) else model
