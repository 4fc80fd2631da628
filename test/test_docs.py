"""The documentation's promises that a machine can check."""

import re
import runpy
from pathlib import Path

import pytest

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def pages(checkout: Path) -> list[Path]:
    return [checkout / "README.md", checkout / "CONTRIBUTING.md", *sorted((checkout / "docs").rglob("*.md"))]


def test_no_link_leads_nowhere(checkout: Path) -> None:
    broken = []
    for page in pages(checkout):
        for target in LINK.findall(page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(checkout)}: {target}")
    assert not broken


def test_every_page_can_be_reached_from_the_index(checkout: Path) -> None:
    index = (checkout / "docs" / "README.md").read_text()
    listed = set(LINK.findall(index)) | {"README.md"}
    docs = checkout / "docs"
    found = {str(page.relative_to(docs)) for kind in ("md", "html") for page in docs.rglob(f"*.{kind}")}
    assert found == listed


def test_the_readme_says_what_every_folder_is_for(checkout: Path) -> None:
    table = (checkout / "README.md").read_text()
    made = {"build", "install", "log", "out", "data", "runs", "rssm_ros", "rssm_ros.egg-info"}
    folders = {path.parent.name for path in checkout.glob("[!.]*/*")} - made
    folders |= {f"rssm_ros/{path.parent.name}" for path in checkout.glob("rssm_ros/*/__init__.py")}
    missing = {name for name in folders if f"`{name}/`" not in table}
    assert not missing


@pytest.mark.parametrize("page", ["commands.md", "parameters.md"])
def test_generated_pages_are_up_to_date(checkout: Path, page: str) -> None:
    module = runpy.run_path(str(checkout / "scripts" / "reference.py"))
    assert module["PAGES"][page]() == (checkout / "docs/reference" / page).read_text(), "run: make docs"


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_leads_with_a_picture_and_the_two_commands(checkout: Path, command: str) -> None:
    top = (checkout / "README.md").read_text().splitlines()[:30]
    assert any(line.startswith("![") for line in top[:5])
    assert any(line.startswith(command) for line in top)
