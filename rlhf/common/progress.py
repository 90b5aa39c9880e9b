"""Progress of long work: a bar with rate and time left on a terminal, log lines elsewhere.

Where RLHF_PROGRESS_FILE names a file, it also holds how far the work is, for whoever watches.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from rlhf.common.files import write_json

log = logging.getLogger("rlhf")

# the environment variable that names the file
PROGRESS_FILE = "RLHF_PROGRESS_FILE"


class Progress:
    """Count `total` units of work named `what`; `show=False` keeps it silent (ranks other than 0)."""

    def __init__(
        self,
        what: str,
        total: int,
        *,
        start: int = 0,
        show: bool = True,
        every_seconds: float = 10.0,
    ) -> None:
        self.what, self.total, self.done = what, total, start
        self._start, self._began, self._told = start, time.monotonic(), time.monotonic()
        self._every = every_seconds
        self._show = show
        interactive = show and sys.stderr.isatty()
        self._bar = (
            tqdm(total=total, initial=start, desc=what, dynamic_ncols=True) if interactive else None
        )

    def advance(self, count: int = 1, values: Mapping[str, float | str] | None = None) -> None:
        """Move on by `count` units; `values` are shown beside the bar."""
        self.done += count
        text = " ".join(
            f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
            for k, v in (values or {}).items()
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(count)
        elif self._show and (
            time.monotonic() - self._told >= self._every or self.done >= self.total
        ):
            self._told = time.monotonic()
            self._write()
            # steps of an earlier run that was resumed took none of this time
            rate = (self.done - self._start) / max(self._told - self._began, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            log.info(
                "%s %d/%d  %.2f/s  %.0f s left  %s",
                self.what,
                self.done,
                self.total,
                rate,
                left,
                text,
            )

    def _write(self) -> None:
        if path := os.environ.get(PROGRESS_FILE):
            # who watches may miss it; the work goes on
            with suppress(OSError):
                write_json(Path(path), {"what": self.what, "done": self.done, "total": self.total})

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
