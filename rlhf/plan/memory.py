"""How many bytes each thing takes: pure functions of shapes, counts and the engine's ways.

Of a card, or of the host where it says so.

The model states under ZeRO are those of arXiv 1910.02054, section 3, as DeepSpeed 0.19 keeps them.
"""

import math
from dataclasses import dataclass
from typing import Literal

from rlhf.plan.shapes import ModelShape

FLOAT = 4
# DeepSpeed's defaults, in elements: gradients that are reduced at once, ZeRO-3's weights put together
_BUCKET, _LIVE = 5e8, 1e9
# Tables of [N, V] float32 of a loss. Four are there at once: the logits divided by the temperature, and the gradient
# of their logsumexp with two of its steps; scoring has as many, for the entropy. One more is to spare.
_TABLES = 5
# prompts that the sampler reads at once
PROMPTS_AT_ONCE = 16

Kind = Literal[
    "weights", "gradients", "optimiser", "activations", "logits", "cache", "buffers", "runtime"
]
KINDS: tuple[Kind, ...] = (
    "weights",
    "gradients",
    "optimiser",
    "activations",
    "logits",
    "cache",
    "buffers",
    "runtime",
)


@dataclass(frozen=True)
class Ways:
    """How an engine keeps and runs models.

    processes: one a card; zero: 0 is plain torch, else ZeRO's stage
    bf16: of the forward pass; plain torch then keeps float32 weights all the same
    fused: attention that keeps no table of scores, as on a GPU
    offload: what of a model that learns is in host memory, as in the settings
    """

    processes: int
    zero: Literal[0, 1, 2, 3]
    bf16: bool
    recompute: bool
    fused: bool
    offload: Literal["none", "optimizer", "optimizer-and-parameters"] = "none"

    @property
    def offloads(self) -> bool:
        """Whether the optimiser is in host memory."""
        return self.offload != "none"

    @property
    def offloads_weights(self) -> bool:
        """Whether the weights are too."""
        return self.offload == "optimizer-and-parameters"

    @property
    def weight(self) -> int:
        """Bytes of a weight."""
        return 2 if self.bf16 and self.zero else FLOAT

    @property
    def activation(self) -> int:
        """Bytes of an activation."""
        return 2 if self.bf16 else FLOAT

    @property
    def autocast(self) -> bool:
        """Whether float32 weights are cast to bf16 wherever they are multiplied."""
        return self.bf16 and self.zero == 0

    @property
    def residual(self) -> int:
        """Bytes of what goes from block to block; embeddings in float32 make it float32."""
        return FLOAT if self.autocast else self.activation


# -- model states ----------------------------------------------------------------------------------


def weights(total: float, learning: float, ways: Ways) -> float:
    """Of a model that learns: ZeRO-3 spreads what learns, or leaves it on the host; the rest stays whole."""
    spread = learning / ways.processes if ways.zero == 3 else learning
    if ways.offloads_weights:
        spread = 0.0
    return (total - learning + spread) * ways.weight


def optimiser(learning: float, ways: Ways) -> float:
    """Adam's two moments, and under ZeRO a float32 copy of the weights: spread over the processes."""
    if ways.zero == 0:
        return 2 * FLOAT * learning
    return 0.0 if ways.offloads else 3 * FLOAT * learning / ways.processes


def gradients(learning: float, ways: Ways) -> float:
    """While a model learns: of the whole step, and those of the weights' own kind that are reduced.

    ZeRO-1 adds up whole float32 gradients; ZeRO-2 and 3 keep a part in float32, and 2 one in the
    weights' kind beside it. With the optimiser on the host ZeRO-3 adds them up there, and 2 on the card
    in float32 alone.
    """
    if ways.zero == 0:
        return FLOAT * learning
    if ways.zero == 1:
        return (FLOAT + ways.weight) * learning
    if ways.offloads:
        return FLOAT * learning / ways.processes if ways.zero == 2 else 0.0
    own = ways.weight if ways.zero == 2 else 0
    return (FLOAT + own) * learning / ways.processes


def resting_gradients(learning: float, ways: Ways) -> float:
    """What of them stays between the steps of a model."""
    if ways.zero == 1 and ways.bf16:
        return FLOAT * learning
    kept = ways.zero == 3 and not ways.offloads
    return FLOAT * learning / ways.processes if kept else 0.0


def offloaded(learning: float, ways: Ways, *, pinned: bool) -> dict[Kind, float]:
    """Of a model that learns, in host memory, of all processes together.

    Moments, float32 weights and gradients; a copy in the weights' kind, by which ZeRO-1 and 2 hand them
    back; gradients that ZeRO-3 adds up, and in float32 the other two; the weights, if they are there.
    pinned: torch rounds such a block up to a power of two
    """
    if not ways.offloads:
        return {}
    part = learning / ways.processes

    def block(size: float) -> float:
        return 2.0 ** math.ceil(math.log2(size)) if pinned and size > 0 else size

    gradients = block(FLOAT * part)
    if ways.zero == 3:
        masters, gradients = FLOAT * part, 2 * gradients
    else:
        masters = block(FLOAT * part) + block(ways.weight * part)
        gradients += 0.0 if ways.bf16 else FLOAT * part
    own: dict[Kind, float] = {"optimiser": 2 * FLOAT * part + masters, "gradients": gradients}
    if ways.offloads_weights:
        own["weights"] = block(ways.weight * part)
    return {kind: ways.processes * size for kind, size in own.items()}


def buffers(learning: float, ways: Ways, largest: float = 0.0) -> float:
    """DeepSpeed's, while a model learns: a bucket of gradients; under ZeRO-3 a float32 copy and the window.

    largest: elements of the largest weight; ZeRO-1 and 2 send a gradient to the host by way of one more
    """
    if ways.zero == 0:
        return 0.0
    if ways.zero < 3:
        return (_BUCKET + (largest if ways.offloads else 0.0)) * ways.weight
    return _BUCKET * (ways.weight + FLOAT) + window(learning, ways)


def window(learning: float, ways: Ways) -> float:
    """Weights that ZeRO-3 has put together at a time, forward and backward."""
    return min(_LIVE, learning) * ways.weight if ways.zero == 3 else 0.0


def copies(shape: ModelShape, blocks: int, targets: float, ways: Ways) -> float:
    """Of weights in bf16, as autocast keeps them of so many blocks, and of the unembedding for targets.

    The backward pass needs those of frozen layers too.
    """
    if not ways.autocast:
        return 0.0
    unembedding = shape.width * shape.vocabulary if targets else 0
    return 2.0 * (blocks * shape.block + unembedding)


def frozen_weights(shape: ModelShape, ways: Ways, *, spread: bool, on_host: bool = False) -> float:
    """Of a model that is only read; spread: a part of each block, and three blocks at a time.

    The one that runs, and the next one as it comes in and as it is put together.
    """
    if not spread:
        return shape.parameters * ways.weight
    blocks = 0.0 if on_host else shape.blocks * shape.block / ways.processes
    at_once = min(3, shape.blocks) * shape.block
    return (shape.outside + blocks + at_once) * ways.weight


# -- passes ----------------------------------------------------------------------------------------


def block_activations(shape: ModelShape, tokens: float, length: int, ways: Ways) -> float:
    """What one block keeps for its backward pass, of so many tokens in rows of `length`.

    Each of two norms: what it reads and what it gives before its scale; the inputs of the linear layers;
    queries, keys, values and what attention gives; the MLP's two products, their activation and product;
    without a fused attention the table of its weights.
    """
    size, wide = ways.activation, shape.width
    # a norm computes in float32, of a copy where the rest is bf16
    norms = 2 * wide * (FLOAT + ways.residual)
    # of what a norm gives autocast makes a copy for each layer but the last ones of attention and MLP
    inputs = wide * (len(shape.linear) - 2 if ways.autocast else 2)
    keys = shape.query if ways.fused else shape.key
    attention = 2 * shape.query + 2 * keys
    mlp = (4 if shape.gated else 2) * shape.inner
    # softmax is float32, and multiplied in bf16
    table = 0 if ways.fused else shape.heads * length * (FLOAT + (size if ways.bf16 else 0))
    return tokens * (norms + (inputs + attention + mlp) * size + table)


def work_space(shape: ModelShape, tokens: float, length: int, ways: Ways) -> float:
    """What a block takes for the moment: tables of scores, or products of the MLP; the mask of the batch."""
    tables = 0 if ways.fused else 2 * shape.heads * length * FLOAT
    mask = length * (ways.activation if ways.fused else FLOAT)
    return tokens * (max(tables, 3 * shape.inner * ways.activation) + mask)


def activations(
    shape: ModelShape,
    tokens: float,
    length: int,
    blocks: int,
    ways: Ways,
    recompute: bool | None = None,
) -> float:
    """While `blocks` blocks learn: what all keep; recomputed: each its input, and one of them all."""
    recompute = ways.recompute if recompute is None else recompute
    one = block_activations(shape, tokens, length, ways)
    space = work_space(shape, tokens, length, ways)
    # the last states and their norm
    ends = 2 * tokens * shape.width * (FLOAT + ways.residual)
    if recompute:
        return blocks * tokens * shape.width * ways.residual + one + space + ends
    return blocks * one + space + ends


def passing(shape: ModelShape, tokens: float, length: int, ways: Ways) -> float:
    """Of a pass without gradients: one block at a time, of it the MLP or the attention."""
    size = ways.activation
    # what goes around the block, and a norm in float32
    around = shape.width * (ways.residual + FLOAT)
    mlp = (3 if shape.gated else 2) * shape.inner * size
    tables = 0 if ways.fused else 3 * shape.heads * length * FLOAT
    attention = (2 * shape.query + 2 * shape.key) * size + tables
    mask = length * (size if ways.fused else FLOAT)
    return tokens * (around + max(mlp, attention) + mask)


def logits(shape: ModelShape, targets: float, ways: Ways) -> float:
    """Of a loss, or of scoring: tables of [targets, V]."""
    in_bf16 = 2 if ways.bf16 else 0
    return targets * shape.vocabulary * (_TABLES * FLOAT + in_bf16)


def cache(shape: ModelShape, rows: int, length: int, size: int) -> float:
    """Keys and values of `rows` rows of `length` tokens, `size` bytes each."""
    return 2.0 * shape.blocks * shape.key * rows * length * size
