"""Limits of a connection, and those that several modules keep to, each with its unit and its reason. One that a single
module keeps to stands there; what an operator may want to change is in `settings`.

A name says what it counts: `size` bytes, `count` things, `rate` bytes a second, `_s` seconds.
"""

from typing import Final, NamedTuple

TAGGED_FIELDS_COUNT_MAX: Final = 32
"""In one message, and in one request header: decoders may copy the rest of the frame for each."""

ELEMENTS_COUNT_MAX: Final = 70_000
"""Of all arrays in one message: more than a region has topics and partitions together. A frame of 4 MiB could hold ten
times as many, and looking at each of them takes processor time, though in steps."""

WHOLE_ELEMENTS_MAX: Final = 512
WHOLE_SIZE_MAX: Final = 64 * 1024
"""Array elements and bytes of a request that is decoded as a whole; more are read from the frame one by one."""

STEP_COUNT_MAX: Final = 512
"""Topics, or partitions, of a request that are read, looked at or answered before others get their turn."""

STRING_SIZE_MAX: Final = 32767
"""Bytes of any string, as in Kafka. Only the older encoding cannot express more; but a longer one that came in by the
newer (a group id, a member id) would have to be told to clients that read the older."""

VARINT_SIZE_MAX: Final = 5
"""Of an unsigned varint of 32 bits; a decoder without this limit takes a time that grows with the square."""

COMMIT_BATCH_COUNT_MAX: Final = 256
COMMIT_BATCH_SIZE_MAX: Final = 1 << 20
"""Records, and about as many bytes, in one batch of committed offsets: what is done without a pause. A batch may be
larger by what is carried on with it, which keeps to the same limits."""

UNSENT_SIZE_MAX: Final = 128 * 1024 * 1024
"""Of answers, over all connections, that clients have not taken yet. While it is reached nothing is answered, and who
does not take an answer loses its connection soon."""


class Limits(NamedTuple):
    """The defaults are what a broker runs with; tests make others."""

    # Receiving

    receive_buffer_size: int = 256 * 1024
    """Of one connection that is just receiving, used again and again: what arrives in it together is answered together.
    It holds some 1,200 Produce requests of one small record each, or 15 of 16 KiB. A connection that waits has none,
    unless a quarter of it is full."""

    large_body_size_min: int = 32 * 1024
    """From this frame size on, a Produce request that is not complete yet is received straight into the region."""

    other_body_size_min: int = 64 * 1024
    """From this frame size on, any other request is received into memory of its own, in its turn."""

    run_size_max: int = 4 * 1024 * 1024
    """Of large Produce requests that are received together: of one kind and about one size, and in the kernel's hands
    already. What of it lies in no batch is lost until retention takes the others."""

    run_slack: int = 64
    """By which part of their size such requests may differ."""

    inflight_size_max: int = 256 * 1024 * 1024
    """Of large Produce requests being received at once, over all connections, taken before a body is read; those who
    come later wait their turn. Of a small region, a quarter. The setting queued.max.request.bytes replaces it."""

    inflight_others_size_max: int = 16 * 1024 * 1024
    """Of all other large requests, from before their body is read until they are answered, because what is made of them
    may take four times as much, a MiB, and the answer. Apart from those of Produce, so that nobody's long poll keeps a
    producer waiting."""

    # Answering

    group_count_max: int = 512
    """Produce requests handled as one group. The kernel takes at most 1,024 parts in one sendmsg."""

    owed_count_max: int = 4096
    """Answers of one connection that wait until what they promise is stored, after which no more requests are taken.
    What their requests put into the log is bounded by `inflight_size_max`."""

    answers_size_max: int = 1024 * 1024
    """Of answers gathered for one sendmsg while further complete requests wait in the receive buffer."""

    # Time

    frame_time_s_max: float = 30.0
    """In which a client finishes a request that it began; larger ones get more, by `transfer_rate_min`."""

    pressed_time_s_max: float = 5.0
    """In place of the time above, and of the rate below: for a large request while others wait for their turn, so that
    a few slow clients cannot keep all others out."""

    pressed_rate_min: int = 256 * 1024

    send_stall_s_max: float = 30.0
    """In which a client takes an answer, so that one that never reads holds no memory; larger ones get more."""

    pressed_send_s_max: float = 1.0
    """In place of the time above, and with `pressed_rate_min`, while UNSENT_SIZE_MAX is reached: all others wait."""

    transfer_rate_min: int = 16 * 1024
    """That must be reached on average, once one of the times above is over, for a transfer to go on."""

    sweep_interval_s: float = 1.0
    """Between two looks at all connections for the times above and for connections.max.idle.ms."""

    drain_s_max: float = 10.0
    """That requests in hand get to finish after SIGTERM."""

    linger_s_max: float = 1.0
    """To wait, when stopping, for a client to take its last answers and close."""

    # Connections

    accept_backlog_count: int = 1024
    """Connections that the kernel holds while the event loop is busy."""

    accept_pause_s: float = 0.1
    """Of accepting, when the process has no file descriptors left."""
