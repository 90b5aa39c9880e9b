"""`~` in a path, with a home and without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.common.address import Address, expand_home
from rlhf.common.errors import RlhfError


@pytest.mark.parametrize(
    ("text", "below"),
    [("path:~/models/mine", "models/mine"), ("people:~", ""), ("path:~/a b", "a b")],
)
def test_a_tilde_is_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, below: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Address.parse(text).path == tmp_path / below


def test_a_user_that_is_not_there_is_named() -> None:
    with pytest.raises(RlhfError, match=r"path:~nobody-of-this-name/x.*no home directory is known"):
        _ = Address.parse("path:~nobody-of-this-name/x").path


def test_a_path_without_a_tilde_needs_no_home() -> None:
    assert expand_home("/data/x") == Path("/data/x")


WITHOUT_HOME = """
import os, pwd
from rlhf.common.address import expand_home
from rlhf.common.errors import RlhfError
for name in ("HOME", "USER", "LOGNAME"):
    os.environ.pop(name, None)
os.setgroups([]); os.setgid(54321); os.setuid(54321)
try:
    expand_home("~/.cache/rlhf", "RLHF_CACHE: ")
except RlhfError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
def test_a_process_without_a_name_and_a_home_is_told_what_to_set() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_HOME], capture_output=True, text=True)
    assert done.stdout.startswith("RLHF_CACHE: ~/.cache/rlhf: no home directory is known; set HOME")
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
