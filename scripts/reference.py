"""Writes the generated pages of docs/reference from parsers and parameter descriptions: `make docs`."""

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rssm_ros.cli.main import COMMANDS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NODES = (
    "sim_node",
    "filter_node",
    "planner_node",
    "gate_node",
    "monitor_node",
    "player_node",
    "recorder_node",
)
HEAD = """<!-- Written by `make docs`; edit the commands' parsers instead. -->
# Commands

Every command is a word behind `rssm`: `.venv/bin/rssm` after `make`, `ros2 run rssm_ros rssm` after
`colcon build`. Exit codes: 0 pass, 1 a check failed, 2 usage or environment, 130 stopped before it was done.
`rssm COMMAND --help` says the same as this page.

| command | does |
|---|---|
"""


def commands() -> str:
    """The commands, as Markdown."""
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


def parameters() -> str:
    """The nodes' parameters, as Markdown."""
    from rssm_ros.nodes.managed import ManagedNode
    from rssm_ros.nodes.parameters import COMMON

    text = "<!-- Written by `make docs`; edit the nodes' descriptions instead. -->\n# Parameters\n\n"
    text += "`ros2 param describe` says the same. They are read when a node is configured, and "
    text += "`ros2 param set` refuses to change them after that, but for those that say so.\n"
    text += "\n## every node\n" + _table(COMMON)
    for name in NODES:
        module = importlib.import_module(f"rssm_ros.nodes.{name}")
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
        node = next(k for k in kinds if issubclass(k, ManagedNode) and k is not ManagedNode)
        text += f"\n## {name}\n{_table(node.parameters)}"
    return text


def _table(described: Sequence[Any]) -> str:
    text = "\n| parameter | default | range | meaning |\n|---|---|---|---|\n"
    for item in described:
        bounds = f"{item.low:g} to {item.high:g}" if item.low is not None else ", ".join(item.choices)
        text += f"| `{item.name}` | `{json.dumps(item.default)}` | {bounds} | {item.told} |\n"
    return text


PAGES: dict[str, Callable[[], str]] = {"commands.md": commands, "parameters.md": parameters}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (FOLDER / file).write_text(page(), encoding="utf-8")
        print(f"wrote docs/reference/{file}")
