/* An archive in the memory of its process: the sealed files of one data directory, and what is loaded of their footers. */
#ifndef TOTALOG_ARCHIVE_H
#define TOTALOG_ARCHIVE_H

#include "replica.h"

#define ARCHIVE_LOADED_MAX (64u << 20)        /* bytes of footers that are kept; one is always */
#define ARCHIVE_OPEN_MAX 64                   /* files that are kept open */
#define ARCHIVE_WINDOW_SIZE (1u << 20)        /* bytes read at once for small batches */
#define ARCHIVE_GAP_MAX (32u << 10)           /* bytes between two wanted batches that are read along rather than skipped */
#define ARCHIVE_DIRECT_SIZE (64u << 10)       /* larger batches are read to where they belong */

struct archive_file {
    uint64_t first_position;                  /* its name */
    uint64_t end_position;
    enum { FILE_UNREAD, FILE_SEALED, FILE_UNSEALED, FILE_EMPTIED } kind;
    int32_t file;                             /* < 0: not open */
    uint32_t seed;
    struct journal_trailer trailer;
    struct journal_summary *summaries;        /* NULL: not loaded; likewise the two others */
    struct journal_row *rows;
    uint32_t *order;
    uint64_t used;                            /* when: tells what to give up first */
};

struct archive {
    struct disk *disk;
    int owns_disk;
    struct log *view;                         /* of the region: log starts, and whether a topic is alive */
    uint8_t log_id[16];
    struct archive_file *files;               /* by position */
    uint32_t file_count, file_room;
    uint32_t open_count;
    uint64_t loaded;                          /* bytes of footers */
    uint64_t loaded_max;
    uint64_t clock;
    struct archive_failure failure;
    uint8_t *window;                          /* bytes of one file, lately read */
    int32_t window_file;                      /* its descriptor; < 0: nothing */
    uint64_t window_position;
    uint32_t window_used;
    uint64_t refreshed;                       /* `archived` when the names were looked at last */
    uint64_t dead_checkpoint;                 /* first position, plus one, of the file whose checkpoint said last which files are dead */
    uint64_t asked;                           /* likewise, of the newest file when the replica was asked for another */
};

/* What a file has of a partition, or of a topic in total order. */
struct part {
    struct archive_file *file;
    uint32_t first, count;                    /* rows, or places in `order` */
    int view;
    uint64_t start, next;                     /* offsets, or total orders */
    uint64_t total_order;                     /* of the first batch */
    uint64_t bytes;
    uint64_t first_bytes;                     /* of a partition: of all its batches before these */
    int64_t max_timestamp;
};

/* archive_files.c. All that return int: 0, or an errno that stands in archive->failure as well. */
int archive_refresh(struct archive *archive);                                   /* looks at the directory's names */
int archive_know(struct archive *archive, struct archive_file *file);           /* header and trailer */
int archive_load_summaries(struct archive *archive, struct archive_file *file);
int archive_load_rows(struct archive *archive, struct archive_file *file);
int archive_open_file(struct archive *archive, struct archive_file *file);
int archive_fail(struct archive *archive, const struct archive_file *file, int32_t saved_errno, uint64_t byte, uint64_t position);
void archive_forget(struct archive *archive, struct archive_file *file);        /* closes it, and lets go of its footer */
void archive_forget_all(struct archive *archive);
/* 1 and *part; 0: the file has nothing of it; -1: it could not be read. */
int archive_part(struct archive *archive, struct archive_file *file, uint32_t slot, uint32_t generation, uint32_t partition, struct part *part);
/* The header of a record, and the bytes of its payload, both checked. */
int archive_record(struct archive *archive, const struct part *part, uint32_t at, struct journal_record *record);
int archive_copy(struct archive *archive, const struct part *part, uint32_t at, uint8_t *target, uint64_t room);

static inline const struct journal_row *row_at(const struct part *part, uint32_t at)
{
    const struct archive_file *file = part->file;
    return part->view ? &file->rows[file->order[part->first + at]] : &file->rows[part->first + at];
}

static inline uint64_t row_start(const struct part *part, const struct journal_row *row) { return part->view ? row->total_order : row->base_offset; }
static inline uint64_t row_end(const struct part *part, const struct journal_row *row) { return row_start(part, row) + row->last_offset_delta + 1; }

/* archive.c: what the region says of a topic or partition now. */
struct kept {
    uint32_t slot, generation, partition;
    uint64_t log_start, next;
    uint64_t bytes_appended, bytes_released;
    uint64_t archived;                        /* global: what lies below it is read here */
    struct topic_entry topic;
};
int archive_kept(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, struct kept *kept);   /* STATUS_* */
int archive_begin(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, struct kept *kept);  /* the same, with the files at hand */
uint64_t archive_bytes_before(const struct part *part, uint32_t at);       /* of the part's batches before this one */
uint64_t archive_partition_start(struct archive *archive, const struct kept *kept, uint32_t partition);

/* A key of batches. Of a topic in total order both are the same. */
enum archive_key { BY_OFFSET, BY_TOTAL_ORDER };

/* archive_cut.c: where a partition's log start comes to lie when all batches that end at or before `wanted` go. 1: *row; 0: nothing is known; -1. */
int archive_trim_row(struct archive *archive, const struct kept *kept, enum archive_key key, uint64_t wanted, struct trim_row *row);

/* A place in the archive: one batch. */
struct place {
    uint32_t file;                            /* number */
    struct part part;
    uint32_t at;                              /* row of the part */
};

/* archive_seek.c. 1: there is such a batch; 0: there is none; -1: it could not be read. */
int archive_find_part(struct archive *archive, const struct kept *kept, enum archive_key key, uint64_t wanted, struct place *place);   /* the last file with one at or before it */
uint32_t archive_find_row(const struct part *part, enum archive_key key, uint64_t wanted);        /* the first that ends after it; the part's count */
int archive_seek(struct archive *archive, const struct kept *kept, uint64_t offset, struct place *place);    /* the batch that holds it, or the next */
int archive_next(struct archive *archive, const struct kept *kept, struct place *place);          /* the next that is kept */
int archive_next_part(struct archive *archive, const struct kept *kept, struct place *place);     /* the next file that has one; its rows are not loaded */
int archive_settle(struct archive *archive, const struct kept *kept, struct place *place);        /* here, or the next that is kept */

/* restore_trims.c: of the topics in a region that was restored from the journal. */
void restore_trims(struct log *log, struct journal *journal);

#endif
