/* The checksum of the journal. crc32c.h has the ways. */
#include "crc32c.h"
#include "journal.h"

uint32_t journal_crc(uint32_t crc, const void *bytes, uint64_t size)
{
    return crc_more(crc_best_way, crc, bytes, size);
}
