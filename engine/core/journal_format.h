/* The journal on disk: every struct of its files, and what Python may call of it. Read by the compiler and, as text, by cffi.
 *
 * A journal is the files of one data directory: what was ordered, in global order, but for the batches of memory topics. Little endian; a
 * `position` without more words is a count of bytes from the start of a file, a global position is the number of a batch over all topics.
 * README.md, "The journal", says how a file looks and what is promised; journal.h is the C side.
 */

#define JOURNAL_MAGIC 0x314c4e524a4c4154          /* "TALJRNL1" */
#define JOURNAL_RECORD_MAGIC 0x5452414c           /* "LART" */
#define JOURNAL_TRAILER_MAGIC 0x31444e454a4c4154  /* "TALJEND1" */
#define JOURNAL_VERSION 1
#define JOURNAL_HEADER_SIZE 4096                  /* bytes; the checkpoint follows */
#define JOURNAL_RECORD_STEP 64                    /* records begin at multiples of it */
#define JOURNAL_NONE 0xffffffffffffffff           /* no global position */
#define JOURNAL_NAME_SIZE 64
#define JOURNAL_TOPICS_TOLD 8

enum { JOURNAL_BATCH = 1, JOURNAL_OPERATION = 2, JOURNAL_MARKER = 3 };
enum { JOURNAL_EMPTIED = 1 };

/* ---- the start of a file ---- */
struct journal_header {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;                   /* of the whole header block, with zero here */
    uint8_t log_id[16];             /* the same in all directories of one log */
    uint64_t number;                /* grows from file to file; seeds the checksums of the records */
    uint64_t first_position;        /* global; no record below it; the file's name */
    uint64_t previous;              /* global position of the last record before this file, or JOURNAL_NONE */
    uint64_t floor;                 /* global; files whose end is at or below it are needed no more and may be missing */
    uint64_t checkpoint_size;       /* bytes, from JOURNAL_HEADER_SIZE on */
    uint64_t records_position;      /* of the first record */
    uint32_t checkpoint_crc;
    uint32_t flags;                 /* JOURNAL_EMPTIED: only the header is left of the file */
    uint64_t end_position;          /* of an emptied file: what its trailer said */
    uint64_t last_position;
};

/* ---- a record: this, then the payload, then zeros up to the next multiple of JOURNAL_RECORD_STEP ---- */
struct journal_record {
    uint32_t magic;
    uint32_t header_crc;            /* of what follows, seeded by the file's header */
    uint32_t payload_crc;
    uint32_t kind;
    uint64_t position;              /* of this record */
    uint64_t synced;                /* bytes of this file that were durable when it was written */
    uint64_t previous;              /* global position of the record before it, over all files */
    uint32_t payload_size;          /* bytes */
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t padding0;
    uint64_t padding1;
    struct order_entry entry;       /* as ordered; segment, segment position, ring sequence and broker mean nothing any more.
                                       Of a marker: only global_position, below which nothing will come any more */
};

/* ---- the checkpoint: all that was folded below first_position ---- */
struct journal_checkpoint {
    uint64_t next_position;         /* global */
    uint64_t last_position;         /* global position of the last record, or JOURNAL_NONE */
    uint32_t topic_count;           /* then for each: journal_topic, its partitions, its settings padded to 8 bytes; */
    uint32_t producer_count;        /* then so many producer_entry, oldest use first */
    uint64_t padding[5];
};

/* A topic of the fold: row of a checkpoint, and what restore installs. */
struct journal_topic {
    uint32_t topic_slot;
    uint32_t state;                 /* TOPIC_LIVE, or TOPIC_FREE: only slot and generation mean something */
    uint32_t generation;
    uint32_t flags;
    uint32_t order_level;
    uint32_t partition_count;
    int64_t retention_bytes;
    int64_t retention_ms;
    uint64_t created_position;
    uint64_t changed_position;
    uint64_t next_total_order;
    uint64_t log_start_total_order;
    uint64_t batch_count;           /* ever */
    uint64_t bytes_appended;
    uint64_t bytes_released;        /* when the log start was handed in */
    int64_t max_timestamp;
    struct order_entry record;      /* of the operation that describes the topic, in topic 0 */
    struct topic_operation operation;   /* as it was ordered, with slot and generation filled in; the settings stand apart */
};

struct journal_partition {
    uint64_t next_offset;
    uint64_t log_start_offset;
    uint64_t batch_count;           /* ever */
    uint64_t bytes_appended;
    uint64_t bytes_released;        /* when the log start was handed in */
    int64_t max_timestamp;
    uint32_t leader_epoch;
    uint32_t summary;               /* the writer's, while it runs */
    uint64_t padding;
};

/* ---- the end of a sealed file: summaries, rows, order, trailer ---- */
struct journal_summary {            /* one per partition that has batches in the file, sorted by slot, generation, partition */
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partition;
    uint32_t row_count;
    uint32_t row_first;             /* its rows are row_first, row_first + 1, ... */
    uint32_t padding;
    uint64_t first_offset;
    uint64_t next_offset;
    uint64_t first_total_order;
    uint64_t next_total_order;
    uint64_t bytes;                 /* payload */
    uint64_t first_bytes;           /* partition bytes before the first batch */
    int64_t max_timestamp;          /* of the batches of this file */
};

struct journal_row {                /* one per batch, sorted by slot, generation, partition, base offset */
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partition;
    uint32_t size;                  /* bytes of payload */
    uint64_t base_offset;
    uint64_t total_order;
    uint64_t global_position;
    uint64_t position;              /* of the record */
    int64_t max_timestamp;
    uint32_t last_offset_delta;
    uint32_t leader_epoch;
};

/* `order`: row_count numbers of 4 bytes: the rows of a topic stand together, and at their places in `order` stand the same rows (their
 * numbers) in total order. */

struct journal_trailer {            /* the last bytes of a sealed file */
    uint64_t magic;
    uint32_t crc;                   /* of the rest */
    uint32_t summary_count;
    uint32_t row_count;
    uint32_t summaries_crc;
    uint32_t rows_crc;
    uint32_t order_crc;
    uint64_t number;                /* the header's */
    uint64_t first_position;        /* the header's */
    uint64_t end_position;          /* global; every position below it is in this file or before, or was never journalled */
    uint64_t last_position;         /* global position of the last record up to the end of this file, or JOURNAL_NONE */
    uint64_t records_end;           /* bytes; the footer begins at the next multiple of JOURNAL_RECORD_STEP */
    uint64_t summaries_position;
    uint64_t rows_position;
    uint64_t order_position;
    uint64_t synced;                /* as in a record: bytes of this file that were durable when this was written */
    uint64_t padding[3];
};

/* ---- opening ---- */
enum {
    JOURNAL_OK = 0,
    JOURNAL_DAMAGED = 1,
    JOURNAL_OTHER_FORMAT = 2,       /* `format` is its version */
    JOURNAL_OTHER_LOG = 3,
    JOURNAL_FAILED = 4,             /* the system said no: saved_errno */
    JOURNAL_NO_MEMORY = 5
};

/* What is wrong where something is damaged. */
enum {
    DAMAGE_NONE = 0,
    DAMAGE_HEADER = 1,              /* of a file */
    DAMAGE_CHECKPOINT = 2,
    DAMAGE_RECORD = 3,              /* a record that was durable once is not there or has other bytes */
    DAMAGE_FOOTER = 4,
    DAMAGE_NOT_SEALED = 5,          /* a file that has a successor does not end as a sealed file does */
    DAMAGE_MISSING_FILE = 6,        /* between `file` and the one before it, or before the first */
    DAMAGE_ORDER = 7                /* whole records that do not follow each other */
};

struct journal_told {
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint8_t name[256];              /* ends with a zero */
};

struct journal_report {
    int32_t error;                  /* JOURNAL_* */
    int32_t saved_errno;
    uint32_t damage;                /* DAMAGE_* */
    uint32_t format;
    uint64_t file;                  /* first global position of the file, as in its name */
    uint64_t byte;                  /* in that file */
    uint64_t position;              /* first global position that is damaged or missing */
    uint64_t resumed;               /* global position of the next whole record behind it, or JOURNAL_NONE */
    uint64_t end;                   /* global position at which the journal ends */
    uint64_t cut_bytes;             /* of a torn tail */
    uint64_t file_count;
    uint64_t bytes_total;           /* to read; moves, like bytes_done, while the call runs: another thread may look */
    uint64_t bytes_done;
    uint32_t topic_count;           /* topics that lost something for sure, as far as they are known */
    uint32_t padding;
    struct journal_told topics[JOURNAL_TOPICS_TOLD];
};

struct disk;
struct journal;

/* A directory as the journal sees it: the real one. The descriptor is duplicated. NULL: no memory, or errno. */
struct disk *disk_open(int32_t directory_fd);
void disk_close(struct disk *disk);

/* Calls that a test can have fail, or be late. */
enum { DISK_WRITE = 0, DISK_SYNC = 1, DISK_ALLOCATE = 2, DISK_SYNC_NAMES = 3, DISK_CALLS = 4 };
/* From now on, after `after` good calls, `times` calls of this kind answer -error (0: they do as they should), each delayed by so many
   nanoseconds before. The first write that fails writes `partly` bytes before. May be called while another thread uses the disk. */
void disk_fault(struct disk *disk, uint32_t call, uint32_t after, uint32_t times, int32_t error, uint64_t partly, int64_t nanoseconds);

/* Checks the chain of files, folds the last one's checkpoint and records, cuts its torn tail and seals it: in this order, so that a kill at any
   moment is followed by the same answer. No new file is made. An empty directory: end 0. NULL: the report says why. A long call. */
struct journal *journal_open(int32_t directory_fd, const uint8_t *log_id, uint64_t file_size_max, struct journal_report *report);
/* The same on another disk, which stays the caller's. */
struct journal *journal_open_on(struct disk *disk, const uint8_t *log_id, uint64_t file_size_max, struct journal_report *report);
void journal_close(struct journal *journal);      /* without sealing */
struct disk *journal_disk(struct journal *journal);

/* Reads everything, sealed files too, and compares each checkpoint and footer with what the records say. Changes nothing. JOURNAL_*, as in the
   report. A long call. */
int32_t journal_verify(struct disk *disk, const uint8_t *log_id, struct journal_report *report);

/* The record at a global position (its header), of what is written. 0; ENOENT: there is none; or another errno. */
int32_t journal_record_at(struct journal *journal, uint64_t position, struct journal_record *record);

/* Writing. All answer 0 or an errno, which the journal keeps: nothing is written any more after the first. */
int32_t journal_begin(struct journal *journal);   /* the next file, with a checkpoint of the state as it is now; durable when it returns */
int32_t journal_append(struct journal *journal, uint32_t topic_slot, uint32_t topic_generation, const struct order_entry *entry,
                       const uint8_t *payload);   /* into the buffer; a full one is written, a full file sealed and the next begun */
int32_t journal_skip(struct journal *journal, uint64_t position);   /* what is missing below this global position belongs to memory topics */
int32_t journal_write(struct journal *journal);   /* what is in the buffer */
int32_t journal_sync(struct journal *journal);    /* writes, then fdatasync */
int32_t journal_mark(struct journal *journal);    /* nothing waits: tells the file how far it is durable */
int32_t journal_seal(struct journal *journal);    /* syncs, then the footer. The next append needs journal_begin */

uint64_t journal_next(struct journal *journal);         /* global: where the journal ends */
uint64_t journal_durable(struct journal *journal);      /* global: every position below it is durable */
uint64_t journal_sealed(struct journal *journal);       /* global: every position below it stands in sealed files */
int32_t journal_failure(struct journal *journal);       /* the errno that ended it; 0: none */

/* The folded state, as rows. */
int32_t journal_topic_at(struct journal *journal, uint32_t slot, struct journal_topic *topic);      /* 0: never used */
int32_t journal_partition_at(struct journal *journal, uint32_t slot, uint32_t partition, struct journal_partition *row);   /* 0: none */
