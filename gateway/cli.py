"""The command `totalog`: reads its arguments, opens the log, starts the server, and says what went wrong in one line.

Exit codes: 0 stopped as asked, 1 could not do it, 2 was not understood. What is slow to import is imported where it is
needed: start-up time is a feature.
"""

import gc
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from totalog.gateway.config import Config
from totalog.gateway.memory import parse_size, size_text
from totalog.gateway.setting import InvalidConfig

DEFAULT_PORT = 9092
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments`, or those of the process, and exit."""
    try:
        code = cli.main(arguments, prog_name="totalog", standalone_mode=False)
    except click.UsageError as fault:
        where = fault.ctx.command_path if fault.ctx is not None else "totalog"
        sys.exit(_complain(f"{fault.format_message()} (see {where} --help)", 2))
    except click.ClickException as fault:
        sys.exit(_complain(fault.format_message(), 1))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, code: int) -> int:
    print(f"totalog: {' '.join(message.split())}", file=sys.stderr)
    return code


def size(text: str) -> int:
    """The type of an option: bytes, from a size as people write it."""
    try:
        return parse_size(text)
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from None


def some(text: str) -> int:
    """The same, of something that has a size: one byte at least."""
    count = size(text)
    if not count:
        raise click.BadParameter("is at least one byte")
    return count


def seconds_of(text: str) -> float:
    """The type of an option: a time, of a millisecond to an hour."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= 3600:
        raise click.BadParameter(f"{text!r} is not a number of seconds from 0.001 to 3600")
    return seconds


def target(text: str) -> Path:
    """The type of an option: a file that can be written, which is told before there is anything to write."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.BadParameter(f"{text!r} cannot be written")
    return path


def address(text: str) -> tuple[str, int | None]:
    """The type of an option: HOST:PORT, with brackets around an IPv6 address; or HOST alone, the port is None then."""
    host, colon, port = (text, "", "") if text.endswith("]") else text.rpartition(":")
    if not colon:
        host = text
    elif not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter(f"{text!r} is not of the form HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise click.BadParameter(f"{text!r} names no host")
    return host, int(port) if colon else None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="totalog", message="%(version)s")
def cli() -> None:
    """A Kafka-compatible broker on a totally ordered shared-memory log.

    \b
    Start one:        totalog serve
    Use it:           any Kafka client, with bootstrap.servers=localhost:9092
    Total order:      read the topic NAME.total-order of any topic NAME
    Is it serving:    totalog healthcheck localhost:9092
    How fast is it:   totalog bench localhost:9092
    """


@cli.command(short_help="Run a broker.")
@click.option("--host", default="localhost", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0 takes a free one, which the line with 'ready' tells.",
)
@click.option(
    "--advertised",
    type=address,
    metavar="HOST:PORT",
    help="Where clients are told to connect, if that is not where this broker listens: behind a port mapping, a proxy."
    " Without it, a broker on all interfaces names this machine's first address.",
)
@click.option(
    "--data-dir",
    "data_dirs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIRECTORY",
    help="Keep all data here, also through a power cut; made if it is not there. May be given many times: each"
    " directory gets everything. Default: totalog in $XDG_STATE_HOME, else in ~/.local/state.",
)
@click.option("--ephemeral", is_flag=True, help="Keep no data directory: the log is gone with its memory.")
@click.option(
    "--region",
    type=click.Path(path_type=Path),
    help="Put the log's memory into this file. On a tmpfs like /dev/shm it survives the broker, not the machine: a"
    " start after a kill goes on with it. Default: a file in /dev/shm, or no name at all with --ephemeral.",
)
@click.option(
    "--memory",
    type=some,
    metavar="SIZE",
    help="Size of the log's memory, such as 512m or 4g; it is taken as it fills. Default: half of what there is.",
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="A Kafka broker setting; may be given many times. totalog settings lists them.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also tell when connections end, and why.")
def serve(
    host: str,
    port: int,
    advertised: tuple[str, int | None] | None,
    data_dirs: tuple[Path, ...],
    ephemeral: bool,
    region: Path | None,
    memory: int | None,
    pairs: tuple[str, ...],
    verbose: bool,
) -> None:
    """Run a broker until SIGINT or SIGTERM; a second signal stops it at once.

    \b
    totalog serve
    totalog serve --port 0 --ephemeral --memory 512m
    totalog serve --data-dir /mnt/a/totalog --data-dir /mnt/b/totalog
    totalog serve --host 0.0.0.0 --advertised broker.example:9092
    totalog serve --set num.partitions=4 --set log.retention.minutes=30
    """
    if ephemeral and data_dirs:
        raise click.UsageError("--ephemeral and --data-dir exclude each other")
    try:
        config = Config.parse(pairs)
    except InvalidConfig as fault:
        raise click.UsageError(f"--set: {fault}") from None
    logging.basicConfig(format=LOG_FORMAT, level=logging.DEBUG if verbose else logging.INFO)
    gc.disable()  # of what is imported nothing is garbage
    from totalog.gateway import start
    from totalog.gateway.storage import CannotStart, Storage, state_directory

    gc.freeze()  # or all of it would be looked at as soon as the collector may
    gc.enable()

    try:
        kept = () if ephemeral else data_dirs or (state_directory(),)
        start.serve(config, host, port, advertised, Storage(kept, region, memory), click.echo)
    except CannotStart as fault:
        raise click.ClickException(str(fault)) from None


@cli.command(short_help="Ask a broker whether it serves.")
@click.argument("where", type=address, metavar="HOST:PORT")
@click.option(
    "--timeout", type=seconds_of, default="5", show_default=True, metavar="SECONDS", help="To wait for each answer."
)
def healthcheck(where: tuple[str, int | None], timeout: float) -> None:
    """Ask a broker whether it serves; exit code 0 if it does, else 1.

    \b
    totalog healthcheck localhost:9092
    """
    from totalog.gateway.healthcheck import Unhealthy, check

    host, port = where
    try:
        said = check(host, DEFAULT_PORT if port is None else port, timeout)
    except Unhealthy as fault:
        raise click.ClickException(str(fault)) from None
    click.echo(f"healthy: {said}")


@cli.command(short_help="Measure a broker.")
@click.argument("where", type=address, metavar="HOST:PORT")
@click.option(
    "--batch-size",
    type=some,
    metavar="SIZE",
    help="Of each batch, such as 16k. Without it the best from 64k to 4m is looked for, and the curve shown.",
)
@click.option("--record-size", type=some, default="1k", show_default=True, metavar="SIZE", help="Of each value.")
@click.option("--acks", type=click.Choice(["1", "all"]), default="all", show_default=True)
@click.option("--connections", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--in-flight", type=click.IntRange(1, 1000), default=5, show_default=True, help="Of each connection.")
@click.option("--partitions", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--iterations", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--seconds", type=seconds_of, default="1", show_default=True, metavar="SECONDS", help="Of each iteration."
)
@click.option("--csv", "csv_path", type=target, metavar="FILE", help="Write the table here.")
@click.option("--plot", type=target, metavar="FILE", help="Draw the rates here, and the curve (matplotlib).")
@click.option("--contention", is_flag=True, help="Also what its engine waited for, if it is a totalog broker.")
@click.option(
    "--profile",
    is_flag=True,
    help="Also where a broker on this machine spends its time: counters of the processor and functions, as far as"
    " linux-perf and py-spy are installed.",
)
@click.option("--pid", type=click.IntRange(1), help="The process to profile. Default: who listens at the address.")
@click.option(
    "--flame-graph",
    type=target,
    metavar="FILE",
    default="flame-graph.svg",
    show_default=True,
    help="Where --profile draws it.",
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
    csv_path: Path | None,
    plot: Path | None,
    contention: bool,
    profile: bool,
    pid: int | None,
    flame_graph: Path,
) -> None:
    """Produce to a broker, of whatever kind, as fast as it takes it, and say how fast that is.

    \b
    totalog bench localhost:9092
    totalog bench localhost:9092 --batch-size 16k --in-flight 20 --acks 1
    totalog bench kafka.example:9092 --connections 8 --csv rates.csv --plot rates.png
    totalog bench localhost:9092 --batch-size 1m --contention --profile
    """
    from totalog.gateway.bench import stats
    from totalog.gateway.bench.measure import Plan, measure
    from totalog.gateway.bench.topic import CannotMeasure

    no_plot = None if plot is None else stats.why_no_plot(plot)
    if no_plot is not None:
        raise click.ClickException(f"no plot: {no_plot}")
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
        flame_graph,
        pid,
    )
    try:
        report = measure(plan, click.echo)
    except CannotMeasure as fault:
        raise click.ClickException(str(fault)) from None
    click.echo(stats.table(report.rows))
    for line in report.remarks:
        click.echo(line)
    try:
        if csv_path is not None:
            stats.write_csv(csv_path, report.rows)
        if plot is not None:
            curve = {size_text(tried): rates for tried, rates in report.curve.items()}
            stats.plot(plot, report.rates, unit="MB/s", curve=curve)
    except OSError as fault:
        raise click.ClickException(str(fault)) from None


@cli.command(short_help="List the settings that serve --set takes.")
def settings() -> None:
    """List the broker settings that --set takes, with their defaults."""
    from totalog.gateway.setting import Effect, as_text
    from totalog.gateway.settings import BROKER, UNSET

    for setting in sorted(BROKER.values(), key=lambda row: (row.effect is Effect.NONE, row.name)):
        unset = isinstance(setting.default, int) and setting.default == UNSET
        click.echo(f"{setting.name}={'' if unset else as_text(setting.default)}")
        click.echo(f"    {setting.doc}{' (Accepted, changes nothing.)' if setting.effect is Effect.NONE else ''}")
