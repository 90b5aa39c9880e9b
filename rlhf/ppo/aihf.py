"""Learning from demonstrations and preferences together (AIHF, arXiv 2406.06874).

    max over R of  w_d E_demo[log pi_R(y|x)] + w_p E_pairs[log sigmoid(R(y+) - R(y-))]
    where pi_R = argmax over pi of  E_pi[R] - beta KL(pi || pi_ref)

The full text of the paper was not at hand: the objective is as its abstract and public reviews
state it, the gradient is derived from that, the logistic form is that of the same group's code
(JasonJiaxiangLi/Reward_learning_SFT). How the paper weighs the two terms is not verified.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def demonstration_loss(margins: Tensor, beta: float) -> Tensor:
    """The bilevel loss of each demonstration against a response of the present policy, [D].

    L = -(R(x, y_demo) - R(x, y_policy)) / beta

    With pi_R = pi_ref exp(R / beta) / Z its mean has the gradient of -E_demo[log pi_R] once the
    policy is pi_R: stale responses bias it. It is linear in R and has no lower bound: only the
    policy, which follows R, brings it to rest. So the steps of R must be small.
    """
    return -margins / beta


def bradley_terry_loss(margins: Tensor) -> Tensor:
    """The Bradley-Terry loss of each pair, [C], from the margins R(x, y+) - R(x, y-).

    L = -log sigmoid(R(x, y+) - R(x, y-))

    Of labelled pairs; and, as the code has it, of a demonstration that is preferred to a response
    of the policy. That form is bounded below by 0. Of the rewards that a policy stands for
    (`rlhf.ppo.dpo.implicit_rewards`) it is DPO's loss (arXiv 2305.18290, eq. 7).
    """
    return -logsigmoid(margins)
