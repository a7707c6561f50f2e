"""The breaking kit: what stays of what clients were told, when a broker is killed, its memory lost, its disk at fault.

    python -m compat_tests.breaking --minutes 5            # or: make soak MINUTES=5
    python -m compat_tests.breaking --seed 7 --rounds 1    # one round again, as a ledger names it

A run is a row of rounds on one log. In each, stock clients produce and read while one fault strikes a broker
(`faults`), which is then started again, with its region or without it. Every operation stands in one history on one
clock (`load`). At the end everything is read again and judged by the order checker (`judge`): acks=all is never lost,
nothing that a consumer has seen vanishes or moves, acks=1 survives the death of processes. The ledger has a line for
each round.
"""
