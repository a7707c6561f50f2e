"""A client process: serves one face over the connection that it was given."""

import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from compat_tests.clients import AIOKAFKA, CONFLUENT, KAFKA_PYTHON
from compat_tests.clients.face import Client, ClientError

MODULES = {
    KAFKA_PYTHON: "compat_tests.clients.kafka_python",
    CONFLUENT: "compat_tests.clients.confluent",
    AIOKAFKA: "compat_tests.clients.aio_kafka",
}
"""Where each face is. Nothing of them is imported in the tests' own process."""


def run(kind: str, bootstrap: str, connection: "Connection[Any, Any]") -> None:
    client: Client = import_module(MODULES[kind]).Face(bootstrap)
    serve(client, connection)


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
