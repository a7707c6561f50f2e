"""Clients that do wrong are told of, and cannot fill a disk with it."""

import logging

import pytest

from totalog.gateway.complaints import HOSTS_MAX, INTERVAL_S, LINES_MAX, TEXT_LENGTH_MAX, Complaints


class Clock:
    time = 1000.0


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "totalog")
    return caplog


def test_a_few_lines_of_each_host_and_then_a_count(lines: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    complaints = Complaints(lambda: clock.time)
    for number in range(1000):
        complaints.tell("a", f"a:{number}: closed")
        complaints.sum_up()
    complaints.tell("b", "b:1: closed", logging.INFO)
    assert lines.messages == [f"a:{number}: closed" for number in range(LINES_MAX)] + ["b:1: closed"]
    assert lines.records[-1].levelno == logging.INFO
    lines.clear()
    clock.time += INTERVAL_S
    complaints.sum_up()
    assert lines.messages == [f"a: {1000 - LINES_MAX} more lines like these were left out"]
    complaints.tell("a", "a:1000: closed")
    assert lines.messages[1:] == ["a:1000: closed"]


def test_hosts_beyond_number_share_their_lines(lines: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    complaints = Complaints(lambda: clock.time)
    for number in range(3 * HOSTS_MAX):
        complaints.tell(f"host{number}", "closed")
    assert len(lines.messages) == HOSTS_MAX + LINES_MAX
    assert len(complaints._hosts) == HOSTS_MAX + 1
    clock.time += INTERVAL_S
    complaints.sum_up()
    assert lines.messages[-1] == f"other hosts: {2 * HOSTS_MAX - LINES_MAX} more lines like these were left out"
    assert complaints._hosts == {}


def test_what_a_client_sent_is_one_line_of_bounded_length(lines: pytest.LogCaptureFixture) -> None:
    Complaints().tell("a", "a\nERROR all is lost \x1b[31m\u202e" + "x" * 40_000)
    (line,) = lines.messages
    assert line.isprintable()
    assert len(line) == TEXT_LENGTH_MAX + 3
