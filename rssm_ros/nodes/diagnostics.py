"""Counters as diagnostics, once a second."""

import time
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from rssm_ros.nodes.interfaces import COMMANDS

PERIOD = 1.0  # s
LEVELS = {"ok": DiagnosticStatus.OK, "warn": DiagnosticStatus.WARN, "error": DiagnosticStatus.ERROR}


class Diagnostics:
    """One status on /diagnostics, for robot monitors and for the bag."""

    def __init__(self, node: Any, name: str, hardware: str = "") -> None:
        self._node, self._name, self._hardware = node, f"{node.get_name()}: {name}", hardware
        self._output = node.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", COMMANDS)
        self._due = 0.0

    @property
    def due(self) -> bool:
        """Whether a second has passed since the last time: for those who count what they tell first."""
        return time.monotonic() >= self._due

    def publish(self, values: Mapping[str, Any], message: str = "ok", level: str = "ok") -> None:
        """Publishes when a second has passed since the last time. level: ok, warn or error."""
        if not self.due:
            return
        self._due = time.monotonic() + PERIOD
        status = DiagnosticStatus(name=self._name, message=message, hardware_id=self._hardware)
        status.level = LEVELS[level]
        status.values = [KeyValue(key=str(key), value=str(value)) for key, value in sorted(values.items())]
        report = DiagnosticArray(status=[status])
        report.header.stamp = self._node.get_clock().now().to_msg()
        self._output.publish(report)
