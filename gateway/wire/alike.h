/* What alike.c offers to Python: read by the compiler and, as text after batch.h, by cffi. */

/* What Produce requests of one producer to one topic have in common, and where their batches go. */
struct alike {
    uint64_t head;             /* address of a frame's bytes from the API key to the count of partitions, which is one */
    uint32_t head_size;        /* bytes; the correlation id among them is not compared */
    uint32_t flexible;         /* 1: the records have a varint for their size, and tagged fields follow them */
    uint32_t attributes_max;   /* a batch with larger attributes is left to others */
    uint32_t codec_max;
    uint32_t size_max;         /* bytes of a batch */
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partitions;       /* of the topic */
};

/* An answer that is the same for all of them but for these numbers. */
struct alike_answer {
    uint64_t frame;            /* address of a whole answer to one of them, size word included */
    uint32_t frame_size;       /* bytes */
    uint32_t base_offset_at;   /* where the numbers stand in it; the correlation id follows the size word */
    uint32_t log_start_offset_at;  /* 0: it has none */
    uint32_t partition_at;
};

/* Who orders the batches of runs, and room for what that gives. */
struct alike_orderer {
    uint64_t append;           /* address of the log's void (*)(void *log, struct append *, uint32_t count) */
    uint64_t log;
    uint64_t group;            /* of struct append */
    uint64_t correlation_ids;  /* of uint32_t: one for each element of the group */
    uint64_t answers;          /* of bytes */
    uint32_t answers_size;
    uint32_t group_size;
};

/* What was done. */
struct alike_run {
    uint32_t size;             /* bytes of the requests */
    uint32_t stored;           /* requests that were stored, and are answered, before the first that was not */
    int64_t position;          /* largest global position among them; -1: none */
};

uint32_t alike_run(const struct alike *alike, const struct alike_answer *answer, const struct alike_orderer *orderer,
                   const uint8_t *source, uint32_t size, int64_t timestamp_max, uint32_t segment, struct alike_run *run);
uint32_t alike_take(const struct alike *alike, const uint8_t *source, uint32_t size, int64_t timestamp_max, uint32_t segment,
                    uint64_t group, uint32_t group_size, uint32_t *correlation_ids, uint32_t *used);
uint32_t alike_answer_all(const struct alike_answer *answer, uint64_t group, const uint32_t *correlation_ids, uint32_t count,
                          uint8_t *target, int64_t *position);
