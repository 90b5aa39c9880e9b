"""What stages have in memory, what fits, and what is advised where it does not."""

from collections.abc import Mapping
from typing import Any

import pytest

from rlhf.common.yaml import parse_yaml
from rlhf.plan import memory
from rlhf.plan.choices import Plan, advise, alternatives, for_machine, make_plan, remade
from rlhf.plan.machine import GB, Hardware, parse_machine
from rlhf.plan.models import learning, roles
from rlhf.plan.shapes import ModelShape
from rlhf.plan.stages import Phase, StageMemory
from rlhf.settings import preset_text
from rlhf.settings.edit import changed
from rlhf.settings.variants import VARIANTS


def content_of(preset: str, *changes: Mapping[str, Any]) -> Any:
    content = parse_yaml(preset_text(preset), preset)
    for one in changes:
        content = changed(content, one)
    return content


def plan_of(preset: str, shape: ModelShape, machine: Hardware, *changes: Mapping[str, Any]) -> Plan:
    content, notes = for_machine(content_of(preset, *changes), machine)
    return make_plan(content, shape, machine, fast_bf16=not machine.is_cpu, notes=notes)


def stage(plan: Plan, name: str) -> StageMemory:
    (found,) = (one for one in plan.stages if one.stage == name)
    return found


def phase(plan: Plan, name: str) -> Phase:
    (found,) = (one for one in stage(plan, "ppo").phases if one.name == name)
    return found


def sizes(phase: Phase, kind: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in phase.items:
        if item.kind == kind:
            found[item.model] = found.get(item.model, 0.0) + item.size
    return found


# -- hh-7b -----------------------------------------------------------------------------------------


def test_hh_7b_fits_eight_cards_of_80_gb_with_a_tenth_to_spare(llama: ModelShape) -> None:
    plan = plan_of("hh-7b", llama, parse_machine("8x80"))
    assert plan.notes == ()
    assert [one.stage for one in plan.stages] == ["sft", "reward", "ppo", "gold"]
    assert not plan.misfits
    assert max(one.peak.total for one in plan.stages) < 72 * GB


def test_the_numbers_of_its_policy_stage_by_hand(llama: ModelShape) -> None:
    plan = plan_of("hh-7b", llama, parse_machine("8x80"))
    drawn = phase(plan, "sample")
    weights = sizes(drawn, "weights")
    # bf16; a frozen model keeps an eighth of its blocks, and has three of them together when it is read
    assert weights["policy"] == weights["critic"] == 2 * llama.parameters
    parts = 2 * (llama.outside + 32 / 8 * llama.block + 3 * llama.block)
    assert weights["reference"] == weights["reward"] == parts
    # float32 weights with two moments, on eight cards
    assert sizes(drawn, "optimiser")["policy"] == 12 * llama.parameters / 8
    # sixteen responses a card
    assert sizes(drawn, "cache") == {"sampler": 16 * 1536 * 2**19}
    assert "policy" not in sizes(drawn, "gradients")
    learnt = phase(plan, "learn policy")
    assert sizes(learnt, "gradients") == {"policy": 6 * llama.parameters / 8}
    # four responses of 512 tokens
    assert sizes(learnt, "logits") == {"policy": 22.0 * 4 * 512 * 32000}
    assert stage(plan, "ppo").host == 8 * (2 * llama.parameters + 3 * GB)


def test_with_whole_frozen_models_it_does_not_fit(llama: ModelShape) -> None:
    whole = {"engine.frozen_models": "whole"}
    plan = plan_of("hh-7b", llama, parse_machine("8x80"), whole)
    assert [one.stage for one in plan.misfits] == ["ppo"]
    advice = advise(plan)
    assert advice.changes == {"engine.frozen_models": "sharded"}
    assert advice.fits


def test_by_adapters_it_fits_two(llama: ModelShape) -> None:
    two = parse_machine("2x80")
    plan = plan_of("hh-7b", llama, two, VARIANTS["lora-all"])
    assert plan.notes == ("engine.processes: 2",)
    assert not plan.misfits
    # one backbone for policy and reference, one for critic and reward model
    weights = sizes(phase(plan, "sample"), "weights")
    added = 2 * 16 * 32 * (4 * 8192 + 3 * (4096 + 11008))
    assert weights == {
        "policy": 2 * llama.parameters + added,
        "critic": 2 * llama.parameters + added,
    }
    # the variant of the paper's comparisons trains a gold judge of all weights
    others = plan_of("hh-7b", llama, two, VARIANTS["lora"])
    assert [one.stage for one in others.misfits] == ["gold"]


def test_a_host_that_is_too_small_to_load_is_told(llama: ModelShape) -> None:
    plan = plan_of("hh-7b", llama, parse_machine("8x80", host=100 * GB))
    assert [one.stage for one in plan.misfits] == ["sft", "reward", "ppo", "gold"]
    assert not plan.loads(stage(plan, "ppo"))
    assert not advise(plan).fits


# -- offload ---------------------------------------------------------------------------------------


def test_the_optimiser_moves_from_the_cards_to_the_host(llama: ModelShape) -> None:
    eight = parse_machine("8x80")
    before = plan_of("hh-7b", llama, eight)
    plan = plan_of("hh-7b", llama, eight, {"engine.offload": "optimizer"})
    assert sizes(phase(plan, "sample"), "optimiser") == {}
    gone = sum(sizes(phase(before, "sample"), "optimiser").values())
    assert phase(before, "sample").total - phase(plan, "sample").total == gone
    found = stage(plan, "ppo")
    assert {(item.model, item.kind) for item in found.kept} == {
        (model, kind) for model in ("policy", "critic") for kind in ("optimiser", "gradients")
    }
    # moments; float32 weights and gradients of 3.4 GB a process, as torch pins them; a copy in bf16
    each = 8 * llama.parameters + 8 * (2 * 2**32 + 2**31)
    assert sum(item.size for item in found.kept) == 2 * each
    assert found.host == stage(before, "ppo").host + 2 * each
    assert stage(before, "ppo").kept == ()


def test_weights_on_the_host_leave_the_card_what_is_run(llama: ModelShape) -> None:
    changes = {"engine.zero_stage": 3, "engine.offload": "optimizer-and-parameters"}
    plan = plan_of("hh-7b", llama, parse_machine("8x80"), changes)
    assert "policy" not in sizes(phase(plan, "score"), "weights")
    kept = {(item.model, item.kind): item.size for item in stage(plan, "ppo").kept}
    assert kept["policy", "weights"] == 8 * 2**31


def test_on_a_cpu_nothing_is_gained(smollm: ModelShape) -> None:
    cpu = parse_machine("cpu", 24 * GB)
    deepspeed = {"engine.kind": "deepspeed"}
    before = plan_of("laptop", smollm, cpu, deepspeed)
    plan = plan_of("laptop", smollm, cpu, {**deepspeed, "engine.offload": "optimizer"})
    for name in ("sft", "ppo"):
        assert stage(plan, name).peak.total > stage(before, name).peak.total
    assert not any("on host" in name for name, _ in alternatives(before))


def test_offload_is_advised_where_the_host_can_hold_it(llama: ModelShape) -> None:
    plan = plan_of("hh-7b", llama, parse_machine("1x80", host=512 * GB))
    advice = advise(plan)
    assert advice.fits and advice.plan is not None
    assert advice.changes["engine.offload"] == "optimizer"
    assert not any(key.endswith("lora") for key in advice.changes)
    assert max(one.host for one in advice.plan.stages) < 512 * GB


def test_offload_that_the_host_cannot_hold_is_advised_against(llama: ModelShape) -> None:
    machine = parse_machine("8x80", host=256 * GB)
    advice = advise(plan_of("hh-7b", llama, machine, {"engine.offload": "optimizer"}))
    assert advice.fits
    assert advice.changes == {"engine.offload": "none"}


# -- other settings --------------------------------------------------------------------------------


def test_one_process_of_plain_torch_by_hand(smollm: ModelShape) -> None:
    plan = plan_of("laptop", smollm, parse_machine("cpu", 24 * GB))
    drawn = phase(plan, "sample")
    # four models in float32, nothing shared
    assert sizes(drawn, "weights") == dict.fromkeys(
        ("policy", "reference", "critic", "reward"), 4 * smollm.parameters
    )
    learnt = 10 * smollm.block + smollm.norm
    assert sizes(drawn, "optimiser") == {"policy": 8 * learnt, "critic": 8 * learnt}
    # states below the top ten blocks, of all 32 rows of 96 + 80 tokens
    assert sizes(phase(plan, "score"), "activations")["trunk"] == 4 * 32 * 176 * 576
    assert not plan.misfits


@pytest.mark.parametrize(("name", "answers"), [("sft", 1), ("reward", 2)])
def test_a_row_that_is_longer_than_a_micro_batch_is_one(
    smollm: ModelShape, name: str, answers: int
) -> None:
    changes = {
        "data.max_prompt_tokens": 1000,
        "data.max_response_tokens": 500,
        f"{name}.micro_batch_tokens": 256,
    }
    plan = plan_of("laptop", smollm, parse_machine("cpu", 64 * GB), changes)
    section = getattr(plan.settings, name)
    blocks = learning(smollm, section.trainable_layers, section.lora).blocks
    length = 1000 + answers * 500
    whole = memory.activations(smollm, length, length, blocks, plan.ways)
    assert sizes(stage(plan, name).phases[0], "activations") == {name: whole}


def test_cards_that_settings_do_not_name(smollm: ModelShape) -> None:
    plan = plan_of("laptop", smollm, parse_machine("2x24"))
    # a mini-batch of 8, of which a card has 4
    assert plan.notes == (
        "engine.processes: 2",
        "engine.kind: deepspeed",
        "ppo.micro_batch: 4",
    )
    assert (plan.ways.zero, plan.ways.processes, plan.ways.bf16) == (2, 2, True)
    alone = plan_of("laptop", smollm, parse_machine("1x24"))
    assert (alone.notes, alone.ways.zero, alone.ways.weight) == ((), 0, 4)
    # float32 weights, and a copy in bf16 to sample from
    assert sizes(phase(alone, "sample"), "weights")["sampler"] == 2 * smollm.parameters


def test_advice_changes_what_costs_least_first(llama: ModelShape) -> None:
    plan = plan_of("hh-7b", llama, parse_machine("8x72"))
    advice = advise(plan)
    assert advice.fits and advice.plan is not None
    # what it says is what the settings with it come to
    again = plan_of("hh-7b", llama, parse_machine("8x72"), advice.changes)
    assert [one.peak for one in again.stages] == [one.peak for one in advice.plan.stages]
    assert not any(key.endswith("lora") for key in advice.changes)


@pytest.mark.parametrize("machine", ["1x80", "2x80", "8x72", "4x48"])
def test_no_key_that_is_advised_can_be_left_out(llama: ModelShape, machine: str) -> None:
    plan = plan_of("hh-7b", llama, parse_machine(machine), {"engine.frozen_models": "whole"})
    advice = advise(plan)
    assert plan.misfits and advice.fits
    for left_out in advice.changes:
        fewer = {key: value for key, value in advice.changes.items() if key != left_out}
        without = remade(plan, fewer)
        assert without is None or without.misfits, left_out


def test_one_card_of_80_gb_with_a_small_host_needs_adapters_and_nothing_else(
    llama: ModelShape,
) -> None:
    advice = advise(plan_of("hh-7b", llama, parse_machine("1x80", host=64 * GB)))
    assert list(advice.changes) == ["sft.lora", "reward.lora", "ppo.lora", "gold.lora"]


def test_nothing_makes_7b_fit_a_card_of_8_gb(llama: ModelShape) -> None:
    advice = advise(plan_of("hh-7b", llama, parse_machine("1x8")))
    assert not advice.fits


def test_other_choices_are_planned_as_settings_with_them(llama: ModelShape) -> None:
    plan = plan_of("hh-7b", llama, parse_machine("8x80"))
    found = dict(alternatives(plan))
    assert len(found) == 16
    assert stage(found["ZeRO-2, frozen sharded"], "ppo").peak == stage(plan, "ppo").peak
    totals = {name: stage(other, "ppo").peak.total for name, other in found.items()}
    assert totals["ZeRO-1, frozen whole"] > totals["ZeRO-2, frozen whole"]
    assert totals["ZeRO-3, frozen whole"] > totals["ZeRO-3, frozen sharded"]
    assert totals["ZeRO-3, frozen sharded"] > totals["ZeRO-3, frozen host"]
    assert totals["ZeRO-2, LoRA"] < totals["ZeRO-2, frozen host"]
    assert totals["ZeRO-2, optimizer on host"] < totals["ZeRO-2, frozen host"]
    both = "ZeRO-3, optimizer-and-parameters on host"
    assert totals[both] < totals["ZeRO-3, optimizer on host"]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("ppo-max", ["policy", "reference", "critic", "reward"]),
        ("rloo", ["policy", "reference", "reward"]),
        ("rto", ["policy", "reference", "critic", "dpo model", "reward"]),
        ("etpo", ["policy", "reference", "critic", "target", "reward"]),
        ("aihf", ["policy", "reference", "critic", "moving reward", "reward"]),
        ("online-dpo", ["policy", "reference", "reward"]),
        ("dpo", ["policy", "reference", "reward"]),
    ],
)
def test_the_models_of_an_algorithm(smollm: ModelShape, variant: str, expected: list[str]) -> None:
    cpu = parse_machine("cpu", 24 * GB)
    plan = plan_of("laptop", smollm, cpu, VARIANTS[variant])
    assert [role.name for role in roles(plan.settings)] == expected
    learning = [role.name for role in roles(plan.settings) if role.learns]
    held = sizes(stage(plan, "ppo").phases[0], "optimiser")
    assert sorted(held) == sorted(learning)
    assert ("dpo" in [one.stage for one in plan.stages]) == (variant in ("rto", "dpo"))
