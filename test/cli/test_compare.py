import json
from pathlib import Path

import pytest

from rssm_ros.cli.main import main
from test.scorecards import made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = {"base": {}, "better": {"error": 0.01}, "worse": {"error": 0.04}}
    folder = tmp_path_factory.mktemp("runs")
    return {name: made(ticks=120, **kind).write(folder / name) for name, kind in kinds.items()}


def test_a_table_for_people(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs["base"]), str(runs["better"] / "scorecard.json")]) == 0
    text = capsys.readouterr().out
    assert "RMSE hidden, cm" in text and "paired" in text
    assert "better: the same 6 episodes, so differences are paired." in text
    assert "clearly worse in 0." in " ".join(text.split())


def test_json_for_programs(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", *(str(path) for path in runs.values())]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in found["runs"]] == ["base", "better", "worse"]
    hidden = next(row for row in found["rows"] if row["measure"].startswith("RMSE hidden"))
    better, worse = hidden["differences"]
    assert better["better"] is True and worse["better"] is False
    assert better["value"] == pytest.approx(hidden["figures"][1]["value"] - hidden["figures"][0]["value"])
    assert better["ci95"][0] <= better["value"] <= better["ci95"][1] < 0
    assert any("RMSE hidden" in told for told in found["worse"])


def test_exit_codes(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    base, better, worse = (str(runs[name]) for name in ("base", "better", "worse"))
    assert main(["compare", "--fail-if-worse", base, better]) == 0
    assert main(["compare", base, worse]) == 0
    assert main(["compare", "--fail-if-worse", base, worse]) == 1
    assert "clearly worse: worse: package, RMSE hidden" in capsys.readouterr().err
    assert main(["compare", base]) == 2
    assert "two scorecards or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("not JSON", "not valid JSON"),
        ("[]", "schema is None"),
        ('{"schema": 99}', "schema is 99"),
        ('{"schema": 1, "status": "pass"}', "misses or misspells"),
    ],
)
def test_a_wrong_file_is_named(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, told: str
) -> None:
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    assert main(["compare", str(runs["base"]), str(path)]) == 2
    error = capsys.readouterr().err
    assert "wrong.json" in error and told in error and "Traceback" not in error


def test_a_page(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jinja2")
    page = tmp_path / "new" / "compare.html"
    assert main(["compare", *(str(path) for path in runs.values()), "--html", str(page)]) == 0
    text = page.read_text()
    assert (
        "http" not in text.replace("http://www.w3.org/2000/svg", "")
        and "aria-sort" in text
        and "better less base" in text
    )
    assert text.count('class="forest"') > 20
