/* Frames of LZ4 as Kafka takes them: where one ends, and whether it is of the kind that Kafka's readers know.
 *
 * Kafka reads one frame whose blocks can be opened one by one, and nothing behind it; the frame format allows more. A
 * library that opens frames takes all of them, and those behind the first.
 *
 * What holds here: nothing outside [source, source + size) is read, and time grows with the size alone.
 *
 * A frame, little endian: magic, one byte of flags, one with the largest size of a block, a content size of eight bytes
 * if the flags say so, a checksum of one byte; blocks, each behind its size, whose highest bit says that the block is not
 * compressed, each before a checksum of four bytes if the flags say so; a size of 0; a checksum of four bytes if the flags
 * say so. Source: the LZ4 frame format, 1.6.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "lz4.h"

#define MAGIC 0x184d2204u
#define FLAGS_AT 4
#define VERSION_MASK 0xc0
#define VERSION 0x40
#define BLOCKS_INDEPENDENT 0x20
#define BLOCK_CHECKSUMS 0x10
#define CONTENT_SIZE 0x08
#define CONTENT_CHECKSUM 0x04
#define NO_MEANING 0x03         /* a reserved bit, and a dictionary, which Kafka does not have */
#define HEADER_SIZE 7
#define CONTENT_SIZE_SIZE 8
#define CHECKSUM_SIZE 4
#define WORD 4
#define NOT_COMPRESSED 0x80000000u

static uint32_t load32_little(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Bytes of the frame at the start of `source`; 0: none that Kafka takes is there whole. The checksums are not looked at. */
uint32_t lz4_frame_size(uint64_t source, uint32_t size)
{
    const uint8_t *bytes = (const uint8_t *)(uintptr_t)source;
    if (size < HEADER_SIZE || load32_little(bytes) != MAGIC)
        return 0;
    uint8_t flags = bytes[FLAGS_AT];
    if ((flags & VERSION_MASK) != VERSION || (flags & BLOCKS_INDEPENDENT) == 0 || (flags & NO_MEANING) != 0)
        return 0;
    uint64_t at = HEADER_SIZE + ((flags & CONTENT_SIZE) ? CONTENT_SIZE_SIZE : 0);
    uint64_t behind_block = (flags & BLOCK_CHECKSUMS) ? CHECKSUM_SIZE : 0;
    while (at + WORD <= size) {
        uint32_t block_size = load32_little(bytes + at) & ~NOT_COMPRESSED;
        at += WORD;
        if (block_size == 0) {
            at += (flags & CONTENT_CHECKSUM) ? CHECKSUM_SIZE : 0;
            return at <= size ? (uint32_t)at : 0;
        }
        at += block_size + behind_block;
    }
    return 0;
}
