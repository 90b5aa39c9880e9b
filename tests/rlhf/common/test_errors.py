from rlhf.common.errors import (
    DataError,
    ModelError,
    RlhfError,
    SettingsError,
    SourceError,
    TrainingError,
)


def test_a_fault_of_data_names_file_and_line() -> None:
    assert str(DataError("raw/pairs.jsonl", "no answer", 7)) == "raw/pairs.jsonl:7: no answer"
    assert str(DataError("raw/pairs.jsonl", "empty")) == "raw/pairs.jsonl: empty"


def test_all_faults_meant_for_users_are_of_one_kind() -> None:
    assert all(
        issubclass(kind, RlhfError)
        for kind in (DataError, ModelError, SettingsError, SourceError, TrainingError)
    )
