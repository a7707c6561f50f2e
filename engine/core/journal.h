/* The C side of the journal: the fold, the writer, the reader, and opening. journal_format.h has the bytes.
 *
 * Invariants
 *  - Nothing here knows a region: descriptions and payload come in as process memory.
 *  - One thread at a time uses a journal. Words that others may look at meanwhile (the report's bytes_done) are stored with local_store.
 *  - The state is the fold of all records below state.next_position, whether they are durable or not; the writer adds to it what it appends.
 *  - The first failed call ends the writer: `failure` keeps its errno, and nothing is written any more. What is durable stays so.
 */
#ifndef TOTALOG_JOURNAL_H
#define TOTALOG_JOURNAL_H

#include "log.h"
#include "disk.h"
#include "journal_format.h"

#define JOURNAL_BUFFER_SIZE (1u << 20)        /* bytes staged before they are written */
#define JOURNAL_ALLOCATION_STEP (16u << 20)   /* bytes of a file that are allocated at once */
#define JOURNAL_NEW_NAME "journal.new"        /* of a file that is being made */

/* ---- journal_state.c: the fold ---- */
struct folded_topic {
    struct journal_topic row;
    struct journal_partition *partitions;     /* row.partition_count; NULL where the slot is free */
    uint8_t *settings;                        /* row.operation.settings_size */
    int trimmed;                              /* since log starts were handed in: what that means for partitions and bytes is not known here */
};

struct producer_table;

struct journal_state {
    uint64_t next_position;                   /* global: all below it is folded in */
    uint64_t last_position;                   /* of the last record folded in, or JOURNAL_NONE */
    uint32_t topic_slots;                     /* slots at or above it were never used */
    struct folded_topic topics[TOPICS_MAX];   /* slot 0: that of the operations, always live, generation 1 */
    struct producer_table *producers;
};

struct journal_state *state_new(void);
void state_delete(struct journal_state *state);
/* Whether the record follows on the state, but for what an operation says. 0, EILSEQ. */
int32_t state_check(const struct journal_state *state, const struct journal_record *record);
/* Adds a record. 0; EILSEQ: it does not follow on the state (which is as before); ENOMEM. `payload` of an operation only. */
int32_t state_fold(struct journal_state *state, const struct journal_record *record, const uint8_t *payload);
/* Log starts move outside the order. They only grow, and end at the next offset; a topic or generation that the state does not know is none. */
void state_raise_start(struct journal_state *state, uint32_t slot, uint32_t generation, uint32_t partition, uint64_t start, uint64_t bytes_released);
/* After the region was lost: all leader epochs one up. */
void state_raise_epochs(struct journal_state *state);
/* The checkpoint as bytes, piece by piece: `put` answers 0 or an errno, which ends it. */
typedef int32_t state_sink(void *context, const void *bytes, uint64_t size);
int32_t state_save(const struct journal_state *state, state_sink *put, void *context);
/* The reverse, from one buffer, into a new state. 0, EILSEQ, ENOMEM. */
int32_t state_load(const uint8_t *bytes, uint64_t size, struct journal_state **state);

/* ---- the writer: journal_write.c, journal_seal.c ---- */
struct journal {
    struct disk *disk;
    int owns_disk;
    uint8_t log_id[16];
    uint64_t file_size_max;                   /* bytes of records in one file, about */
    struct journal_state *state;
    int32_t failure;                          /* errno; 0: none */

    /* Called before a checkpoint is taken: the caller hands in log starts, and raises `floor`. May be NULL. */
    void (*before_checkpoint)(struct journal *journal, void *context);
    void *context;
    uint64_t floor;                           /* global: files that end at or below it may go once the next checkpoint is durable */
    uint64_t floor_durable;                   /* what the newest durable header says: such files may be removed now */

    /* the file in hand; file < 0: none */
    int32_t file;
    struct journal_header header;
    uint32_t seed;
    uint64_t synced;                          /* bytes of it that are durable */
    uint64_t marked;                          /* what the newest record says of that */
    uint64_t allocated;                       /* bytes */
    int cannot_allocate;
    uint8_t *buffer;
    uint64_t buffer_position;                 /* in the file */
    uint32_t buffer_used;
    uint64_t durable;                         /* global */
    uint64_t durable_last;                    /* global position of the last record that is durable, or JOURNAL_NONE */
    uint64_t sealed;                          /* global */
    uint64_t number;                          /* of the newest file */
    char empty_name[JOURNAL_NAME_SIZE];       /* a file without records, to be removed when the next one stands; "": none */

    /* the record in hand */
    int recording;
    struct journal_record record;
    uint64_t payload_left;                    /* bytes still to come */
    uint32_t payload_crc;

    /* what the footer will say */
    struct journal_row *rows;
    uint32_t *row_summaries;                  /* the summary that each row belongs to */
    uint32_t row_count, row_room;
    struct journal_summary *summaries;
    uint32_t summary_count, summary_room;

    uint64_t write_count, sync_count, bytes_written;
};

/* A record in pieces, so that a payload never has to lie in one place: begin with the description, then fill what `room` gives until nothing is
 * left, then end. All answer 0 or an errno. */
int32_t journal_record_begin(struct journal *journal, uint32_t topic_slot, uint32_t topic_generation, const struct order_entry *entry);
uint8_t *journal_record_room(struct journal *journal, uint32_t *size);   /* where the next piece goes; *size 0: nothing left. NULL: failed */
int32_t journal_record_filled(struct journal *journal, uint32_t size);
int32_t journal_record_end(struct journal *journal);
int journal_full(const struct journal *journal);   /* the next append seals the file and begins another */

/* Between the files of the writer. */
int32_t journal_fail(struct journal *journal, int32_t error);
uint64_t journal_end(const struct journal *journal);                      /* of the file: where the next byte goes */
int32_t journal_flush(struct journal *journal);
int32_t journal_put(struct journal *journal, const void *bytes, uint64_t size);
int32_t journal_pad(struct journal *journal);                             /* zeros up to the next JOURNAL_RECORD_STEP */
int32_t journal_note(struct journal *journal, const struct journal_record *record);   /* for the footer; what the state has folded in */

/* Where a footer goes: into the file, or nowhere but its checksums. */
struct footer_sink {
    uint64_t (*begin)(struct footer_sink *sink);      /* the next section: its position; crc is ~0 again */
    int32_t (*put)(struct footer_sink *sink, const void *bytes, uint64_t size);
    struct journal *journal;
    uint32_t crc;
    int32_t error;
};
int32_t footer_write(struct journal *journal, struct journal_trailer *trailer, struct footer_sink *sink);   /* fills in what it says of the sections */

/* ---- reading: journal_read.c ---- */
void journal_name(char name[JOURNAL_NAME_SIZE], uint64_t first_position);
int journal_name_read(const char *name, uint64_t *first_position);        /* 0: not a journal's name */
uint32_t journal_seed(const struct journal_header *header);               /* of the checksums of its records: those of another file fail */
uint32_t journal_crc(uint32_t crc, const void *bytes, uint64_t size);     /* goes on; not inverted at the end. crc32c.c */
uint32_t journal_header_crc(const uint8_t block[JOURNAL_HEADER_SIZE]);    /* of a header's block */
/* 0 or an errno; EILSEQ: it is damaged (*damage); EPROTO: of another version. The checkpoint is not looked at. */
int32_t journal_read_header(struct disk *disk, int32_t file, struct journal_header *header, uint32_t *damage);
/* 0, ENODATA: the file is not sealed, or an errno. Sections are checked by their checksums apart. */
int32_t journal_read_trailer(struct disk *disk, int32_t file, const struct journal_header *header, struct journal_trailer *trailer);

/* Walks records. The payload of a record is there as a whole only where the buffer holds it (always of operations). */
struct journal_reader {
    struct disk *disk;
    int32_t file;
    uint32_t seed;
    uint64_t size;                            /* bytes of the file; records lie below it */
    uint64_t position;                        /* of the next record */
    uint8_t *buffer;
    uint32_t buffer_size;                     /* bytes; short files need little */
    uint64_t buffer_position;
    uint32_t buffer_used;
    uint64_t *progress;                       /* bytes read are added here; may be NULL */
};
int32_t reader_open(struct journal_reader *reader, struct disk *disk, int32_t file, const struct journal_header *header, uint64_t end);
void reader_close(struct journal_reader *reader);
/* 0: *record, and *payload where it is whole in memory (else NULL), and position moved on. ENODATA: no valid record header here;
   EBADMSG: header good (in *record), payload not. Or an errno. `deep`: look at the payload's checksum. */
int32_t reader_next(struct journal_reader *reader, struct journal_record *record, const uint8_t **payload, int deep);
/* The next place at or after `from` with a valid record header: 0 and *record, position there; ENODATA: none up to the end. */
int32_t reader_find(struct journal_reader *reader, uint64_t from, struct journal_record *record);

/* ---- files as a whole: journal_scan.c, journal_files.c, journal_verify.c ---- */
/* Where a journal has a file that no reader needs: only its header stays. Replaces the file; who has the old one open reads on. Errno. */
int32_t journal_empty_file(struct disk *disk, const uint8_t *log_id, uint64_t first_position);

static_assert(sizeof(struct journal_header) == 104, "journal_header");
static_assert(sizeof(struct journal_record) == 192, "journal_record");
static_assert(sizeof(struct journal_checkpoint) == 64, "journal_checkpoint");
static_assert(sizeof(struct journal_partition) == 64, "journal_partition");
static_assert(sizeof(struct journal_topic) == 104 + sizeof(struct order_entry) + sizeof(struct topic_operation), "journal_topic");
static_assert(sizeof(struct journal_summary) == 80, "journal_summary");
static_assert(sizeof(struct journal_row) == 64, "journal_row");
static_assert(sizeof(struct journal_trailer) == 128, "journal_trailer");
static_assert(JOURNAL_BUFFER_SIZE >= 2 * (sizeof(struct journal_record) + sizeof(struct topic_operation) + SETTINGS_SIZE_MAX),
              "an operation is whole in the buffer");

#endif
