"""scripts/mutations.py breaks the package in a copy: run by hand, since it takes minutes; it must not rot."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def mutations(checkout: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", checkout / "scripts" / "mutations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up annotations
    spec.loader.exec_module(module)
    return module


def test_every_mutation_still_applies_and_compiles(checkout: Path, mutations: ModuleType) -> None:
    """A line that was rewritten: say in scripts/mutations.py how to break the new one."""
    for mutation in mutations.MUTATIONS:
        text = (checkout / mutation.file).read_text()
        assert text.count(mutation.old) == 1, f"{mutation.what}: {mutation.file} has no line {mutation.old!r}"
        compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")


def test_what_must_be_noticed_is_among_them_and_written_down(checkout: Path, mutations: ModuleType) -> None:
    groups = {mutation.group for mutation in mutations.MUTATIONS}
    assert {"unimix", "reset", "block layout", "free nats"} <= groups
    page = (checkout / "docs" / "reference" / "parity.md").read_text().split(mutations.HEADING)[1]
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert [row.split(" | ")[1] for row in rows] == [mutation.what for mutation in mutations.MUTATIONS]
    assert "survives" not in page


def test_a_mutation_that_a_test_notices_and_one_that_none_does(tmp_path: Path, mutations: ModuleType) -> None:
    """The script itself, on a package of one line."""
    (tmp_path / "code_under_test.py").write_text("ANSWER = 42  # of everything\n")
    (tmp_path / "test_code.py").write_text(
        "from code_under_test import ANSWER\n\n\ndef test_answer():\n    assert ANSWER == 42\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    found = []
    for old, new in (("42", "41"), ("everything", "nothing")):
        mutation = mutations.Mutation("", "", "code_under_test.py", old, new)
        found.append(mutations.run_with(tmp_path, mutation, ("test_code.py",)))
    assert found == ["test_code.py::test_answer", ""]
    with pytest.raises(RuntimeError, match="0 places"):
        mutations.run_with(tmp_path, mutations.Mutation("", "", "code_under_test.py", "43", "1"), ())
    assert (tmp_path / "code_under_test.py").read_text() == "ANSWER = 42  # of everything\n"
