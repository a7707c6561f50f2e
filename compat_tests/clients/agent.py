"""A client process: `python -m compat_tests.clients.agent KIND BOOTSTRAP FD` serves one face over the connection that
it inherits.
"""

import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from compat_tests.clients import AIOKAFKA, CONFLUENT, KAFKA_PYTHON
from compat_tests.clients.face import Client, ClientError


def make(kind: str, bootstrap: str) -> Client:
    """Each library is imported only in the process that speaks for it."""
    if kind == KAFKA_PYTHON:
        from compat_tests.clients.kafka_python import KafkaPython

        return KafkaPython(bootstrap)
    if kind == CONFLUENT:
        from compat_tests.clients.confluent import ConfluentKafka

        return ConfluentKafka(bootstrap)
    if kind == AIOKAFKA:
        from compat_tests.clients.aio_kafka import AioKafka

        return AioKafka(bootstrap)
    raise ValueError(f"no client is called {kind!r}")


def serve(client: Client, connection: "Connection[Any, Any]") -> None:
    while True:
        try:
            message = connection.recv()
        except EOFError:  # the test is over
            return
        method, arguments, options = message
        try:
            connection.send((True, getattr(client, method)(*arguments, **options)))
        except ClientError as error:
            connection.send((False, error))
        except Exception:  # noqa: BLE001  what else a client raises belongs to the test that called it
            connection.send((False, AssertionError(traceback.format_exc())))


if __name__ == "__main__":
    serve(make(sys.argv[1], sys.argv[2]), Connection(int(sys.argv[3])))
