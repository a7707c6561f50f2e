"""What `totalog bench --profile` makes of what other tools write, and which process it looks at."""

import os
import socket
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from totalog.gateway.bench import flame, local, profile


@pytest.mark.parametrize(
    ("family", "bound", "asked"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
)
def test_the_process_that_listens_is_found(family: int, bound: str, asked: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((bound, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listener.listen()
        port = listener.getsockname()[1]
        assert local.process_of(asked, port) == os.getpid()
    with pytest.raises(OSError, match="refused"):
        local.process_of(asked, port)


def test_counts_are_read_as_perf_writes_them() -> None:
    lines = [
        "# started on Mon Nov 30 11:16:51 2026",
        "",
        "<not supported>,,cache-misses,0,100.00,,",
        "<not counted>,,branch-misses:u,0,100.00,,",
        "123456,,instructions:u,370869190,100.00,0.94,insn per cycle",
        "370.87,msec,task-clock,370869190,100.00,0.369,CPUs utilized",
        "what: ever",
    ]
    expected = {"cache-misses": None, "branch-misses": None, "instructions": 123456.0, "task-clock": 370.87}
    assert profile.parse_counts(lines) == expected
    with pytest.raises(profile.CannotProfile):
        profile.parse_counts(lines[:2])


def test_stacks_are_read_as_perf_writes_them() -> None:
    text = (
        "totalog \n\tffffffff8226e639 tcp_sendmsg\n\t          10ac4d __libc_sendmsg\n\n"
        "replica /mnt/a b \n\t               0 [unknown]\n\t 5\n\n"
        "totalog \n\n"
        "totalog \n\tffffffff8226e639 tcp_sendmsg\n\t          10ac4d __libc_sendmsg\n"
    )
    assert profile.parse_script(text.splitlines()) == {
        ("totalog", "__libc_sendmsg", "tcp_sendmsg"): 2,
        ("replica /mnt/a b", "[unknown]", "[unknown]"): 1,
    }
    with pytest.raises(profile.CannotProfile):
        profile.parse_script([])


def test_stacks_are_read_as_py_spy_writes_them() -> None:
    assert profile.parse_folded(["main (cli.py:1);run (a b.py:2) 21", "main (cli.py:1) 2", "", "no number"]) == {
        ("main (cli.py:1)", "run (a b.py:2)"): 21,
        ("main (cli.py:1)",): 2,
    }
    with pytest.raises(profile.CannotProfile):
        profile.parse_folded(["py-spy took none"])


def test_a_box_is_as_wide_as_its_share_and_stands_on_its_caller(tmp_path: Path) -> None:
    stacks = Counter({("t", "main", "read"): 3, ("t", "main", "write"): 1, ("t", "idle"): 4, ("t", "rare"): 0})
    stacks += Counter({("t", *(f"deep {depth}" for depth in range(3000))): 8})
    flame.write(tmp_path / "flame.svg", stacks, "a <title>")
    assert flame.top(stacks, 2) == [("deep 2999", 0.5), ("idle", 0.25)]
    boxes = {}
    for group in ElementTree.parse(tmp_path / "flame.svg").iter("{http://www.w3.org/2000/svg}g"):
        title, rectangle = group[0].text or "", group[1]
        boxes[title.rpartition(",")[0]] = {name: float(rectangle.get(name, "")) for name in ("x", "y", "width")}
    assert boxes["all"]["width"] == flame.WIDTH
    assert (boxes["main"]["width"], boxes["read"]["width"]) == (flame.WIDTH / 4, flame.WIDTH * 3 / 16)
    assert boxes["read"]["y"] == boxes["write"]["y"] == boxes["main"]["y"] - flame.ROW
    assert boxes["write"]["x"] == boxes["read"]["x"] + boxes["read"]["width"]
    assert "rare" not in boxes
    assert len(boxes) == 3006
