"""What the policy loop draws for an algorithm: rollouts of roles, plain text, rows of tables."""

from collections.abc import Sequence

import pytest
import torch
from tiny import prompts_of, tiny_settings, tiny_tokenizer
from transformers import PreTrainedModel

from rlhf.batches.padding import Ids
from rlhf.batches.tables import read_table
from rlhf.common.errors import DataError
from rlhf.core.seeds import derive_seed
from rlhf.engine import Engine
from rlhf.engine.single import TorchEngine
from rlhf.models.roles import Models
from rlhf.models.saving import load_causal_lm
from rlhf.registry import SAMPLERS
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.prompts import PromptStream
from rlhf.rollout.records import Rollout, Sampled
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings import Settings
from rlhf.settings.training import EngineSettings
from rlhf.training.run import begin
from rlhf.training.sources import RunSources
from rlhf.workspace import Workspace


class OneOf(TorchEngine):
    """One of several processes that share the work; nothing is summed here."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(EngineSettings(threads=1))
        self.rank = rank
        self.world_size = world_size


def sources_of(workspace: Workspace, settings: Settings, rank: int = 0, of: int = 1) -> RunSources:
    """The sources of a process whose policy and reference are the very same weights."""
    run = begin("ppo", settings, workspace, ["ppo"], {})
    run.engine = OneOf(rank, of)
    models = Models(run.engine, None)
    models.freeze("policy", load_causal_lm(workspace.model("sft")))
    models.freeze("reference", load_causal_lm(workspace.model("sft")))
    return RunSources(run, models, tiny_tokenizer())


@pytest.fixture
def settings() -> Settings:
    return tiny_settings({"ppo.sampling.temperature": 0.9})


@pytest.fixture
def sources(prepared: Workspace, settings: Settings) -> RunSources:
    return sources_of(prepared, settings)


# -- rollouts -----------------------------------------------------------------------------------


def test_the_policy_answers_from_the_historical_streams(
    prepared: Workspace, settings: Settings, sources: RunSources
) -> None:
    """(seed, "rollout", iteration, position), as step logs have been made from the beginning."""
    table = read_table(prepared, "prompts", split="train")
    stream = PromptStream(table, [""] * len(table), settings.seed)
    policy = load_causal_lm(prepared.model("sft"))
    rule = SamplingRule(max_new_tokens=16, eos_id=1, pad_id=0, temperature=0.9)
    for index in (0, 3):
        sources.begin(index)
        rollout = sources.rollouts()
        prompts = stream.take(index, 8, 4)
        positions = range(8 * index, 8 * index + 8)
        uniforms = [
            row_uniforms(16, derive_seed(settings.seed, "rollout", index, at)) for at in positions
        ]
        expected = sample(policy, prompts.ids, torch.stack(uniforms), rule)
        assert rollout.prompts.ids == prompts.ids
        assert rollout.responses == expected.responses


def test_every_role_answers_the_same_prompts_with_a_draw_of_its_own(sources: RunSources) -> None:
    policy, reference = sources.rollouts(), sources.rollouts("reference")
    assert reference.prompts == policy.prompts
    assert reference.responses != policy.responses


def test_no_two_draws_of_an_iteration_coincide(
    prepared: Workspace, settings: Settings, sources: RunSources
) -> None:
    def drawn(sources: RunSources) -> list[list[list[int]]]:
        sources.begin(3)
        roles = ("policy", "policy", "reference", "policy", "reference")
        return [sources.rollouts(role).responses for role in roles]

    found = drawn(sources)
    assert len({str(responses) for responses in found}) == 5
    # a run that resumes in this iteration draws the same
    sources.begin(2)
    sources.rollouts()
    assert drawn(sources) == drawn(sources_of(prepared, settings)) == found


def test_prompts_that_are_given_have_draws_of_their_own(
    prepared: Workspace, settings: Settings, sources: RunSources
) -> None:
    """The very prompts of the iteration, at the same positions, still get other responses."""

    def drawn(sources: RunSources) -> list[Rollout]:
        sources.begin(3)
        stage = [sources.rollouts(), sources.rollouts("reference")]
        prompts = stage[0].prompts
        roles = ("policy", "policy", "reference")
        return [*stage, *(sources.responses_to(prompts, role) for role in roles)]

    found = drawn(sources)
    assert all(rollout.prompts == found[0].prompts for rollout in found)
    assert len({str(rollout.responses) for rollout in found}) == 5
    # they do not depend on what was drawn in between, nor on the other draws of the iteration
    again = sources_of(prepared, settings)
    assert [rollout.responses for rollout in drawn(again)] == [each.responses for each in found]
    again.begin(3)
    assert again.responses_to(found[0].prompts).responses == found[2].responses


def test_responses_to_given_prompts_are_counted_too(sources: RunSources) -> None:
    sources.begin(0)
    rollout = sources.responses_to(prompts_of([[2, 9, 30], [2, 11]]))
    assert sources.tokens == sum(len(response) for response in rollout.responses)
    assert sources.seconds > 0


def test_a_further_draw_has_its_number_in_its_name(
    prepared: Workspace, settings: Settings, sources: RunSources
) -> None:
    policy = load_causal_lm(prepared.model("sft"))
    rule = SamplingRule(max_new_tokens=16, eos_id=1, pad_id=0, temperature=0.9)
    sources.begin(3)
    for draw in ("rollout", "rollout, call 1", "rollout, call 2"):
        rollout = sources.rollouts()
        uniforms = [
            row_uniforms(16, derive_seed(settings.seed, draw, 3, at)) for at in range(24, 32)
        ]
        expected = sample(policy, rollout.prompts.ids, torch.stack(uniforms), rule)
        assert rollout.responses == expected.responses


def test_several_responses_to_a_prompt_lie_side_by_side_and_differ(sources: RunSources) -> None:
    rollout = sources.rollouts(responses=2)
    assert len(rollout) == 8
    ids, numbers = rollout.prompts.ids, rollout.prompts.response_numbers
    assert numbers == [0, 1] * 4
    assert ids[::2] == ids[1::2]
    assert rollout.responses[::2] != rollout.responses[1::2]


@pytest.mark.parametrize("index", [0, 1, 5])
def test_the_first_of_two_responses_is_the_only_one_of_one(sources: RunSources, index: int) -> None:
    """Four prompts with two responses each are the first four of eight with one."""
    found = []
    for responses in (1, 2):
        sources.begin(index)
        found.append(sources.rollouts(responses=responses))
    one, two = found
    assert two.prompts.ids[::2] == one.prompts.ids[:4]
    assert two.responses[::2] == one.responses[:4]


@pytest.mark.parametrize("index", [0, 1, 5])
def test_every_draw_of_an_iteration_names_the_same_prompts(sources: RunSources, index: int) -> None:
    sources.begin(index)
    two, one = sources.rollouts(responses=2), sources.rollouts("reference")
    assert two.prompts.positions[::2] == one.prompts.positions[:4]
    assert two.prompts.ids[::2] == one.prompts.ids[:4]


def test_iterations_have_prompts_and_draws_of_their_own(sources: RunSources) -> None:
    found: list[Rollout] = []
    for index in range(3):
        sources.begin(index)
        found.append(sources.rollouts())
    rows = [row for rollout in found for row in rollout.prompts.table_rows]
    assert len(set(rows)) == 24
    assert len({str(rollout.responses) for rollout in found}) == 3


def test_processes_share_the_prompts_of_every_mini_batch(
    prepared: Workspace, settings: Settings, sources: RunSources
) -> None:
    undivided = sources.rollouts(responses=2)
    first, second = (sources_of(prepared, settings, rank, 2) for rank in range(2))
    parts = [each.rollouts(responses=2) for each in (first, second)]
    # mini-batches of four rows, two of each in either process: the two responses of one prompt
    places = [[0, 1, 4, 5], [2, 3, 6, 7]]
    for part, rows in zip(parts, places, strict=True):
        assert part.responses == [undivided.responses[row] for row in rows]
        assert part.prompts.positions == [undivided.prompts.positions[row] for row in rows]


def test_sampling_is_counted_until_the_next_iteration_begins(sources: RunSources) -> None:
    sources.begin(0)
    tokens = 0
    for role in ("policy", "reference"):
        rollout = sources.rollouts(role)
        tokens += sum(len(response) for response in rollout.responses)
    assert sources.tokens == tokens > 0 and sources.seconds > 0
    sources.begin(1)
    assert (sources.tokens, sources.seconds) == (0, 0)


def test_validations_ask_the_same_and_draw_the_same_each_time(
    prepared: Workspace, settings: Settings, sources: RunSources
) -> None:
    prompts = sources.validation_prompts()
    first = sources.validation_rollout(prompts)
    sources.begin(5)
    assert sources.validation_rollout(prompts).responses == first.responses
    table = read_table(prepared, "prompts", split="validation")
    assert prompts.ids == [ids.tolist() for ids in table["prompt_ids"][:4]]
    assert all(text.startswith("user: ") for text in prompts.texts)

    parts = [sources_of(prepared, settings, rank, 2).validation_prompts() for rank in range(2)]
    assert sorted(row for part in parts for row in part.table_rows) == prompts.table_rows


def test_a_validation_shares_no_stream_with_a_rollout(
    prepared: Workspace, settings: Settings, sources: RunSources
) -> None:
    rollout = sources.rollouts()
    same_prompts = prompts_of(rollout.prompts.ids, rollout.prompts.positions)
    assert sources.validation_rollout(same_prompts).responses != rollout.responses


class Listening:
    """A sampler that notes what is asked of it, and always says the same."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, model: PreTrainedModel, engine: Engine, rule: SamplingRule) -> None:
        self.calls.append(f"make for {rule.max_new_tokens} tokens at {rule.temperature}")

    def refresh(self) -> None:
        self.calls.append("refresh")

    def sample(self, prompts: Sequence[Ids], seeds: Sequence[int]) -> Sampled:
        self.calls.append(f"sample {len(prompts)}")
        return Sampled([[5, 1] for _ in prompts], [[-1.0, -1.0] for _ in prompts])


def test_a_sampler_takes_over_the_weights_before_each_draw(
    prepared: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAMPLERS, "local", f"{__name__}:Listening")
    monkeypatch.setattr(Listening, "calls", [])
    sources = sources_of(prepared, settings)
    # the policy's is made at once
    made = "make for 16 tokens at 0.9"
    assert Listening.calls == [made]
    sources.rollouts()
    sources.rollouts(responses=4)
    sources.validation_rollout(sources.validation_prompts())
    draws = ["refresh", "sample 8", "refresh", "sample 8", "refresh", "sample 4"]
    assert Listening.calls == [made, *draws]
    sources.rollouts("reference")
    assert Listening.calls[-3:] == [made, "refresh", "sample 8"]


# -- plain text and rows ------------------------------------------------------------------------


def first_words(sources: RunSources, windows: int, step: int) -> list[int]:
    """Of the windows that count."""
    text = sources.plain_text(windows, step)
    counts = text.target_mask[:, 1:]
    assert bool(counts.all()) or not bool(counts.any())
    return [] if not bool(counts.any()) else text.input_ids[:, 0].tolist()


def test_plain_text_goes_around_the_table_window_by_window(
    prepared: Workspace, sources: RunSources
) -> None:
    windows = read_table(prepared, "pretrain", split="train")["input_ids"]
    words = [int(ids[0]) for ids in windows]
    found = [word for step in range(7) for word in first_words(sources, 3, step)]
    assert found == [words[place % 10] for place in range(21)]


@pytest.mark.parametrize("windows", [4, 3, 1])
def test_processes_share_the_windows_of_every_step(
    prepared: Workspace, settings: Settings, windows: int
) -> None:
    """However many there are; one without a window of its own reads another's, which does not count."""
    processes = [sources_of(prepared, settings, rank, 2) for rank in range(2)]
    for step in range(3):
        whole = first_words(sources_of(prepared, settings), windows, step)
        parts = [first_words(process, windows, step) for process in processes]
        assert sorted(parts[0] + parts[1]) == sorted(whole) and len(whole) == windows
        assert all(len(process.plain_text(windows, step)) for process in processes)


def test_rows_are_those_to_train_on(prepared: Workspace, sources: RunSources) -> None:
    rows = sources.rows("preferences")
    expected = read_table(prepared, "preferences", split="train")
    assert list(rows["id"]) == list(expected["id"]) and len(rows) == 48


def test_a_table_that_is_missing_is_named(workspace: Workspace, settings: Settings) -> None:
    sources = sources_of(workspace, settings)
    (workspace.prepared / "preferences.parquet").unlink()
    with pytest.raises(DataError, match=r"preferences\.parquet: no such table"):
        sources.rows("preferences")
