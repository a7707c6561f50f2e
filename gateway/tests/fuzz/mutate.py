"""Changes to sound input that hurt decoders: bytes replaced, removed, doubled, and lengths and counts blown up."""

import random
import struct

INTERESTING = (0, 1, 2, 5, 0x7F, 0x80, 0xFE, 0xFF)
INTEGERS = (0, 1, -1, -2, -5, 127, 128, 255, 32767, -32768, 65536, 2**24, 2**31 - 1, -(2**31))
SIZE_MAX = 32 * 1024


def mutated(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """`data` with a few changes; `others` are there to be crossed with it."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(9):
            case 0 | 1:
                changed[at : at + 1] = bytes([chance.choice(INTERESTING)])
            case 2:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                changed[at : at + 4] = struct.pack(">i", chance.choice(INTEGERS))
            case 4:
                changed[at : at + 2] = struct.pack(">h", chance.choice((0, 1, -1, -2, 32767, -32768)))
            case 5:
                changed[at : at + 1] = b"\xff" * chance.randrange(1, 12) + bytes([chance.randrange(128)])
            case 6:
                del changed[at : at + chance.randrange(1, 24)]
            case 7:
                part = bytes(changed[at : at + chance.randrange(1, 40)])
                changed[at:at] = part * chance.choice((1, 2, 100))
            case 8:
                other = chance.choice(others)
                changed[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(changed[:SIZE_MAX])
