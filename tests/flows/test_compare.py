"""What `rlhf compare` prints of a comparison."""

from flows.compare import format_result
from tasks.matches import ComparisonResult

SHARES = {
    "win": 0.5, "tie": 0.25, "lose": 0.25,
    "win_rate": 0.625, "win_rate_low": 0.5, "win_rate_high": 0.75,
}  # fmt: skip


def test_a_line_for_all_prompts_and_one_for_each_kind_that_there_is() -> None:
    nothing = dict.fromkeys(SHARES)
    kinds = {"harmless": nothing, "helpful": SHARES | {"win": 0.75, "lose": 0.0}, "other": SHARES}
    result = ComparisonResult("policy", "sft", "gold", 8, SHARES, kinds)
    rate = "win rate 0.625 [0.500, 0.750]"
    assert format_result(result) == [
        f"all       win 50.0%, tie 25.0%, lose 25.0%; {rate}",
        f"helpful   win 75.0%, tie 25.0%, lose 0.0%; {rate}",
        f"other     win 50.0%, tie 25.0%, lose 25.0%; {rate}",
    ]
