/* Runs of Produce requests that differ in their records only: what a producer sends when it is busy.
 *
 * A client that writes to one topic, one partition at a time, sends the same frame again and again, with another correlation
 * id, partition, and records. Once one of them was read by the general path, those behind it in the receive buffer are recognized by
 * comparing bytes, and cost no more than the check of their batch.
 *
 * What holds here:
 * - A frame is taken only if every byte of it is understood: head and tail equal byte by byte, all sizes agreeing. What
 *   differs in anything, or has a batch with any fault, is left where it is, for the general path to answer.
 * - Nothing outside [source, source + size) is read.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../engine/core/shared.h"

#include "alike.h"
#include "batch.h"
#include "big_endian.h"

#define SIZE_WORD 4
#define CORRELATION_ID_AT 4     /* in a frame behind its size word */
#define BEHIND_CORRELATION_ID 8
#define CODEC_MASK 0x07
#define VARINT_BYTES_MAX 5
#define PARTITION_SIZE 4
#define TAGS_SIZE 3             /* no tagged fields of partition, topic and request */

/* The size of the records, and how many bytes say it; false where they do not say one within what is left. */
static bool records_size(const uint8_t *at, uint32_t left, bool flexible, uint32_t *size, uint32_t *taken)
{
    if (!flexible) {
        if (left < 4)
            return false;
        *size = load32(at);
        *taken = 4;
        return true;
    }
    uint64_t value = 0;
    for (uint32_t i = 0; i < left && i < VARINT_BYTES_MAX; i++) {
        value |= (uint64_t)(at[i] & 0x7f) << 7 * i;
        if ((at[i] & 0x80) == 0) {
            *size = (uint32_t)value - 1;
            *taken = i + 1;
            return value > 0 && value <= UINT32_MAX;
        }
    }
    return false;
}

static bool head_equal(const struct alike *alike, const uint8_t *frame)
{
    const uint8_t *head = (const uint8_t *)(uintptr_t)alike->head;
    return memcmp(frame, head, CORRELATION_ID_AT) == 0 &&
           memcmp(frame + BEHIND_CORRELATION_ID, head + BEHIND_CORRELATION_ID, alike->head_size - BEHIND_CORRELATION_ID) == 0;
}

/* Where the records of a frame of `size` bytes begin, if it is one of the kind; else 0. */
static uint32_t records_at(const struct alike *alike, const uint8_t *frame, uint32_t size, uint32_t *records)
{
    uint32_t taken, at = alike->head_size + PARTITION_SIZE, tail = alike->flexible ? TAGS_SIZE : 0;
    if (size <= at || !head_equal(alike, frame) || load32(frame + alike->head_size) >= alike->partitions ||
        !records_size(frame + at, size - at, alike->flexible, records, &taken))
        return 0;
    at += taken;
    if (size - at < tail || *records != size - at - tail)
        return 0;
    for (uint32_t i = 0; i < tail; i++)
        if (frame[size - tail + i] != 0)
            return 0;
    return at;
}

/* Checks the batches of complete frames at `source`, one behind the other, and fills one element of the group for each, up to
 * the first frame that is of another kind, not complete, or has a batch that is not plainly good. Returns how many;
 * *used is their size in bytes. `timestamp_max`: milliseconds since 1970; 0: timestamps are not checked. `segment`: in which the frames
 * lie and may stay; 0: their batches are copied. */
uint32_t alike_take(const struct alike *alike, const uint8_t *source, uint32_t size, int64_t timestamp_max, uint32_t segment,
                    uint64_t group, uint32_t group_size, uint32_t *correlation_ids, uint32_t *used)
{
    const uint8_t *at = source;
    const struct append *appends = (const struct append *)(uintptr_t)group;
    uint32_t left = size, count = 0;
    for (; count < group_size && left > SIZE_WORD; count++) {
        uint32_t frame_size = load32(at), records = 0;
        if (frame_size > left - SIZE_WORD)
            break;
        const uint8_t *frame = at + SIZE_WORD;
        uint32_t batch_at = records_at(alike, frame, frame_size, &records);
        if (batch_at == 0)
            break;
        uint32_t partition = load32(frame + alike->head_size);
        if (batch_check(group, count, (uint64_t)(uintptr_t)(frame + batch_at), records, alike->size_max, segment,
                        alike->topic_slot, alike->topic_generation, partition, timestamp_max) != STATUS_OK)
            break;
        if (appends[count].flags > alike->attributes_max || (appends[count].flags & CODEC_MASK) > alike->codec_max)
            break;
        correlation_ids[count] = load32(frame + CORRELATION_ID_AT);
        at += SIZE_WORD + frame_size;
        left -= SIZE_WORD + frame_size;
    }
    *used = size - left;
    return count;
}

/* Writes the answers to the first of `count` elements to `target`, one behind the other, up to the first that the log has not stored,
 * now or before. Returns how many; *position is the largest global position among them; -1: none. */
uint32_t alike_answer_all(const struct alike_answer *answer, uint64_t group, const uint32_t *correlation_ids, uint32_t count,
                          uint8_t *target, int64_t *position)
{
    const struct append *appends = (const struct append *)(uintptr_t)group;
    uint8_t *at = target;
    uint32_t i = 0;
    *position = -1;
    for (; i < count && (appends[i].status == STATUS_OK || appends[i].status == STATUS_DUPLICATE); i++, at += answer->frame_size) {
        if (appends[i].global_position > *position)
            *position = appends[i].global_position;
        memcpy(at, (const void *)(uintptr_t)answer->frame, answer->frame_size);
        store32(at + SIZE_WORD, correlation_ids[i]);
        store32(at + answer->partition_at, appends[i].partition);
        store64(at + answer->base_offset_at, (uint64_t)appends[i].base_offset);
        if (answer->log_start_offset_at != 0)
            store64(at + answer->log_start_offset_at, (uint64_t)appends[i].log_start_offset);
    }
    return i;
}

typedef void append_call(void *log, struct append *appends, uint32_t count);

/* Takes, orders, and answers what is alike at `source`. Returns how many requests; 0: nothing was done. */
uint32_t alike_run(const struct alike *alike, const struct alike_answer *answer, const struct alike_orderer *orderer,
                   const uint8_t *source, uint32_t size, int64_t timestamp_max, uint32_t segment, struct alike_run *run)
{
    uint32_t room = orderer->answers_size / answer->frame_size;
    uint32_t *correlation_ids = (uint32_t *)(uintptr_t)orderer->correlation_ids;
    uint32_t count = alike_take(alike, source, size, timestamp_max, segment, orderer->group,
                                room < orderer->group_size ? room : orderer->group_size, correlation_ids, &run->size);
    if (count == 0)
        return 0;
    append_call *append = (append_call *)(uintptr_t)orderer->append;
    append((void *)(uintptr_t)orderer->log, (struct append *)(uintptr_t)orderer->group, count);
    run->stored = alike_answer_all(answer, orderer->group, correlation_ids, count, (uint8_t *)(uintptr_t)orderer->answers, &run->position);
    return count;
}
