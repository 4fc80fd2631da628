"""The acceptance table compares like with like, and every row that has a bound is held to it."""

from dataclasses import replace

import pytest

from rssm_ros.contract import HIDDEN, find_contract
from rssm_ros.envs import acceptance, policies
from rssm_ros.envs.acceptance import ROWS, Run


class Forgetful(policies.DeadReckoning):
    """Believes on every other hidden tick only."""

    def reset(self) -> None:
        super().reset()
        self.ticks = 0

    def update(self, truth, visibility):
        believed = super().update(truth, visibility)
        self.ticks += truth.package is not None and visibility <= HIDDEN
        return replace(believed, package=None) if self.ticks % 2 else believed


def test_trackers_are_compared_on_the_same_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that forgets what is hard must not look better for it, and must be told about."""
    watchers = {"belt_informed": policies.DeadReckoning(belt=True), "forgetful": Forgetful(belt=True)}
    monkeypatch.setattr(policies, "trackers", lambda: watchers)
    run = acceptance.run_one(("expert", 0, 8.0))
    assert run.hidden_ticks >= 20
    assert run.errors["belt_informed"] == run.errors["forgetful"]
    assert run.forgot["forgetful"] >= run.hidden_ticks // 2
    assert len(run.errors["forgetful"]) <= run.hidden_ticks - run.forgot["forgetful"]


def runs(random: int = 0) -> list[Run]:
    """100 packages a policy; the expert sorts all, of two hidden ticks one is compared."""
    counts = {"expert": 100, "belt_informed": 97, "constant_velocity": 60, "memoryless": 30}
    made = []
    for name in ROWS:
        sorted_ = random if name == "random" else counts.get(name, 0)
        run = Run(name, 0, packages=100, sorted=sorted_, wrong=0, missed=100 - sorted_, tipped=False)
        if name == "expert":
            run.errors = {"belt_informed": [0.01], "constant_velocity": [0.1]}
            run.forgot = {"belt_informed": 0, "constant_velocity": 1}
            run.hidden_ticks = 2
        made.append(run)
    return made


def test_errors_are_root_mean_squares() -> None:
    made = runs()
    made[0].errors = {"belt_informed": [0.0, 0.02], "constant_velocity": [0.1, 0.1]}
    assert acceptance.summarise(made)["hidden_error_m"]["belt_informed"] == pytest.approx(0.02 / 2**0.5)


@pytest.mark.parametrize(("random", "passes"), [(6, True), (7, False)])
def test_chance_is_held_to_its_bound(random: int, passes: bool) -> None:
    summary = acceptance.summarise(runs(random))
    failed = [check["name"] for check in summary["checks"] if not check["passed"]]
    assert failed == ([] if passes else ["random, share of packages sorted"])


def test_the_page_says_what_was_compared() -> None:
    summary = acceptance.summarise(runs()) | {
        "speed": {"ticks_per_s": 1.0, "realtime": 1.0, "ticks_per_cpu_s": 1.0},
        "machine": {"cpu": "x"},
    }
    page = acceptance.markdown(summary, "rssm scene", 1, 1.0)
    assert ": 50.0%." in page and "| constant velocity | 0.1000 | 50.0% |" in page


def test_policies_take_the_rate_from_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = find_contract("manipulator")
    monkeypatch.setattr(policies, "find_contract", lambda name: replace(shipped, rate=shipped.rate / 2))
    assert policies.DeadReckoning(belt=True)._dt == pytest.approx(0.1)
    assert policies.RandomPolicy(smooth=0.1)._keep == pytest.approx(0.36788, rel=1e-4)
