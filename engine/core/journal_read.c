/* Reading journal files: names, headers, trailers, records. Nothing is believed before its checksum was looked at.
 *
 * A record's checksum is seeded by its file and says where it stands: bytes of a record in another place (in a payload, in a block that
 * another file had) are no record.
 */
#include <errno.h>
#include <stdio.h>

#include "journal.h"

#define NAME_DIGITS 20
#define NAME_PREFIX "journal-"
#define NAME_SUFFIX ".log"

void journal_name(char name[JOURNAL_NAME_SIZE], uint64_t first_position)
{
    snprintf(name, JOURNAL_NAME_SIZE, NAME_PREFIX "%0*llu" NAME_SUFFIX, NAME_DIGITS, (unsigned long long)first_position);
}

int journal_name_read(const char *name, uint64_t *first_position)
{
    char again[JOURNAL_NAME_SIZE];
    uint64_t position = 0;
    if (strncmp(name, NAME_PREFIX, sizeof NAME_PREFIX - 1) != 0)
        return 0;
    for (const char *digit = name + sizeof NAME_PREFIX - 1; *digit >= '0' && *digit <= '9'; digit++)
        position = position * 10 + (uint64_t)(*digit - '0');
    journal_name(again, position);
    *first_position = position;
    return strcmp(name, again) == 0;
}

uint32_t journal_seed(const struct journal_header *header)
{
    uint32_t crc = journal_crc(~0u, header->log_id, sizeof header->log_id);
    crc = journal_crc(crc, &header->number, sizeof header->number);
    return journal_crc(crc, &header->first_position, sizeof header->first_position);
}

uint32_t journal_header_crc(const uint8_t block[JOURNAL_HEADER_SIZE])
{
    static const uint8_t zero[sizeof(uint32_t)];
    uint64_t at = offsetof(struct journal_header, crc);
    uint32_t crc = journal_crc(~0u, block, at);
    crc = journal_crc(crc, zero, sizeof zero);
    return ~journal_crc(crc, block + at + sizeof zero, JOURNAL_HEADER_SIZE - at - sizeof zero);
}

static int header_valid(const struct journal_header *header, int64_t size)
{
    uint64_t limit = (uint64_t)size;
    if (header->flags & JOURNAL_EMPTIED)
        return header->end_position >= header->first_position;
    return header->checkpoint_size <= limit && header->records_position <= limit && header->records_position % JOURNAL_RECORD_STEP == 0 &&
           header->records_position >= JOURNAL_HEADER_SIZE + header->checkpoint_size;
}

int32_t journal_read_header(struct disk *disk, int32_t file, struct journal_header *header, uint32_t *damage)
{
    uint8_t block[JOURNAL_HEADER_SIZE];
    int64_t size = disk->size(disk, file);
    *damage = DAMAGE_HEADER;
    memset(header, 0, sizeof *header);
    if (size < 0)
        return (int32_t)-size;
    if (size < JOURNAL_HEADER_SIZE)
        return EILSEQ;
    int32_t error = disk_read_all(disk, file, block, sizeof block, 0);
    if (error != 0)
        return error;
    memcpy(header, block, sizeof *header);
    if (header->magic != JOURNAL_MAGIC || header->crc != journal_header_crc(block))
        return EILSEQ;
    *damage = DAMAGE_NONE;
    if (header->version != JOURNAL_VERSION)
        return EPROTO;
    if (header_valid(header, size))
        return 0;
    *damage = DAMAGE_HEADER;
    return EILSEQ;
}

static int trailer_valid(const struct journal_trailer *trailer, const struct journal_header *header, uint64_t size)
{
    uint64_t summaries_size = (uint64_t)trailer->summary_count * sizeof(struct journal_summary);
    uint64_t rows_size = (uint64_t)trailer->row_count * sizeof(struct journal_row), order_size = (uint64_t)trailer->row_count * sizeof(uint32_t);
    uint64_t at = size - sizeof *trailer;
    if (trailer->magic != JOURNAL_TRAILER_MAGIC || trailer->number != header->number || trailer->first_position != header->first_position)
        return 0;
    if (trailer->crc != ~journal_crc(journal_seed(header), &trailer->summary_count, sizeof *trailer - offsetof(struct journal_trailer, summary_count)))
        return 0;
    return trailer->records_end >= header->records_position && trailer->summaries_position == trailer->records_end &&
           trailer->rows_position >= trailer->summaries_position + summaries_size && trailer->order_position >= trailer->rows_position + rows_size &&
           at >= trailer->order_position + order_size && trailer->end_position >= trailer->first_position;
}

/* Sealing cuts a file to its size. Where it became shorter before it was read, an archive looks at it while it is sealed, and once more. */
int32_t journal_read_trailer(struct disk *disk, int32_t file, const struct journal_header *header, struct journal_trailer *trailer)
{
    for (int64_t size = disk->size(disk, file);;) {
        if (size < 0)
            return (int32_t)-size;
        if ((uint64_t)size < header->records_position + sizeof *trailer)
            return ENODATA;
        int32_t error = disk_read_all(disk, file, trailer, sizeof *trailer, (uint64_t)size - sizeof *trailer);
        if (error == 0)
            return trailer_valid(trailer, header, (uint64_t)size) ? 0 : ENODATA;
        int64_t now = disk->size(disk, file);
        if (now == size)
            return error;
        size = now;
    }
}

/* ---- records ---- */

int32_t reader_open(struct journal_reader *reader, struct disk *disk, int32_t file, const struct journal_header *header, uint64_t end)
{
    *reader = (struct journal_reader){.disk = disk, .file = file, .seed = journal_seed(header), .size = end, .position = header->records_position};
    uint64_t room = end > reader->position ? round_up(end - reader->position, JOURNAL_HEADER_SIZE) : JOURNAL_HEADER_SIZE;
    reader->buffer_size = room < JOURNAL_BUFFER_SIZE ? (uint32_t)room : JOURNAL_BUFFER_SIZE;
    reader->buffer = malloc(reader->buffer_size);
    return reader->buffer == NULL ? ENOMEM : 0;
}

void reader_close(struct journal_reader *reader)
{
    free(reader->buffer);
    reader->buffer = NULL;
}

static int in_buffer(const struct journal_reader *reader, uint64_t position, uint64_t size)
{
    return position >= reader->buffer_position && position - reader->buffer_position <= reader->buffer_used &&
           size <= reader->buffer_used - (position - reader->buffer_position);
}

/* Has the buffer hold `size` bytes from there on, which lie in the file, and as many more as fit. */
static int32_t fill(struct journal_reader *reader, uint64_t position, uint64_t size)
{
    if (in_buffer(reader, position, size))
        return 0;
    uint64_t wanted = reader->size - position < reader->buffer_size ? reader->size - position : reader->buffer_size;
    reader->buffer_used = 0;
    int32_t error = disk_read_all(reader->disk, reader->file, reader->buffer, wanted, position);
    if (error != 0)
        return error;
    reader->buffer_position = position;
    reader->buffer_used = (uint32_t)wanted;
    return 0;
}

static void moved_on(struct journal_reader *reader, uint64_t position)
{
    if (reader->progress != NULL)
        local_add(reader->progress, position - reader->position);
    reader->position = position;
}

static int record_valid(const struct journal_reader *reader, const struct journal_record *record, uint64_t position)
{
    if (record->magic != JOURNAL_RECORD_MAGIC || record->position != position || record->kind < JOURNAL_BATCH || record->kind > JOURNAL_MARKER)
        return 0;
    return record->header_crc == ~journal_crc(reader->seed, &record->payload_crc, sizeof *record - offsetof(struct journal_record, payload_crc));
}

/* A payload that is larger than the buffer: its checksum, piece by piece. */
static int32_t long_payload_crc(struct journal_reader *reader, uint64_t position, uint64_t size, uint32_t *crc)
{
    *crc = ~0u;
    while (size > 0) {
        uint64_t piece = size < reader->buffer_size ? size : reader->buffer_size;
        int32_t error = fill(reader, position, piece);
        if (error != 0)
            return error;
        *crc = journal_crc(*crc, reader->buffer + (position - reader->buffer_position), piece);
        position += piece;
        size -= piece;
    }
    return 0;
}

static int32_t look_at_payload(struct journal_reader *reader, const struct journal_record *record, const uint8_t **payload)
{
    uint64_t at = record->position + sizeof *record;
    uint32_t crc;
    if (sizeof *record + (uint64_t)record->payload_size > reader->buffer_size) {
        int32_t error = long_payload_crc(reader, at, record->payload_size, &crc);
        return error != 0 ? error : ~crc == record->payload_crc ? 0 : EBADMSG;
    }
    int32_t error = fill(reader, record->position, sizeof *record + record->payload_size);
    if (error != 0)
        return error;
    *payload = reader->buffer + (at - reader->buffer_position);
    return ~journal_crc(~0u, *payload, record->payload_size) == record->payload_crc ? 0 : EBADMSG;
}

int32_t reader_next(struct journal_reader *reader, struct journal_record *record, const uint8_t **payload, int deep)
{
    *payload = NULL;
    if (reader->position > reader->size || reader->size - reader->position < sizeof *record)
        return ENODATA;
    int32_t error = fill(reader, reader->position, sizeof *record);
    if (error != 0)
        return error;
    memcpy(record, reader->buffer + (reader->position - reader->buffer_position), sizeof *record);
    if (!record_valid(reader, record, reader->position))
        return ENODATA;
    if (record->payload_size > reader->size - reader->position - sizeof *record)
        return EBADMSG;
    if (deep && (error = look_at_payload(reader, record, payload)) != 0)
        return error;
    moved_on(reader, reader->position + round_up(sizeof *record + record->payload_size, JOURNAL_RECORD_STEP));
    return 0;
}

int32_t reader_find(struct journal_reader *reader, uint64_t from, struct journal_record *record)
{
    for (uint64_t at = round_up(from, JOURNAL_RECORD_STEP); at <= reader->size && reader->size - at >= sizeof *record; at += JOURNAL_RECORD_STEP) {
        int32_t error = fill(reader, at, sizeof *record);
        if (error != 0)
            return error;
        const uint8_t *bytes = reader->buffer + (at - reader->buffer_position);
        uint32_t magic;
        memcpy(&magic, bytes, sizeof magic);
        if (magic != JOURNAL_RECORD_MAGIC)
            continue;
        memcpy(record, bytes, sizeof *record);
        if (record_valid(reader, record, at)) {
            reader->position = at;
            return 0;
        }
    }
    return ENODATA;
}
