"""What tests of handlers share: a broker on a fresh region."""

from collections.abc import Iterator

import pytest

from totalog.engine import Log
from totalog.gateway.broker import Broker
from totalog.gateway.tests.harness import REGION_SIZE, make_broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Log.create(size=REGION_SIZE) as log:
        yield make_broker(log)
