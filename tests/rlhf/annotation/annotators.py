"""Pairs to vote on, and `rlhf annotate` in a process of its own."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pandas as pd

from rlhf.annotation.pairs import AnnotationPair
from rlhf.evaluation.judges.people import pair_key
from rlhf.settings import preset_text
from rlhf.workspace import Workspace
from tests.waiting import wait_until

HOSTILE = "<script>document.title='stolen'</script> & <b>bold</b>"


def make_pair(number: int, kind: str = "helpful") -> AnnotationPair:
    messages = ({"role": "user", "content": f"question {number} {HOSTILE}"},)
    first, second = f"policy says {number} {HOSTILE}", f"sft says {number}"
    return AnnotationPair(pair_key(messages, first, second), kind, messages, first, second)


def make_pairs(count: int) -> list[AnnotationPair]:
    """Harmless and helpful ones in turn."""
    return [make_pair(number, "helpful" if number % 2 else "harmless") for number in range(count)]


def make_workspace(root: Path, pairs: int) -> Workspace:
    """A workspace with settings and judged comparisons; the last row is a pair of equal answers."""
    workspace = Workspace(root)
    workspace.params.write_text(preset_text("tiny"))
    rows = [
        {
            "kind": pair.kind,
            "challenger": "policy",
            "baseline": "sft",
            "messages": json.dumps(pair.messages),
            "response_challenger": pair.first,
            "response_baseline": pair.second,
        }
        for pair in make_pairs(pairs)
    ]
    rows.append(rows[0] | {"response_baseline": rows[0]["response_challenger"]})
    workspace.comparisons.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(workspace.comparisons)
    return workspace


class AnnotateServer:
    """`rlhf annotate` in a process, which can be killed and started again on the same port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # 0: the first start takes a free one, later starts the same again
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = "from rlhf.commands.cli import main; main()"
        command = [sys.executable, "-c", program, "-C", str(self.root), "annotate"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        try:
            line = self.process.stdout.readline()
            self.port = int(line.split("127.0.0.1:")[1].split("/")[0])
            wait_until(self.answers, "the page did not come")
        except BaseException:
            self.kill()
            raise

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            httpx.get(self.url, trust_env=False)
            return True
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
