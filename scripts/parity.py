"""Measures every comparison with DreamerV3 and writes docs/reference/parity.md.

    OMP_NUM_THREADS=1 python scripts/parity.py           # the page on the terminal
    OMP_NUM_THREADS=1 python scripts/parity.py --write   # into docs/reference; its mutation table stays

The list is test/world_model/comparisons.py: what the tests assert on every submission.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # before the standard library, which has a package "test" too

import numpy as np  # noqa: E402
import torch  # noqa: E402

from rssm_ros import provenance  # noqa: E402
from test.world_model import comparisons, golden, peers  # noqa: E402
from test.world_model.comparisons import Compared  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "parity.md"
KEPT = "## Mutations"  # written by scripts/mutations.py
UNITS = {"largest": "", "each": " (of each value)", "rate": " x lr"}
HEAD = """<!-- Written by `python scripts/parity.py --write` and `python scripts/mutations.py --write`. -->
# Parity with DreamerV3

`rssm_ros.world_model.port.from_dreamerv3` takes the official parameters (danijar/dreamerv3 at e3f0224) under
their own names and in their own layouts, for every preset and observation spec. What it then computes is held
against a recorded run of the official code (`test/data/dreamerv3_golden.npz`), against float64 numpy that is
written from the definition at other sizes (`test/world_model/reference.py`, itself held against the recorded
run), and against numbers that other projects' tests state (`test/data/peer_vectors.json`). All of it is
asserted on every submission by `test/world_model/test_parity.py`, `test_port.py` and `test_peer_vectors.py`;
these tables are what it measured once.

Official parameters are arrays by name: the `params` of an agent, or of its checkpoint. After
`numpy.savez("params.npz", **agent.params)` where JAX is installed, here:
```python
from rssm_ros.world_model import preset
from rssm_ros.world_model.port import from_dreamerv3, observations_of

params = dict(numpy.load("params.npz"))
model = from_dreamerv3(params, preset("size12m"))
observations = observations_of(params)  # or Observations(...): discrete vectors, several or oblong images
beliefs = model.observe(model.tokens(observations.merge(raw), presence), ...)
```
The official encoder joins all vectors and all images, so a ported model has one modality of each kind, and
`Observations.merge` joins raw observations as it does. Actor and critic: `rssm_ros.behavior.port`. Refused:
the official option `strided` (its padding is one pixel off from torch's) and policies over discrete actions.

Hand-derived beside the record, which lacks them: KL of (0.2, 2.6) nats with a mean of 1.8
(`test/world_model/test_losses.py`), imagination loss, replay value loss, return normalisation and slow critic
(`test/behavior`). Exact parameter counts of every preset: `test_port.py`.

An error is the largest difference relative to the tensor's largest value, where it does not say otherwise.
"""


def recorded(found: Iterable[Compared]) -> str:
    """One row per recorded array and route."""
    lines = ["| array | by | bound | error |", "|---|---|---|---|"]
    for item in found:
        unit = UNITS[item.unit]
        lines.append(f"| `{item.name}` | {item.route} | {item.bound:.0e}{unit} | {item.error:.1e} |")
    return "\n".join(lines) + "\n"


def others(cases: dict[str, list[Compared]]) -> str:
    """One row per quantity, one column per network."""
    names = list(dict.fromkeys(item.name for found in cases.values() for item in found))
    lines = ["| | " + " | ".join(cases) + " |", "|---|" + "---|" * len(cases)]
    for name in names:
        row = [next((item for item in found if item.name == name), None) for found in cases.values()]
        cells = ["" if item is None else f"{item.error:.1e} of {item.bound:.0e}" for item in row]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    exact = [comparisons.other_size(case, exact=True) for case in cases]
    largest = [f"{max(item.error for item in found):.1e} of {found[0].bound:.0e}" for found in exact]
    lines.append("| *the largest of all, both in float64* | " + " | ".join(largest) + " |")
    return "\n".join(lines) + "\n"


def stated() -> str:
    """One row per number that a peer states, and the entries that have no counterpart."""
    lines = ["| entry | stated by | what | tolerance | error |", "|---|---|---|---|---|"]
    for name, entry in peers.PEERS.items():
        if name not in peers.PROVEN:
            continue
        source = "; ".join(part["src"] for part in (entry if isinstance(entry, list) else [entry]))
        for number, item in enumerate(peers.PROVEN[name](entry)):
            assert item.holds, (name, item)
            first = (f"`{name}`", source) if number == 0 else ("", "")
            terms = [f"{item.atol:.0e}"] if item.atol else []
            terms += [f"{item.rtol:.0e} x value"] if item.rtol else []
            row = (*first, item.what, " + ".join(terms) or "exactly", f"{item.error:.1e}")
            lines.append("| " + " | ".join(row) + " |")
    lines += [f"| `{name}` | | not compared: {why} | | |" for name, why in peers.WITHOUT_COUNTERPART.items()]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Everything but the mutations."""
    found = comparisons.recorded(golden.load())
    cases = {case: comparisons.other_size(case) for case in comparisons.CASES}
    everything = [*found, *(item for items in cases.values() for item in items)]
    off = [item for item in everything if not item.error <= item.bound]
    assert not off, [(item.name, item.route, item.error) for item in off]
    count = "threads" if torch.get_num_threads() > 1 else "thread"
    where = (
        f"Measured in float32 on {provenance.hardware()}, {torch.get_num_threads()} {count}, "
        f"Python {sys.version.split()[0]}, torch {torch.__version__.split('+')[0]}, numpy {np.__version__}: "
        f"{len(everything)} comparisons, all within their bounds.\n"
    )
    return "\n".join(
        (
            HEAD,
            where,
            "## The recorded run",
            "By: how ours came about. *Tick by tick* starts every tick from the recorded state; *observe* "
            "filters the whole\nsequence from raw observations. Logits are compared before unimix, "
            "probabilities after it.\n",
            recorded(found),
            "## Other sizes",
            "Random parameters in the official layout, through `from_dreamerv3`: error of bound, ours in "
            "float32 against\nfloat64. In the last row ours is in float64 too: nothing is left but rounding, "
            "so that no constant is off.\n",
            others(cases),
            "## Peers' numbers",
            "Absolute errors; the tolerance is the peer's, or 1e-6 where it states none.\n",
            stated(),
        )
    )


def main() -> None:
    """Print the page or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    text = page()
    if not parser.parse_args().write:
        print(text)
        return
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    kept = old[old.index(KEPT) :] if KEPT in old else ""
    PAGE.write_text(f"{text}\n{kept}" if kept else text, encoding="utf-8")


if __name__ == "__main__":
    main()
