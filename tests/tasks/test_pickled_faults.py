import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlhf.common.errors import DataError, RlhfError
from rlhf.data.rows import UnreadableFile
from tasks import errors, repro  # noqa: F401 - the kinds that they define are among the subclasses
from tasks.errors import StageFailed

ARGUMENTS: dict[type[RlhfError], tuple[Any, ...]] = {
    DataError: ("raw/pairs.jsonl", "no answer", 7),
    UnreadableFile: (Path("raw/pairs.jsonl.zst"), "not packed as its name says"),
    StageFailed: ("sft", -9, Path("logs/sft.log"), ["loading", "Killed"]),
}


def kinds(kind: type[RlhfError] = RlhfError) -> Iterator[type[RlhfError]]:
    """A kind of fault and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_a_fault_crosses_processes_with_its_message_and_attributes(kind: type[RlhfError]) -> None:
    fault = kind(*ARGUMENTS.get(kind, ("what is wrong",)))
    fault.add_note("seed 5")
    found = pickle.loads(pickle.dumps(fault))
    assert type(found) is kind
    assert (str(found), found.args, vars(found)) == (str(fault), fault.args, vars(fault))


def refuse(_seed: int) -> None:
    raise DataError("raw/pairs.jsonl", "no answer", 7)


def test_a_fault_of_a_process_in_a_pool_arrives_as_itself() -> None:
    with (
        ProcessPoolExecutor(1) as pool,
        pytest.raises(DataError, match=r"pairs\.jsonl:7: no answer"),
    ):
        list(pool.map(refuse, [5]))
