"""Do the tests notice? `python -m tests.mutations` breaks one detail of the method after another.

It works in a copy of the project, and prints which test failed first for each. It ends with 1 when a
broken detail passes all of its tests, or when they cannot tell: they fail on the code as it is, or
pytest ends otherwise than by a failed test. Words given choose the details that begin with one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutations import MUTATIONS
from tests.mutations.places import Mutation
from tests.source_tree import ROOT

# how pytest ends
PASSED, NONE_CHOSEN = 0, 5
COPIED = ("rlhf", "tests", "tasks", "flows", "pyproject.toml")


def mutate(tree: Path, mutation: Mutation) -> str:
    """Break the detail below `tree`; gives the file's text before."""
    path = tree / mutation.file
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1:
        sys.exit(f"{mutation.file}: {mutation.old!r} occurs {count} times, once is needed")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return text


def first_failure(tree: Path, tests: tuple[str, ...]) -> str | None:
    """Run the tests below `tree` up to the first that fails, and name it; the long ones last."""
    ended = []
    for which in ("not long", "long"):
        done = _pytest(tree, ["-m", which, *tests])
        if done.returncode not in (PASSED, NONE_CHOSEN):
            return _name_of_failed(done)
        ended.append(done.returncode)
    if PASSED not in ended:
        sys.exit(f"no test in {', '.join(tests)}")
    return None


def _pytest(tree: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "400"}
    return subprocess.run(
        [*command, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _name_of_failed(done: subprocess.CompletedProcess[str]) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", done.stdout, re.MULTILINE)
    # an error of pytest itself says nothing about the tests
    if done.returncode != 1 or found is None:
        output = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        sys.exit(f"pytest ended with {done.returncode}:\n{output}")
    return found[1]


def copy_project(tree: Path) -> None:
    """Copy what the tests need."""
    tree.mkdir(parents=True)
    for part in COPIED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tree / part)


def survivors(tree: Path, mutations: Sequence[Mutation]) -> int:
    """Try mutations one after another; gives how many no test noticed."""
    survived = 0
    for number, mutation in enumerate(mutations, 1):
        before = mutate(tree, mutation)
        failed = first_failure(tree, mutation.tests)
        (tree / mutation.file).write_text(before, encoding="utf-8")
        survived += failed is None
        columns = (
            f"{number}/{len(mutations)}",
            mutation.detail,
            mutation.what,
            failed or "SURVIVED",
        )
        print(" | ".join(columns), flush=True)
    return survived


def main() -> int:
    """Try every mutation whose detail starts with one of the words given, all without any."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=main.__doc__)
    parser.add_argument("details", nargs="*", help="the first words of details: '1 KL' 'apa'")
    words = tuple(parser.parse_args().details)
    chosen = [one for one in MUTATIONS if not words or one.detail.startswith(words)]
    if not chosen:
        known = ", ".join(dict.fromkeys(one.detail for one in MUTATIONS))
        sys.exit(f"no detail begins with {' or '.join(words)}; there are: {known}")
    tests = sorted({test for one in chosen for test in one.tests})
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "rlhf"
        copy_project(tree)
        if failed := first_failure(tree, tuple(tests)):
            sys.exit(f"{failed} fails on the code as it is")
        survived = survivors(tree, chosen)
    print(f"{len(chosen) - survived} of {len(chosen)} noticed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
