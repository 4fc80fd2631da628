"""scripts/compare_models.py: scores of several seeds in one table."""

import json
import runpy


def test_a_line_per_kind_with_the_mean_and_the_range_of_its_seeds(checkout, tmp_path):
    table = runpy.run_path(str(checkout / "scripts" / "compare_models.py"))["table"]
    for run, hidden in {"concat-0": 3.0, "concat-1": 5.0, "concat-alone-0": 7.0}.items():
        (tmp_path / run).mkdir()
        errors = {"hidden": {"value": hidden}, "visible": {"value": 0.5}}
        report = {"rmse_px": {"bundle": errors}, "ratio": {"exact": {"value": hidden / 2}}}
        (tmp_path / run / "dot.json").write_text(json.dumps(report))
    (tmp_path / "concat-2").mkdir()  # not scored yet
    assert table(tmp_path).splitlines()[2:] == [
        "| concat | 2 | 4 (3 to 5) | 0.5 (0.5 to 0.5) | 2 (1.5 to 2.5) |",
        "| concat-alone | 1 | 7 (7 to 7) | 0.5 (0.5 to 0.5) | 3.5 (3.5 to 3.5) |",
    ]
