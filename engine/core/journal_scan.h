/* What opening and verifying a journal share. journal_scan.c has the rules. */
#ifndef TOTALOG_JOURNAL_SCAN_H
#define TOTALOG_JOURNAL_SCAN_H

#include "journal.h"

struct files {
    uint64_t *positions;              /* first positions, rising */
    uint32_t count, room;
    int no_memory;
};

/* What is known of the files before the one in hand. */
struct chain {
    uint64_t last_position, end_position, number;
};

struct opened {
    int32_t file;                     /* < 0: not open */
    struct journal_header header;
    struct journal_trailer trailer;
    int sealed;
};

/* What the records of a file say. */
struct walk {
    uint64_t end;                     /* of the good records */
    uint64_t synced;                  /* S */
    int32_t stopped;                  /* ENODATA, EBADMSG: no good record there; EILSEQ: one that does not follow */
};

/* journal_files.c. Whoever answers an errno has told it in the report. */
int32_t files_list(struct disk *disk, struct files *files);                /* an errno, not told; free `positions` */
int32_t report_error(struct journal_report *report, int32_t error);
int32_t report_damage(struct journal_report *report, uint32_t damage, uint64_t byte, uint64_t position);
void report_topics(struct journal_report *report, const struct journal_state *state, struct journal_reader *reader, uint64_t byte);
int32_t file_open(struct disk *disk, uint64_t first_position, enum disk_open how, const uint8_t *log_id, struct opened *opened,
                  struct journal_report *report);
void file_close(struct disk *disk, struct opened *opened);
int32_t file_follows(struct chain *chain, const struct opened *opened, uint64_t floor, int is_first, struct journal_report *report);
int32_t files_check(struct disk *disk, const struct files *files, uint64_t floor, const uint8_t *log_id, struct chain *chain, int *is_first,
                    struct journal_report *report);
int32_t file_checkpoint(struct disk *disk, const struct opened *opened, struct journal_state **state, struct journal_report *report);
int32_t file_footer_good(struct disk *disk, int32_t file, const struct journal_trailer *trailer, int *good);   /* an errno, not told */

/* journal_scan.c */
struct journal *journal_new(struct disk *disk, const uint8_t *log_id, uint64_t file_size_max);
int32_t file_read(struct journal *journal, struct opened *opened, struct walk *walk, struct journal_report *report);

#endif
