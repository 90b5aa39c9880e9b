"""What wider beams find in a policy: the gold score and the length of its likeliest responses.

For a DPO policy that is the search by the reward which it stands for (arXiv 2404.12358, section 5.2).
There five beams are better than one, and more lead to runaway length.
"""

from rlhf.batches.tables import read_rows_of
from rlhf.core.tokenizers import end_ids
from rlhf.engine.single import TorchEngine
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.models.scoring import ResponseScorer
from rlhf.rollout.beam import beam_search
from rlhf.settings import Settings
from rlhf.workspace import Workspace

WIDTHS = (1, 2, 5, 20)
_BATCH = 32


def searched(settings: Settings, workspace: Workspace, engine: TorchEngine) -> dict[str, float]:
    """Means over the validation prompts by width of the beam: `gold_beams_5`, `length_beams_5`.

    Gold in units of the standard deviation of its scores, length in tokens.
    """
    ppo = settings.ppo
    table = read_rows_of(workspace, "prompts", "validation")[: ppo.validation_prompts]
    prompts = [[int(token) for token in ids] for ids in table["prompt_ids"]]
    policy = engine.frozen(load_causal_lm(workspace.model("policy")))
    ends = end_ids(load_tokenizer(workspace.model("policy")), policy.generation_config)
    longest = ppo.max_response_tokens or settings.data.max_response_tokens
    gold = ResponseScorer.load(workspace.model("gold"), engine, unit_scale=True)

    found: dict[str, float] = {}
    for width in WIDTHS:
        responses = []
        for prompt in prompts:
            likeliest, *_ = beam_search(policy, prompt, width, longest, ends[0], ends[1:])
            responses.append(likeliest.response)
        scores: list[float] = []
        for start in range(0, len(prompts), _BATCH):
            rows = slice(start, start + _BATCH)
            scores += gold.scores(prompts[rows], responses[rows])
        found[f"gold_beams_{width}"] = sum(scores) / len(scores)
        found[f"length_beams_{width}"] = sum(map(len, responses)) / len(responses)
    return found
