"""The command `totalog`: reads its arguments, opens the log, starts the server, and says what went wrong in one line.

Exit codes: 0 stopped as asked, 1 could not do it, 2 was not understood. What is slow to import is imported where it is
needed, and of a command's options only its own are made: start-up time is a feature.
"""

import argparse
import gc
import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_PORT = 9092
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
HELP_WIDTH_MAX = 100
FLAME_GRAPH = "flame-graph.svg"

OVERVIEW = """usage: totalog COMMAND ...

A Kafka-compatible broker on a totally ordered shared-memory log.

  Start one:        totalog serve
  Use it:           any Kafka client, with bootstrap.servers=localhost:9092
  Total order:      read the topic NAME.total-order of any topic NAME
  Is it serving:    totalog healthcheck localhost:9092
  How fast is it:   totalog bench localhost:9092

commands, each with --help:"""

UNUSED = ("idna", "ssl")
"""What trio imports for TLS and international names, which `serve` has none of."""

tell = partial(print, flush=True)


class Misused(Exception):
    """The arguments are not understood."""


class Failed(Exception):
    """What was asked for cannot be done."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Misused(message)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments`, or those of the process, and exit."""
    name, *words = (sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        _run(name, words)
    except Misused as fault:
        where = f"totalog {name}" if name in COMMANDS else "totalog"
        sys.exit(_complain(f"{fault} (see {where} --help)", 2))
    except Failed as fault:
        sys.exit(_complain(str(fault), 1))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would say so once more at its end
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _complain(message: str, code: int) -> int:
    print(f"totalog: {' '.join(message.split())}", file=sys.stderr)
    return code


def _run(name: str, words: Sequence[str]) -> None:
    if name in ("-h", "--help"):
        tell("\n".join([OVERVIEW, *(f"  {each:13}{doc_of(run)[0]}" for each, (run, _) in COMMANDS.items())]))
    elif name == "--version":
        from importlib.metadata import version

        tell(version("totalog"))
    elif name in COMMANDS:
        run, options = COMMANDS[name]
        parser = Parser(
            prog=f"totalog {name}",
            description="\n".join(doc_of(run)),
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=_help_width()),
            allow_abbrev=False,
        )
        options(parser.add_argument)
        run(**vars(parser.parse_args(words)))
    else:
        raise Misused(f"No such command {name!r}" if name else "which command?")


def doc_of(run: Callable[..., None]) -> list[str]:
    """The lines of a docstring, without its margin."""
    first, *more = (run.__doc__ or "").rstrip().split("\n")
    return [first, *(line.removeprefix("    ") for line in more)]


def _help_width() -> int:
    try:
        return min(os.get_terminal_size().columns, HELP_WIDTH_MAX)
    except OSError:
        return HELP_WIDTH_MAX


# Types of options


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number in a range."""

    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if number < least or (most is not None and number > most):
            among = f"{least} and more" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not in the range {among}")
        return number

    return parse


def path_of(text: str) -> "Path":
    from pathlib import Path

    return Path(text)


def size(text: str) -> int:
    """Bytes, from a size as people write it."""
    from totalog.gateway.memory import parse_size

    try:
        return parse_size(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None


def some(text: str) -> int:
    """The same, of something that has a size: one byte at least."""
    count = size(text)
    if not count:
        raise argparse.ArgumentTypeError("is at least one byte")
    return count


def seconds_of(text: str) -> float:
    """A time, of a millisecond to an hour."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.001 to 3600")
    return seconds


def target(text: str) -> "Path":
    """A file that can be written, which is told before there is anything to write."""
    path = path_of(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def address(text: str) -> tuple[str, int | None]:
    """HOST:PORT, with brackets around an IPv6 address; or HOST alone, the port is None then."""
    host, colon, port = (text, "", "") if text.endswith("]") else text.rpartition(":")
    if not colon:
        host = text
    elif not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r} names no host")
    return host, int(port) if colon else None


# Commands: what each takes, and what it does with it


DEFAULT = "[default: %(default)s]"
Add = Callable[..., object]


def serve_options(add: Add) -> None:
    add("--host", default="localhost", help=f"Address to listen on. {DEFAULT}")
    add(
        "--port",
        type=whole(0, 65535),
        default=DEFAULT_PORT,
        help=f"Port to listen on; 0 takes a free one, which the line with 'ready' tells. {DEFAULT}",
    )
    add(
        "--advertised",
        type=address,
        metavar="HOST:PORT",
        help="Where clients are told to connect, if that is not where this broker listens: behind a port mapping, a"
        " proxy. Without it, a broker on all interfaces names this machine's first address.",
    )
    add(
        "--data-dir",
        dest="data_dirs",
        action="append",
        type=path_of,
        default=[],
        metavar="DIRECTORY",
        help="Keep all data here, also through a power cut; made if it is not there. May be given many times: each"
        " directory gets everything. Default: totalog in $XDG_STATE_HOME, else in ~/.local/state.",
    )
    add("--ephemeral", action="store_true", help="Keep no data directory: the log is gone with its memory.")
    add(
        "--region",
        type=path_of,
        metavar="FILE",
        help="Put the log's memory into this file. On a tmpfs like /dev/shm it survives the broker, not the machine: a"
        " start after a kill goes on with it. Default: a file in /dev/shm, or no name at all with --ephemeral.",
    )
    add(
        "--memory",
        type=some,
        metavar="SIZE",
        help="Size of the log's memory, such as 512m or 4g; it is taken as it fills. Default: half of what there is.",
    )
    add(
        "--set",
        dest="pairs",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="A Kafka broker setting; may be given many times. totalog settings lists them.",
    )
    add("-v", "--verbose", action="store_true", help="Also tell when connections end, and why.")


def serve(
    host: str,
    port: int,
    advertised: tuple[str, int | None] | None,
    data_dirs: "list[Path]",
    ephemeral: bool,
    region: "Path | None",
    memory: int | None,
    pairs: list[str],
    verbose: bool,
) -> None:
    """Run a broker until SIGINT or SIGTERM; a second signal stops it at once.

    totalog serve
    totalog serve --port 0 --ephemeral --memory 512m
    totalog serve --data-dir /mnt/a/totalog --data-dir /mnt/b/totalog
    totalog serve --host 0.0.0.0 --advertised broker.example:9092
    totalog serve --set num.partitions=4 --set log.retention.minutes=30
    """
    if ephemeral and data_dirs:
        raise Misused("--ephemeral and --data-dir exclude each other")
    gc.disable()  # of what is imported nothing is garbage
    import logging

    from totalog.gateway.config import Config
    from totalog.gateway.later import postpone
    from totalog.gateway.setting import InvalidConfig

    try:
        config = Config.parse(pairs)
    except InvalidConfig as fault:
        raise Misused(f"--set: {fault}") from None
    logging.basicConfig(format=LOG_FORMAT, level=logging.DEBUG if verbose else logging.INFO)

    postpone(*UNUSED)
    from totalog.gateway import start
    from totalog.gateway.storage import CannotStart, Storage, state_directory

    gc.freeze()  # or all of it would be looked at as soon as the collector may
    gc.enable()

    try:
        kept = () if ephemeral else tuple(data_dirs) or (state_directory(),)
        start.serve(config, host, port, advertised, Storage(kept, region, memory), tell)
    except CannotStart as fault:
        raise Failed(str(fault)) from None


def healthcheck_options(add: Add) -> None:
    add("where", type=address, metavar="HOST:PORT")
    add("--timeout", type=seconds_of, default=5.0, metavar="SECONDS", help=f"To wait for each answer. {DEFAULT}")


def healthcheck(where: tuple[str, int | None], timeout: float) -> None:
    """Ask a broker whether it serves; exit code 0 if it does, else 1.

    totalog healthcheck localhost:9092
    """
    from totalog.gateway.healthcheck import Unhealthy, check

    host, port = where
    try:
        said = check(host, DEFAULT_PORT if port is None else port, timeout)
    except Unhealthy as fault:
        raise Failed(str(fault)) from None
    tell(f"healthy: {said}")


def bench_options(add: Add) -> None:
    add("where", type=address, metavar="HOST:PORT")
    add(
        "--batch-size",
        type=some,
        metavar="SIZE",
        help="Of each batch, such as 16k. Without it the best from 64k to 4m is looked for, and the curve shown.",
    )
    add("--record-size", type=some, default="1k", metavar="SIZE", help=f"Of each value. {DEFAULT}")
    add("--acks", choices=("1", "all"), default="all", help=DEFAULT)
    add("--connections", type=whole(1, 1000), default=1, help=DEFAULT)
    add("--in-flight", type=whole(1, 1000), default=5, help=f"Of each connection. {DEFAULT}")
    add("--partitions", type=whole(1, 1000), default=1, help=DEFAULT)
    add("--iterations", type=whole(1), default=7, help=DEFAULT)
    add("--seconds", type=seconds_of, default=1.0, help=f"Of each iteration. {DEFAULT}")
    add("--csv", dest="csv_path", type=target, metavar="FILE", help="Write the table here.")
    add("--plot", type=target, metavar="FILE", help="Draw the rates here, and the curve (matplotlib).")
    add("--contention", action="store_true", help="Also what its engine waited for, if it is a totalog broker.")
    add(
        "--profile",
        action="store_true",
        help="Also where a broker on this machine spends its time: counters of the processor and functions, as far as"
        " linux-perf and py-spy are installed.",
    )
    add("--pid", type=whole(1), help="The process to profile. Default: who listens at the address.")
    add(
        "--flame-graph",
        type=target,
        metavar="FILE",
        help=f"Where --profile draws it. [default: {FLAME_GRAPH}]",
    )


def bench(
    where: tuple[str, int | None],
    batch_size: int | None,
    record_size: int,
    acks: str,
    connections: int,
    in_flight: int,
    partitions: int,
    iterations: int,
    seconds: float,
    csv_path: "Path | None",
    plot: "Path | None",
    contention: bool,
    profile: bool,
    pid: int | None,
    flame_graph: "Path | None",
) -> None:
    """Produce to a broker of any kind, as fast as it takes it, and say how fast that is.

    totalog bench localhost:9092
    totalog bench localhost:9092 --batch-size 16k --in-flight 20 --acks 1
    totalog bench kafka.example:9092 --connections 8 --csv rates.csv --plot rates.png
    totalog bench localhost:9092 --batch-size 1m --contention --profile
    """
    from totalog.gateway.bench import stats
    from totalog.gateway.bench.measure import Plan, measure
    from totalog.gateway.bench.topic import CannotMeasure
    from totalog.gateway.memory import size_text

    no_plot = None if plot is None else stats.why_no_plot(plot)
    if no_plot is not None:
        raise Failed(f"no plot: {no_plot}")
    host, port = where
    plan = Plan(
        (host, DEFAULT_PORT if port is None else port),
        batch_size,
        record_size,
        1 if acks == "1" else -1,
        connections,
        in_flight,
        partitions,
        iterations,
        seconds,
        contention,
        profile,
        flame_graph or path_of(FLAME_GRAPH),
        pid,
    )
    try:
        report = measure(plan, tell)
    except CannotMeasure as fault:
        raise Failed(str(fault)) from None
    tell(stats.table(report.rows))
    for line in report.remarks:
        tell(line)
    try:
        if csv_path is not None:
            stats.write_csv(csv_path, report.rows)
        if plot is not None:
            curve = {size_text(tried): rates for tried, rates in report.curve.items()}
            stats.plot(plot, report.rates, unit="MB/s", curve=curve)
    except OSError as fault:
        raise Failed(str(fault)) from None


def settings() -> None:
    """List the broker settings that --set takes, with their defaults."""
    from totalog.gateway.setting import Effect, as_text
    from totalog.gateway.settings import BROKER, UNSET

    for setting in sorted(BROKER.values(), key=lambda row: (row.effect is Effect.NONE, row.name)):
        unset = isinstance(setting.default, int) and setting.default == UNSET
        tell(f"{setting.name}={'' if unset else as_text(setting.default)}")
        tell(f"    {setting.doc}{' (Accepted, changes nothing.)' if setting.effect is Effect.NONE else ''}")


COMMANDS: dict[str, tuple[Callable[..., None], Callable[[Add], None]]] = {
    "serve": (serve, serve_options),
    "healthcheck": (healthcheck, healthcheck_options),
    "bench": (bench, bench_options),
    "settings": (settings, lambda add: None),
}
