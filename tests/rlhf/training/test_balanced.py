import pandas as pd

from rlhf.training.balanced import balanced


def test_the_scarcer_kind_is_repeated_in_turn() -> None:
    table = pd.DataFrame({"id": list("abcdefg"), "kind": ["helpful", *["harmless"] * 5, "helpful"]})
    rows = balanced(table)
    by_kind = rows.groupby("kind")["id"].agg("".join).to_dict()
    assert by_kind == {"harmless": "bcdef", "helpful": "agaga"}
    assert rows.index.tolist() == list(range(10))
    # what is balanced stays as it is
    assert sorted(balanced(rows)["id"]) == sorted(rows["id"])
