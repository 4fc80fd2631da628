"""Does `rssm evaluate` need more memory for a larger bag? Writes bags of raw 640 x 480 pictures and measures.

scripts/large_bag.py EPISODES [--gigabytes 1 10]: EPISODES is a folder of `rssm collect manipulator
--held-out`. Each bag is made of those episodes, over and over, with every picture enlarged; it is evaluated,
page and film included, in a process of its own that may not allocate more than --limit, and deleted. Exit 1
where one failed.
"""

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rssm_ros.contract import Contract, find_contract  # noqa: E402
from rssm_ros.messages import stamp_ns  # noqa: E402
from test import bags  # noqa: E402

GIGABYTE, SIZE = 10**9, (640, 480)


def enlarged(entry: bags.Entry) -> bags.Entry:
    """A picture of 640 x 480; anything else as it is."""
    if entry.type != bags.IMAGE:
        return entry
    small = np.asarray(entry.message.data).reshape(entry.message.height, entry.message.width, 3)
    large = cv2.resize(small, SIZE, interpolation=cv2.INTER_LINEAR)
    return entry._replace(message=bags.image(large, stamp_ns(entry.message.header.stamp)))


def entries(contract: Contract, folder: Path, size: float) -> Iterator[bags.Entry]:
    """Messages of about `size` bytes, one episode after the other."""
    written, first = 0, 20
    for path in itertools.cycle(sorted(folder.glob("episode-*.npz"))):
        with np.load(path) as file:
            arrays = dict(file)
        for entry in bags.episode_entries(contract, arrays, first):
            if written >= size:
                return
            made = enlarged(entry)
            written += len(made.message.data) if made.type == bags.IMAGE else 100
            yield made
        first += len(arrays["action"])
    raise SystemExit(
        f"{folder}: holds no episode-*.npz; `rssm collect manipulator --held-out --out {folder}`"
    )


def measured(bag: Path, bundle: Path, limit: float) -> tuple[int, float, float]:
    """(exit status, peak resident bytes, processor seconds) of one evaluation."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * GIGABYTE),) * 2)

    words = ["evaluate", str(bag), "--bundle", str(bundle), "--workers", "1", "--no-checks"]
    command = [sys.executable, "-m", "rssm_ros.cli.main", *words, "--out", str(bag.parent / "card")]
    # One thread: every other one reserves memory of its own.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, preexec_fn=limited) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_maxrss * 1024.0, used.ru_utime + used.ru_stime


def main() -> int:
    """Writes, measures, deletes, tells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("episodes", type=Path)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "models/manipulator")
    parser.add_argument(
        "--limit", type=float, default=2.0, help="GB that the evaluation may allocate (default 2)"
    )
    parser.add_argument("--how", default="mcap", help="mcap, mcap+zstd or db3 (default mcap)")
    given = parser.parse_args()
    contract, failed = find_contract("manipulator"), 0
    for wanted in given.gigabytes:
        with tempfile.TemporaryDirectory(prefix="rssm-large-") as folder:
            bag = bags.write(
                Path(folder) / "bag", entries(contract, given.episodes, wanted * GIGABYTE), given.how
            )
            size = sum(file.stat().st_size for file in bag.iterdir())
            code, peak, seconds = measured(bag, given.bundle, given.limit)
        failed += code != 0
        print(
            f"{size / GIGABYTE:.2f} GB: exit {code}, peak {peak / 1e6:.0f} MB, {seconds:.0f} s of processor",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
