"""How many threads torch computes with on a CPU."""

import torch

from rlhf.core.cores import usable_cores
from rlhf.settings.training import EngineSettings


def set_threads(settings: EngineSettings) -> None:
    """As the settings say; else at most those that this process may use at a time.

    torch counts the machine's cores: with as many threads a container of two crawls.
    """
    threads = settings.threads or usable_cores()
    if settings.threads is not None or threads < torch.get_num_threads():
        torch.set_num_threads(threads)
