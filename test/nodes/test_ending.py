"""Nothing keeps a process from its end, whatever ROS's middleware does with Python's lock."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = "some_node: all is saved, but ROS does not let go: ended without it"
BEGIN = """
import atexit, ctypes, os, sys, threading, time
from rssm_ros.nodes import ending
ending.STANDING = 0.5
def hold(*_): ctypes.PyDLL(None).sleep(60)  # keeps Python's lock, as Fast DDS does
"""


def python(script: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", BEGIN + script]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.parametrize(
    ("held_up", "code"),
    [
        ("ending.at_the_end(hold)", 0),
        ("ending.SPINNING, ending.STANDING = 0.5, 40; ending.at_the_end(lambda: 3 ** 10**9)", 3),
        ("ending.at_the_end(int); atexit.register(hold)", 3),  # the interpreter's own end
        ("ending.at_the_end(lambda: time.sleep(60))", 0),  # held up without the lock
        ("ending.at_the_end(lambda: threading.Thread(target=hold).start() or time.sleep(60))", 3),
    ],
    ids=["leaving", "spinning", "Python's end", "asleep", "another thread"],
)
def test_who_is_held_up_ends_with_its_own_code_and_a_word(held_up: str, code: int) -> None:
    process = python(f"{held_up}\nprint('saved')\nsys.exit(ending.end('some_node', {code}))")
    told, complained = process.communicate(timeout=30)  # half of what it would take
    assert process.returncode == code and told == "saved\n"
    assert complained.startswith(WORDS) and complained.count("\n") == 1


def test_who_is_not_held_up_hears_nothing_of_it() -> None:
    leaving = "ending.at_the_end(lambda: print('left'))\nsys.exit(ending.end('some_node', 3))"
    nothing = "code = ending.end('some_node', 3)\ntime.sleep(1.0)\nsys.exit(code)"  # a command without ROS
    for script, words in ((leaving, "left\n"), (nothing, "")):
        process = python(script)
        assert process.communicate(timeout=30) == (words, "") and process.returncode == 3


@pytest.mark.ros
@pytest.mark.parametrize("held_up", [True, False])
def test_a_node_ends_with_its_work_saved(tmp_path: Path, held_up: bool) -> None:
    """A recorder: its bag is closed and its counters are written before it leaves the graph. It has left it
    before Python takes itself apart.
    """
    pytest.importorskip("rclpy")
    options = [f"-p out:={tmp_path / 'bag'}", f"-p trace:={tmp_path}", "-p autostart:=true"]
    process = python(f"""
from pathlib import Path
from rssm_ros.nodes import recorder_node, running
if {held_up}: recorder_node.RecorderNode.destroy_node = hold
else: ending.SPINNING = ending.STANDING = 20.0
def participant(): return any(p.read_text() == "dds.ev.0\\n" for p in Path("/proc/self/task").glob("*/comm"))
def live(*given): print(participant()); return lived(*given)
lived, running._live = running._live, live
sys.argv = {["recorder_node", "--ros-args", *" ".join(options).split()]}
code = recorder_node.main()
print(participant())
sys.exit(code)
""")
    while not (tmp_path / "bag" / "metadata.yaml").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)  # it is active by then, or else has its bag closed all the same
    process.send_signal(signal.SIGTERM)
    told, complained = process.communicate(timeout=40)
    assert process.returncode == 0 and told == ("True\n" if held_up else "True\nFalse\n")
    assert ("recorder_node: all is saved, but ROS does not let go" in complained) == held_up, complained
    assert (tmp_path / "recorder_node.counters.json").is_file()
