import subprocess
import sys

KEPT = """
import psutil, torch
from rlhf.common.memory import release
blocks = [torch.ones(2_000_000) for _ in range(50)]  # 400 MB
last = torch.ones(2_000_000)
del blocks
before = psutil.Process().memory_info().rss
release()
print(before - psutil.Process().memory_info().rss)
"""


def test_free_blocks_go_back_to_the_system() -> None:
    tunables = {
        "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592"
    }
    done = subprocess.run(
        [sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, env=tunables
    )
    assert int(done.stdout) > 300_000_000
