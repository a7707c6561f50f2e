"""Under clients that mean harm a good one completes every request, and the broker's memory stays where it was."""

import pytest

from compat_tests.conftest import StartBroker
from compat_tests.harm import HARMS, SETTINGS, Good, calm, memory

pytestmark = pytest.mark.totalog_only

MIB = 1 << 20
ROUNDS = 300
MEMORY_GROWTH_MAX = 200 * MIB


@pytest.mark.parametrize("harm", HARMS)
def test_a_good_client_completes_every_request(start_broker: StartBroker, harm: str) -> None:
    broker = start_broker(memory="256m", settings=SETTINGS)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, memory(broker.pid))

    good = Good(broker.address, look=look)
    calm(broker.address, good, 50)
    before, most = most, 0
    HARMS[harm](broker.address, good, ROUNDS)
    print(f"{(most - before) / MIB:.0f} MiB more, the slowest round {max(good.times_s) * 1000:.0f} ms")
    assert len(good.times_s) >= 50 + ROUNDS
    assert most - before < MEMORY_GROWTH_MAX
    calm(broker.address, good, 50)
    good.close()
    assert broker.process.poll() is None
    assert len(broker.log.splitlines()) < 100, "clients cannot fill the log"
