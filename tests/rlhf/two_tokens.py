"""A problem whose solution is known: responses of two tokens of {a, b}, the reference uniform.

r(aa) = 1, the other responses are worth nothing, beta = 0.5. With V(s) = beta log sum_a pi_ref(a)
exp(Q(s, a) / beta) the numbers below follow by hand (arXiv 2404.12358, eq. 5-7).
"""

from itertools import product

import torch
from torch import Tensor

BETA = 0.5
RESPONSES = tuple(product((0, 1), repeat=2))
REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
# pi*(a) at the start, after a, after b
OPTIMUM = torch.tensor([0.807490, 0.880797, 0.5], dtype=torch.float64)
# beta log(pi* / pi_ref) of both tokens of aa, ab, ba, bb
TOKEN_REWARDS = [[0.239661, 0.283110], [0.239661, -0.716890], [-0.477229, 0.0], [-0.477229, 0.0]]
# of each response as a whole
PROBABILITIES = [0.711235, 0.096255, 0.096255, 0.096255]


def token_logprobs(chances: Tensor) -> Tensor:
    """log pi of both tokens of the four responses, [4, 2], from pi(a) in the three states, [3]."""
    table = torch.stack([chances, 1 - chances], dim=1).log()
    return torch.stack(
        [torch.stack([table[0, first], table[1 + first, second]]) for first, second in RESPONSES]
    )
