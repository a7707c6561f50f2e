"""Every target of `fuzz` under input that was made to break it: nothing but the defined errors, and no more memory than
the input accounts for."""

import random
import struct
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from totalog.engine.core_build import ROOT
from totalog.gateway import apis
from totalog.gateway.apis.api import FRAME_SIZE_MAX
from totalog.gateway.broker import Broker
from totalog.gateway.limits import ELEMENTS_COUNT_MAX
from totalog.gateway.tests.fuzz import __main__ as fuzz
from totalog.gateway.tests.fuzz import native
from totalog.gateway.tests.fuzz.mutate import INTEGERS, mutated
from totalog.gateway.tests.fuzz.targets import TARGETS, Target
from totalog.gateway.tests.harness import dispatch, make_request
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ProtocolViolation

MIB = 1 << 20
SEEDS = {name: list(target.seeds()) for name, target in TARGETS.items()}
CPU_S_MAX = 2.0
"""Of processor time for what took minutes with a decoder that looks at everything again for each byte."""

EACH = pytest.mark.parametrize("name", TARGETS)


def peak(target: Target, data: bytes) -> int:
    """Bytes that handling the input takes at most, above what there was before. The first time of two may take more: a
    version's decoder is made when it is first used, and a broker anew when it has too many topics."""
    peaks = []
    for _ in range(2):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        target.run(data)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        if peaks[-1] <= MIB:
            break
    return min(peaks)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@EACH
def test_sound_input_and_every_start_of_it(name: str) -> None:
    for data in SEEDS[name]:
        TARGETS[name].run(data)
    for data in SEEDS[name][:: max(1, len(SEEDS[name]) // 12)]:
        for size in range(0, len(data), max(1, len(data) // 300)):
            TARGETS[name].run(data[:size])


@EACH
@given(seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_mutated_input_raises_nothing_and_takes_no_memory(traced: None, name: str, seed: int) -> None:
    """At most four times the input, and a MiB for what a broker always needs."""
    chance = random.Random(seed)
    data = mutated(chance.choice(SEEDS[name]), chance, SEEDS[name])
    assert peak(TARGETS[name], data) <= 4 * len(data) + MIB, (len(data), data[:60])


@EACH
def test_no_number_at_any_place_makes_memory(traced: None, name: str) -> None:
    """Whatever it stands for: a length, a count, a size, in either encoding."""
    chance = random.Random(17)
    for data in chance.sample(SEEDS[name], 3):
        data = data[:400]
        for at in range(0, len(data), max(1, len(data) // 40)):
            for number in INTEGERS:
                for blown in (struct.pack(">i", number), b"\xff\xff\xff\xff\x07", b"\xff\xff\x03"):
                    changed = data[:at] + blown + data[at + len(blown) :]
                    assert peak(TARGETS[name], changed) <= 4 * len(changed) + MIB, (at, blown)


def kept() -> list[tuple[str, Path]]:
    return [(path.parent.name, path) for path in sorted(fuzz.CORPUS.glob("*/*")) if path.parent.name in TARGETS]


@pytest.mark.parametrize(("name", "path"), kept(), ids=lambda value: value if isinstance(value, str) else value.name)
def test_what_was_found_once_is_mended(name: str, path: Path) -> None:
    TARGETS[name].run(path.read_bytes())


def test_the_c_parts_under_what_was_kept_and_its_mutations(tmp_path: Path) -> None:
    """By the same function that libFuzzer calls, in a program of the ordinary compiler."""
    chance, seeds = random.Random(17), list(native.seeds())
    inputs = [*seeds, *(mutated(chance.choice(seeds), chance, seeds) for _ in range(1000))]
    for number, data in enumerate(inputs):
        (tmp_path / f"{number:04}").write_bytes(data)
    kept_files = sorted((fuzz.CORPUS / fuzz.NATIVE).iterdir())
    assert len(kept_files) > 50
    native.replay([*kept_files, *sorted(tmp_path.iterdir())])


def test_the_program_in_c_says_what_does_not_hold(tmp_path: Path) -> None:
    """A planted fault, of a check that does not store what it says: otherwise its silence would mean nothing."""
    source = (ROOT / "gateway/wire/batch.c").read_text()
    broken = source.replace("    append->status = status;\n", "")
    assert broken != source
    (tmp_path / "batch.c").write_text(broken.replace('"../../', f'"{ROOT}/'))
    for name in ("batch.h", "big_endian.h"):
        (tmp_path / name).write_text((ROOT / "gateway/wire" / name).read_text())
    harness, _, *others = native.SOURCES
    program = native.compiled("planted", ["cc"], ["-DREPLAY"], [harness, str(tmp_path / "batch.c"), *others])
    assert program is not None
    (tmp_path / "input").write_bytes(bytes([native.BATCH, 0]) + bytes(100))
    done = subprocess.run([program, tmp_path / "input"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "does not hold: append->status == status" in done.stderr


def test_each_target_can_be_searched() -> None:
    assert set(fuzz.NAMES) == {*TARGETS, fuzz.NATIVE}


def test_a_finding_is_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search finds a planted fault: otherwise its silence would mean nothing."""

    def breaks(data: bytes) -> None:
        assert b"\xff" not in data

    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setitem(TARGETS, "planted", Target(breaks, lambda: iter([b"good" * 10])))
    with pytest.raises(AssertionError):
        fuzz.at_random("planted", 30.0)
    (found,) = tmp_path.glob("planted/*")
    assert b"\xff" in found.read_bytes()


# What was quadratic or oversized with the library alone


def decode(key: int, version: int, body: bytes) -> None:
    codec.decode(key, version, memoryview(body))


def test_a_varint_without_an_end_is_not_read_to_its_end(broker: Broker) -> None:
    """A string length of a million 0xff took 28 seconds."""
    body = b"\xff" * MIB
    started = time.process_time()
    for api in apis.TABLE.values():
        if api.flexible_from <= api.max_version:
            with pytest.raises(ProtocolViolation):
                dispatch(broker, make_request(api.key, api.max_version, body))
    assert time.process_time() - started < CPU_S_MAX


def test_an_unknown_tag_in_each_element_is_not_copied_with_the_rest(traced: None) -> None:
    """600 KB of topics with a tag each took 0.6 s, growing with the square: the rest of the frame was copied for each.
    They may be 32 in all."""
    topic = b"\x02a" + b"\x01\x07\x00"  # a name, and one tagged field without contents
    count = 100_000
    body = codec_count(count) + topic * count + b"\x00\x00\x00\x00"
    started = time.process_time()
    for key, version in ((32, 4), (9, 6)):
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(ProtocolViolation):
            decode(key, version, body if key == 32 else b"\x02g" + body)
        assert tracemalloc.get_traced_memory()[1] - before < 4 * len(body) + MIB
    assert time.process_time() - started < CPU_S_MAX


def codec_count(number: int) -> bytes:
    number += 1
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def test_many_tiny_elements_are_refused_before_they_are_objects(traced: None) -> None:
    """A frame of 3 MB with a topic in every three bytes took 0.7 s and 81 MiB. Frames of most APIs end at 256 KiB, and
    all arrays of a message together have a limit."""
    count = ELEMENTS_COUNT_MAX + 1
    body = b"\x02g" + codec_count(count) + b"\x02a\x01\x00" * count + b"\x00"
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(ProtocolViolation, match="array elements"):
        decode(9, 6, body)
    assert tracemalloc.get_traced_memory()[1] - before < 4 * len(body) + MIB
    larger = {api.name for api in apis.TABLE.values() if api.frame_size_max > FRAME_SIZE_MAX}
    assert larger == {"Produce", "Fetch", "JoinGroup", "SyncGroup", "OffsetCommit", "OffsetFetch"}
