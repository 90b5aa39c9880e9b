"""Operations and seconds by hand."""

import pytest
from test_plan_choices import plan_of

from rlhf.common.errors import SettingsError
from rlhf.plan.machine import GB, parse_machine
from rlhf.plan.models import Learning
from rlhf.plan.shapes import ModelShape
from rlhf.plan.speed import (
    Speed,
    decode_seconds,
    forward_flops,
    parse_rate,
    speed_of,
    stage_time,
    step_flops,
)


def test_two_operations_a_weight_and_token(llama: ModelShape) -> None:
    blocks = 2 * 32 * llama.block * 100
    attention = 4 * 32 * 4096 * 50 * 100
    assert forward_flops(llama, 100, 50, 0) == blocks + attention
    assert forward_flops(llama, 100, 50, 7) == blocks + attention + 2 * 7 * 4096 * 32000


def test_the_backward_pass_costs_two_forward_passes_of_what_learns(llama: ModelShape) -> None:
    count = llama.parameters
    forward = forward_flops(llama, 100, 50, 100)

    def work(own: Learning, *, recompute: bool, on_trunk: bool = False) -> float:
        both = {"recompute": recompute, "on_trunk": on_trunk}
        return step_flops(llama, own, 100, 50, 100, **both) / forward

    assert work(Learning(count, count, 32), recompute=False) == 3
    assert work(Learning(count, count, 32), recompute=True) == 4
    assert work(Learning(count, count // 2, 16), recompute=False) == 2
    assert work(Learning(count, count // 2, 16), recompute=False, on_trunk=True) == 1.5
    # gradients of what layers read, not of their weights
    assert work(Learning(count + 5, 5, 32), recompute=False) == 2


def test_decoding_reads_all_weights_for_each_token(llama: ModelShape) -> None:
    speed = Speed(1e30, 1e12, "")
    half_way = 4 * (100 + 5) * 2**19
    expected = 10 * (2 * llama.parameters + half_way) / 1e12
    assert decode_seconds(llama, 4, 100, 10, 2, speed) == pytest.approx(expected)


def test_given_rates_stand_and_others_are_a_part_of_the_data_sheet() -> None:
    eight = parse_machine("8x80")
    usual = speed_of(eight, bf16=True)
    assert usual is not None
    assert (usual.flops, usual.bandwidth) == (0.4 * 312e12, 0.6 * 2.039e12)
    given = speed_of(eight, bf16=True, flops=1e12, bandwidth=2e9)
    assert given is not None
    assert (given.flops, given.bandwidth, given.assumed) == (1e12, 2e9, "as given")
    on_cpu = parse_machine("cpu", 8 * GB)
    reached = speed_of(on_cpu, bf16=False)
    assert on_cpu.rates is not None and reached is not None
    assert reached.flops == on_cpu.rates.flops
    assert speed_of(parse_machine("8x33"), bf16=True) is None
    assert speed_of(parse_machine("8x33"), bf16=True, flops=1e12, bandwidth=2e9) is not None


def test_a_stage_with_a_known_number_of_steps(llama: ModelShape) -> None:
    plan = plan_of("hh-7b", llama, parse_machine("8x80"))
    speed = Speed(1e14, 1e12, "")
    times = {
        name: stage_time(name, plan.settings, plan.shape, plan.ways, speed)
        for name in ("sft", "reward", "dpo", "ppo")
    }
    assert times["dpo"] is None
    assert [time.steps for time in times.values() if time] == [None, 1000, 1050]
    sft = times["sft"]
    assert sft is not None
    # 65536 tokens a card, forward, backward and recomputed
    assert sft.seconds == pytest.approx(4 * forward_flops(llama, 65536, 1536, 65536 / 3) / 1e14)


@pytest.mark.parametrize(("text", "value"), [("400T", 4e14), ("2000G", 2e12), ("1.5e12", 1.5e12)])
def test_rates(text: str, value: float) -> None:
    assert parse_rate(text, "--flops") == value


@pytest.mark.parametrize("text", ["", "T", "-1", "0", "nan", "4M"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(SettingsError, match="--flops"):
        parse_rate(text, "--flops")


def test_machines() -> None:
    named = parse_machine("2xH100")
    assert (named.cards, named.memory, named.host) == (2, 80 * GB, None)
    sized = parse_machine("1x24", host=64 * GB)
    assert (sized.cards, sized.memory, sized.host) == (1, 24 * GB, 64 * GB)
    assert sized.usable == pytest.approx(0.9 * 24 * GB)
    assert parse_machine("cpu", 8 * GB).is_cpu
    for text in ("8", "x80", "8x0", "0x80", "8xgpu", "cpus"):
        with pytest.raises(SettingsError, match="expected CARDSxGIGABYTES"):
            parse_machine(text)
