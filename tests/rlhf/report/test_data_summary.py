from rlhf.report.data_summary import DroppedRows, SelectedRows, data_view


def test_no_key_of_the_summary_is_lost() -> None:
    summary = {
        "sft_train": 7,
        "sft_train_helpful": 4,
        "sft_train_harmless": 3,
        "sft_dropped_empty_answer": 2,
        "sft/a.jsonl/train": 7,
        "sft/lost.jsonl/train": 1,
        "broken": 2,
        "broken_first": "",
    }
    view = data_view(summary, {"files": {"sft: a.jsonl": {"train": 7}}})
    assert view.kinds == ["helpful", "harmless"]
    assert view.selected == [SelectedRows("sft", "train", 7, [4, 3])]
    assert view.dropped == [DroppedRows("sft", "empty answer", 2)]
    # of a file that details do not list, the count itself is shown
    assert view.other == [("broken", 2), ("sft/lost.jsonl/train", 1)]
    assert view.files == [("sft: a.jsonl", [("train", 7)])]
