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

uint32_t alike_take(const struct alike *alike, const uint8_t *source, uint32_t size, int64_t timestamp_max, uint32_t segment,
                    uint64_t group, uint32_t group_size, uint32_t *correlation_ids, uint32_t *used);
uint32_t alike_answer_all(const struct alike_answer *answer, uint64_t group, const uint32_t *correlation_ids, uint32_t count,
                          uint8_t *target, int64_t *position);
