import os
import subprocess
import sys
import time
from pathlib import Path

POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from rssm_ros.workers import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        list(pool.map(abs, range(8)))
        print(*pool._processes, flush=True)
        time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """`rssm collect` killed by a signal left its simulators running, each with its GL context."""
    (tmp_path / "pool.py").write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "pool.py")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers and all(alive(pid) for pid in workers)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in workers)
