"""Which families run? `python -m tests.families_table [NAME ...]` tries them, and writes the table of the page.

A tiny random model of each goes from `fetch` through a step of SFT, reward model and PPO; what became of it
is its line in rlhf/data/bring_your_own.md. Without names all are tried, which takes minutes.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.source_tree import ROOT

PAGE = ROOT / "rlhf" / "data" / "bring_your_own.md"


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "rlhf"))
    from families import FAMILIES, through_the_stages, with_table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAMILIES))
    names = parser.parse_args().names or list(FAMILIES)
    if unknown := [name for name in names if name not in FAMILIES]:
        parser.error(f"{unknown[0]} is none of {', '.join(FAMILIES)}")

    verdicts = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            verdicts[name] = through_the_stages(name, Path(folder))
        print(verdicts[name].row(name), flush=True)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, verdicts), encoding="utf-8")


if __name__ == "__main__":
    main()
