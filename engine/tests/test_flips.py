"""A flipped bit in an index page is refused when the region is attached, or ends no process that uses it."""

import random
import subprocess
import sys
from pathlib import Path

COUNT = 100


def test_no_flipped_bit_of_an_index_ends_a_process(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    words = [sys.executable, "-m", "totalog.engine.tests.flips", str(tmp_path / "region"), str(seed), str(COUNT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=350, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert " refused, " in done.stdout
    assert ": 0 refused" not in done.stdout
