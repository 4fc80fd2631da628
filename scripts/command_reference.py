"""Writes docs/reference/commands.md from the commands' own parsers: `make docs`."""

import argparse
import importlib
import sys
from pathlib import Path

from rssm_ros.cli.main import COMMANDS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "commands.md"
HEAD = """<!-- Written by `make docs`; edit the commands' parsers instead. -->
# Commands

Every command is a word behind `rssm`: `.venv/bin/rssm` after `make`, `ros2 run rssm_ros rssm` after
`colcon build`. Exit codes: 0 pass, 1 a check failed, 2 usage or environment. `rssm COMMAND --help` says the
same as this page.

| command | does |
|---|---|
"""


def page() -> str:
    """The whole page as Markdown."""
    index = "".join(f"| [`rssm {name}`](#rssm-{name}) | {text} |\n" for name, text in COMMANDS.items())
    return HEAD + index + "".join(section(name) for name in COMMANDS)


def section(name: str) -> str:
    """One command: its description and a table of its arguments."""
    subparsers = argparse.ArgumentParser(prog="rssm").add_subparsers()
    importlib.import_module(f"rssm_ros.cli.{name.replace('-', '_')}").add_parser(subparsers)
    parser = subparsers.choices[name]
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    description = " ".join((parser.description or COMMANDS[name]).split())
    text = f"\n## rssm {name}\n{description}\n"
    if actions:
        text += "\n| argument | meaning |\n|---|---|\n"
        text += "".join(f"| {_flags(action)} | {_meaning(parser, action)} |\n" for action in actions)
    return text


def _flags(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices and not action.metavar:
        value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    if isinstance(value, tuple):
        value = " ".join(value)
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{flag}{takes}`".replace("|", "\\|") for flag in action.option_strings)


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog} if action.help else ""
    worth = action.default not in (None, argparse.SUPPRESS, "")
    if worth and action.option_strings and action.nargs != 0 and "default" not in text:
        text += f" (default {action.default})"
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    written = page()
    if "--check" in sys.argv:
        sys.exit(written != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(written, encoding="utf-8")
    print(f"wrote {PAGE.name}")
