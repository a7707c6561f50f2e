/* Reading: by partition offset or by total order, by timestamp, and what lies where.
 *
 * Invariants
 *  - Nothing loaded from the region is believed before it was checked: numbers against the sizes of what they index, segments against the
 *    block table, and everything once more against log start and memory start after the copy. Both move before memory goes back,
 *    so what is still above them was not overwritten while it was read.
 *  - That does not hold of what a search passes on its way, nor of holes in the view: there an index page is found again after it was read. Its
 *    reference is cleared, visibly, before it is used for something else.
 *  - Payload is copied under a pin of its segment (segment.c); where no pin is free, a look after the copy decides. What is lent stays under its
 *    pin until the reader returns it, and some pins are never lent, so that others can always copy under one.
 *  - Only what `entry_count` and `element_count` cover is read: both are stored after `ordered`. Of topics on disk, readers see what is
 *    durable on as many data directories as the topic asks for; the rest is ordered, and not visible yet.
 *
 * A `cursor` is one place in one log: a partition, or the topic in total order (the view).
 */
#include "log.h"

struct cursor {
    uint32_t slot;
    uint32_t generation;
    int view;
    uint64_t table_position;          /* of the partition's entry */
    struct index order;
    struct index elements;            /* of a partition */
    int careful;                      /* index pages are found again after they were read */
    uint64_t first, count;            /* elements, or order entries; those that are visible */
    uint64_t log_start, memory_start;
    uint64_t next, end;               /* of what is visible, and of what is ordered */
    uint64_t bytes_end;               /* payload before `next`, since the topic was made */
    uint32_t leader_epoch;
};

static int topic_alive(struct log *log, uint32_t slot, uint32_t generation)
{
    return mem_observe64(&log->mem, topic_position(slot)) == ((uint64_t)generation << 32 | TOPIC_LIVE);
}

static uint32_t table_slot(struct log *log, uint32_t slot, uint32_t partition)
{
    uint64_t at = topic_position(slot);
    uint32_t extents = mem_load32(&log->mem, FIELD(at, struct topic_entry, extent_count));
    for (uint32_t i = 0; i < extents && i < EXTENTS_MAX; i++) {
        struct extent extent = load_extent(&log->mem, at, i);
        if (partition < extent.count)
            return extent.first + partition;
        partition -= extent.count;
    }
    return PARTITIONS_MAX;
}

/* Everything that is ordered. */
static int open_ordered(struct log *log, struct cursor *cursor, uint32_t slot, uint32_t generation, uint32_t partition)
{
    struct mem *mem = &log->mem;
    if (slot >= TOPICS_MAX || !topic_alive(log, slot, generation))
        return STATUS_UNKNOWN_TOPIC;
    uint64_t topic = topic_position(slot);
    mem_invalidate(mem, topic, sizeof(struct topic_entry));
    cursor->slot = slot;
    cursor->generation = generation;
    cursor->view = partition == PARTITION_VIEW;
    cursor->careful = 1;
    uint64_t entry_count = mem_load64(mem, FIELD(topic, struct topic_entry, entry_count));
    cursor->leader_epoch = 0;
    if (cursor->view) {
        cursor->count = entry_count;
        cursor->next = mem_load64(mem, FIELD(topic, struct topic_entry, next_total_order));
        cursor->first = mem_load64(mem, FIELD(topic, struct topic_entry, entry_first));
        cursor->log_start = mem_load64(mem, FIELD(topic, struct topic_entry, log_start_total_order));
        cursor->memory_start = mem_load64(mem, FIELD(topic, struct topic_entry, memory_start_total_order));
        cursor->bytes_end = mem_load64(mem, FIELD(topic, struct topic_entry, bytes_appended));
    } else {
        if (partition >= mem_load32(mem, FIELD(topic, struct topic_entry, partition_count)))
            return STATUS_UNKNOWN_TOPIC;
        uint32_t row = table_slot(log, slot, partition);
        if (row >= PARTITIONS_MAX)
            return STATUS_UNKNOWN_TOPIC;
        uint64_t at = cursor->table_position = partition_position(row);
        mem_invalidate(mem, at, sizeof(struct partition_entry));
        cursor->count = mem_load64(mem, FIELD(at, struct partition_entry, element_count));
        cursor->next = mem_load64(mem, FIELD(at, struct partition_entry, next_offset));
        cursor->first = mem_load64(mem, FIELD(at, struct partition_entry, element_first));
        cursor->log_start = mem_load64(mem, FIELD(at, struct partition_entry, log_start_offset));
        cursor->memory_start = mem_load64(mem, FIELD(at, struct partition_entry, memory_start_offset));
        cursor->bytes_end = mem_load64(mem, FIELD(at, struct partition_entry, bytes_appended));
        cursor->leader_epoch = mem_load32(mem, FIELD(at, struct partition_entry, leader_epoch));
        cursor->elements = partition_index(row, mem_load64(mem, FIELD(at, struct partition_entry, index_root)));
        if (mem_load32(mem, FIELD(at, struct partition_entry, topic_slot)) != slot ||
            mem_load32(mem, FIELD(at, struct partition_entry, topic_generation)) != generation)
            return STATUS_UNKNOWN_TOPIC;
    }
    cursor->order = order_index(slot, mem_load64(mem, FIELD(topic, struct topic_entry, index_root)));
    cursor->end = cursor->next;
    return STATUS_OK;
}

/* Whether the number is still found where it was. */
static int found_again(struct log *log, const struct index *index, uint64_t number, uint64_t position)
{
    struct index now = *index;
    now.root = mem_observe64(&log->mem, index->root_position);
    return index_find(log, &now, number) == position;
}

/* Element `number` of the cursor, as its order entry. 0: no page there (released). */
static int entry_at(struct log *log, const struct cursor *cursor, uint64_t number, struct order_entry *entry)
{
    uint64_t position;
    if (!cursor->view) {
        uint64_t element = number;
        if ((position = index_find(log, &cursor->elements, element)) == 0)
            return 0;
        mem_invalidate(&log->mem, position, sizeof(struct partition_element));
        number = mem_load64(&log->mem, FIELD(position, struct partition_element, entry));
        if (cursor->careful && !found_again(log, &cursor->elements, element, position))
            return 0;
    }
    if ((position = index_find(log, &cursor->order, number)) == 0)
        return 0;
    mem_invalidate(&log->mem, position, sizeof *entry);
    mem_read(&log->mem, position, entry, sizeof *entry);
    return !cursor->careful || found_again(log, &cursor->order, number, position);
}

/* The first element at or after `number` whose batch is still there; the cursor's count where there is none. */
static uint64_t next_live(struct log *log, const struct cursor *cursor, uint64_t number, struct order_entry *entry)
{
    for (; number < cursor->count; number++) {
        if (entry_at(log, cursor, number, entry)) {
            if (entry->state == ENTRY_LIVE)
                return number;
        } else if (cursor->view) {
            number += ENTRIES_PER_PAGE - number % ENTRIES_PER_PAGE - 1;
        }
    }
    return cursor->count;
}

static uint64_t start_of(const struct cursor *cursor, const struct order_entry *entry)
{
    return cursor->view ? entry->total_order : entry->base_offset;
}

static uint64_t end_of(const struct cursor *cursor, const struct order_entry *entry)
{
    return start_of(cursor, entry) + entry->last_offset_delta + 1;
}

static int64_t running_max(const struct cursor *cursor, const struct order_entry *entry)
{
    return cursor->view ? entry->topic_max_timestamp : entry->partition_max_timestamp;
}

/* The first element in [first, count) of which `reached` is true, or one before it, of which and up to it some page is gone. */
static uint64_t search(struct log *log, const struct cursor *cursor, int (*reached)(const struct cursor *, const struct order_entry *, int64_t),
                       int64_t wanted)
{
    uint64_t low = cursor->first, high = cursor->count;
    struct order_entry entry;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2, probe = middle;
        while (probe < high && !entry_at(log, cursor, probe, &entry))
            probe += ENTRIES_PER_PAGE - probe % ENTRIES_PER_PAGE;
        if (probe >= high)
            high = middle;
        else if (reached(cursor, &entry, wanted))
            high = probe > middle ? middle : probe;
        else
            low = probe + 1;
    }
    return low;
}

static int ends_after(const struct cursor *cursor, const struct order_entry *entry, int64_t offset)
{
    return (int64_t)end_of(cursor, entry) > offset;
}

/* The batch that holds the offset, or the first one after it. */
static uint64_t find_offset(struct log *log, const struct cursor *cursor, int64_t offset, struct order_entry *entry)
{
    uint64_t number = search(log, cursor, ends_after, offset);
    while ((number = next_live(log, cursor, number, entry)) < cursor->count && (int64_t)end_of(cursor, entry) <= offset)
        number++;
    return number;
}

static int lies_at(const struct cursor *cursor, const struct order_entry *entry, int64_t position)
{
    (void)cursor;
    return (int64_t)entry->global_position >= position;
}

static int is_as_late(const struct cursor *cursor, const struct order_entry *entry, int64_t timestamp)
{
    return running_max(cursor, entry) >= timestamp;
}

uint32_t directory_count(struct log *log)
{
    uint64_t at = FIELD(CONTROL_POSITION, struct control, directories);
    mem_invalidate(&log->mem, at, sizeof(uint32_t));
    return mem_load32(&log->mem, at);
}

/* Global position from which on batches of the topic are not visible yet. */
static uint64_t visible_end(struct log *log, uint32_t slot)
{
    struct mem *mem = &log->mem;
    uint32_t flags = mem_load32(mem, FIELD(topic_position(slot), struct topic_entry, flags));
    if (flags & (TOPIC_FLAG_MEMORY | TOPIC_FLAG_VISIBLE_ORDERED))
        return UINT64_MAX;
    uint32_t directories = directory_count(log);
    if (directories == 0)
        return UINT64_MAX;
    uint32_t wanted = flags >> TOPIC_REPLICATION_SHIFT & TOPIC_REPLICATION_MASK;
    wanted = wanted == 0 ? 1 : wanted < directories ? wanted : directories;
    wanted = wanted < DIRECTORIES_MAX ? wanted : DIRECTORIES_MAX;
    return mem_observe64(mem, FIELD(CONTROL_POSITION, struct control, replicated) + (wanted - 1) * sizeof(uint64_t));
}

/* `next` may have moved in its line, or the partition's line before the topic's, while what it ends is not counted or not found yet: of that nobody
 * knows whether it is durable. Returns how many elements are found. */
static uint64_t known_count(struct log *log, struct cursor *cursor, struct order_entry *entry)
{
    uint64_t known = cursor->count, start;
    while (known > cursor->first && !entry_at(log, cursor, known - 1, entry))
        known--;
    if (known > cursor->first) {
        cursor->next = end_of(cursor, entry);
        cursor->bytes_end = cursor->view ? entry->topic_bytes + entry->size : entry->partition_bytes + entry->size;
    } else {
        start = cursor->log_start > cursor->memory_start ? cursor->log_start : cursor->memory_start;
        if (cursor->first < cursor->count || start < cursor->next)
            cursor->next = start;
    }
    return cursor->count = known;
}

/* What is not visible yet is left out. The last entry alone is looked at where all is. */
static void leave_out(struct log *log, struct cursor *cursor, uint64_t from)
{
    struct order_entry entry;
    if (known_count(log, cursor, &entry) == cursor->first || entry.global_position < from)
        return;
    uint64_t number = search(log, cursor, lies_at, (int64_t)from);
    while (number < cursor->count && (!entry_at(log, cursor, number, &entry) || entry.global_position < from))
        number++;
    if (number == cursor->count)
        return;                       /* released meanwhile, and so durable */
    cursor->count = number;
    cursor->next = start_of(cursor, &entry);
    cursor->bytes_end = cursor->view ? entry.topic_bytes : entry.partition_bytes;
    if (cursor->next < cursor->log_start)
        cursor->next = cursor->log_start;    /* trimmed before it was seen */
}

static int open_cursor(struct log *log, struct cursor *cursor, uint32_t slot, uint32_t generation, uint32_t partition)
{
    for (;;) {
        struct cursor now;
        int status = open_ordered(log, cursor, slot, generation, partition);
        uint64_t end = status == STATUS_OK ? visible_end(log, slot) : UINT64_MAX, count = cursor->count;
        if (end == UINT64_MAX || end >= mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, ordered)))
            return status;
        leave_out(log, cursor, end);
        /* Elements, and none of them found: not there yet, or released meanwhile, and then the head tells. */
        if (cursor->count > cursor->first || count == cursor->first)
            return status;
        if (open_ordered(log, &now, slot, generation, partition) != STATUS_OK || now.first == cursor->first)
            return status;
    }
}

/* Log start and memory start may have passed what was just read; then it may have been anything. STATUS_OK: they have not passed `offset`. */
static int look_again(struct log *log, const struct cursor *cursor, uint64_t offset, uint64_t *log_start)
{
    struct mem *mem = &log->mem;
    if (!topic_alive(log, cursor->slot, cursor->generation))
        return STATUS_UNKNOWN_TOPIC;
    uint64_t topic = topic_position(cursor->slot), memory_start;
    if (cursor->view) {
        mem_invalidate(mem, FIELD(topic, struct topic_entry, next_total_order), 2 * LINE_SIZE);
        *log_start = mem_load64(mem, FIELD(topic, struct topic_entry, log_start_total_order));
        memory_start = mem_load64(mem, FIELD(topic, struct topic_entry, memory_start_total_order));
    } else {
        mem_invalidate(mem, cursor->table_position, sizeof(struct partition_entry));
        *log_start = mem_load64(mem, FIELD(cursor->table_position, struct partition_entry, log_start_offset));
        memory_start = mem_load64(mem, FIELD(cursor->table_position, struct partition_entry, memory_start_offset));
    }
    return offset < *log_start ? STATUS_OFFSET_OUT_OF_RANGE : offset < memory_start ? STATUS_ON_DISK : STATUS_OK;
}

/* All partitions have the same one. */
static uint32_t view_leader_epoch(struct log *log, uint32_t slot)
{
    uint32_t row = table_slot(log, slot, 0);
    if (row >= PARTITIONS_MAX)
        return 0;
    mem_invalidate(&log->mem, partition_position(row), sizeof(struct partition_entry));
    return mem_load32(&log->mem, FIELD(partition_position(row), struct partition_entry, leader_epoch));
}

int32_t log_bounds(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, struct bounds *bounds)
{
    struct cursor cursor;
    int status = open_cursor(log, &cursor, slot, generation, partition);
    if (status != STATUS_OK)
        return status;
    uint64_t appended = cursor.view ? FIELD(topic_position(slot), struct topic_entry, bytes_appended)
                                    : FIELD(cursor.table_position, struct partition_entry, bytes_appended);
    uint64_t released = cursor.view ? FIELD(topic_position(slot), struct topic_entry, bytes_released)
                                    : FIELD(cursor.table_position, struct partition_entry, bytes_released);
    *bounds = (struct bounds){
        .log_start_offset = (int64_t)cursor.log_start,
        .memory_start_offset = (int64_t)(cursor.memory_start > cursor.log_start ? cursor.memory_start : cursor.log_start),
        .next_offset = (int64_t)cursor.next,
        .end_offset = (int64_t)cursor.end,
        .bytes = mem_load64(&log->mem, appended) - mem_load64(&log->mem, released),
        .leader_epoch = cursor.view ? view_leader_epoch(log, slot) : cursor.leader_epoch,
    };
    return STATUS_OK;
}

#define PINS_KEPT 8                   /* never lent */

struct copy {
    uint64_t target;                  /* address */
    uint64_t room;                    /* bytes there */
    uint64_t size_max;
    uint64_t lent_size_min;
    struct read_batch *batches;
    uint32_t batches_max;
    uint32_t pinned;                  /* segment under the pin */
    int pin;
    int whole_first;
};

static void let_go(struct log *log, struct copy *copy, const struct read_result *result)
{
    if (copy->pin >= 0 && !(result->pins >> copy->pin & 1))
        segment_unpin(log, copy->pin);
    copy->pin = -1;
    copy->pinned = 0;
}

static int stands(struct log *log, const struct cursor *cursor, uint64_t number, const struct order_entry *entry)
{
    struct order_entry again;
    return entry_at(log, cursor, number, &again) && again.global_position == entry->global_position && again.state == ENTRY_LIVE;
}

/* Pins the segment, then looks whether the entry still stands: 1 it does, 0 it was released meanwhile. An entry that was read under the pin has
 * been looked at already. */
static int hold(struct log *log, struct copy *copy, const struct cursor *cursor, uint64_t number, const struct order_entry *entry,
                const struct read_result *result)
{
    if (entry->segment == copy->pinned)
        return 1;
    let_go(log, copy, result);
    if (entry->segment >= log->block_count)
        return 0;
    copy->pin = segment_pin(log, entry->segment);
    copy->pinned = entry->segment;
    return stands(log, cursor, number, entry);
}

/* Bytes of the batch that go to the target. */
static uint32_t copied_of(const struct log *log, const struct copy *copy, const struct order_entry *entry)
{
    int lent = copy->pin >= 0 && log->pins_used <= PINS_MAX - PINS_KEPT && entry->size >= copy->lent_size_min && entry->size > LENT_FRONT;
    return lent ? LENT_FRONT : entry->size;
}

static int copy_batch(struct log *log, struct copy *copy, const struct cursor *cursor, const struct order_entry *entry, uint32_t copied,
                      struct read_result *result)
{
    if (!segment_valid(log, entry->segment, entry->segment_position, entry->size))
        return 0;
    struct read_batch *batch = &copy->batches[result->count++];
    uint64_t at = block_position(log, entry->segment) + entry->segment_position;
    mem_invalidate(&log->mem, at, entry->size);
    mem_read(&log->mem, at, (void *)(uintptr_t)(copy->target + result->copied), copied);
    *batch = (struct read_batch){(int64_t)start_of(cursor, entry), entry->size, entry->leader_epoch, 0};
    if (copied < entry->size) {
        batch->lent = (uint64_t)(uintptr_t)mem_lent(&log->mem, at + copied, entry->size - copied);
        result->pins |= 1ull << copy->pin;
    }
    result->size += entry->size;
    result->copied += copied;
    return 1;
}

static void copy_run(struct log *log, struct copy *copy, const struct cursor *cursor, uint64_t number, struct read_result *result)
{
    struct order_entry entry;
    for (; result->count < copy->batches_max && (number = next_live(log, cursor, number, &entry)) < cursor->count; number++) {
        int first = result->count == 0 && copy->whole_first;
        if (entry.size > copy->size_max - result->size && !first)
            return;
        if (!hold(log, copy, cursor, number, &entry, result))
            return;
        uint32_t copied = copied_of(log, copy, &entry);
        if (copied > copy->room - result->copied) {
            result->size_needed = first ? copied : 0;
            return;
        }
        if (!copy_batch(log, copy, cursor, &entry, copied, result))
            return;
        if (copy->pin < 0 && !stands(log, cursor, number, &entry)) {
            result->count--;
            result->size -= entry.size;
            result->copied -= entry.size;
            return;
        }
        if (result->size > copy->size_max)
            return;                   /* the first one, whatever its size */
    }
}

static uint64_t visible_bytes(const struct cursor *cursor, uint64_t number, const struct order_entry *entry)
{
    uint64_t before = cursor->bytes_end;
    if (number < cursor->count)
        before = cursor->view ? entry->topic_bytes : entry->partition_bytes;
    return cursor->bytes_end > before ? cursor->bytes_end - before : 0;
}

void log_return(struct log *log, uint64_t pins)
{
    for (int pin = 0; pin < PINS_MAX; pin++)
        if (pins >> pin & 1)
            segment_unpin(log, pin);
}

void log_read(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset, uint64_t target, uint64_t room, uint64_t size_max,
              int32_t whole_first, uint64_t lent_size_min, uint64_t batches, uint32_t batches_max, struct read_result *result)
{
    struct cursor cursor;
    struct order_entry entry;
    *result = (struct read_result){.log_start_offset = -1, .next_offset = -1};
    result->status = open_cursor(log, &cursor, slot, generation, partition);
    if (result->status != STATUS_OK)
        return;
    result->log_start_offset = (int64_t)cursor.log_start;
    result->next_offset = (int64_t)cursor.next;
    result->leader_epoch = cursor.view ? view_leader_epoch(log, slot) : cursor.leader_epoch;
    if (offset < (int64_t)cursor.log_start || offset > (int64_t)cursor.end)
        result->status = STATUS_OFFSET_OUT_OF_RANGE;
    else if (offset < (int64_t)cursor.memory_start)
        result->status = STATUS_ON_DISK;
    if (result->status != STATUS_OK || offset >= (int64_t)cursor.next)
        return;
    struct copy copy = {target, room, size_max, lent_size_min, (struct read_batch *)(uintptr_t)batches, batches_max, 0, -1, whole_first};
    uint64_t number = find_offset(log, &cursor, offset, &entry), start = UINT64_MAX;
    result->available = visible_bytes(&cursor, number, &entry);
    cursor.careful = cursor.view;
    copy_run(log, &copy, &cursor, number, result);
    let_go(log, &copy, result);
    int status = look_again(log, &cursor, (uint64_t)offset, &start);
    if (status != STATUS_OK) {
        log_return(log, result->pins);
        *result = (struct read_result){.status = status, .log_start_offset = (int64_t)start, .next_offset = (int64_t)cursor.next};
        return;
    }
    log->counters.read_batches += result->count;
    log->counters.read_bytes += result->size;
}

int64_t log_available(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset)
{
    struct cursor cursor;
    struct order_entry entry;
    if (open_cursor(log, &cursor, slot, generation, partition) != STATUS_OK || offset < (int64_t)cursor.log_start ||
        offset > (int64_t)cursor.end)
        return -1;
    uint64_t number = offset < (int64_t)cursor.next ? find_offset(log, &cursor, offset, &entry) : cursor.count;
    uint64_t found = visible_bytes(&cursor, number, &entry);
    return (int64_t)(offset < (int64_t)cursor.memory_start && found == 0 ? 1 : found);
}

static void describe_batch(const struct cursor *cursor, const struct order_entry *entry, struct batch_at *found)
{
    *found = (struct batch_at){
        .base_offset = (int64_t)start_of(cursor, entry),
        .max_timestamp = entry->max_timestamp,
        .size = entry->size,
        .leader_epoch = entry->leader_epoch,
        .flags = entry->flags,
        .last_offset_delta = entry->last_offset_delta,
    };
}

static int32_t find_from(struct log *log, const struct cursor *cursor, int64_t timestamp, struct batch_at *found)
{
    struct order_entry entry;
    /* The running maximum leads to the first batch that is late enough, or to a later one where that one was released. */
    uint64_t number = search(log, cursor, is_as_late, timestamp), start;
    for (; (number = next_live(log, cursor, number, &entry)) < cursor->count; number++) {
        if (entry.max_timestamp < timestamp || look_again(log, cursor, end_of(cursor, &entry) - 1, &start) != STATUS_OK)
            continue;
        describe_batch(cursor, &entry, found);
        return STATUS_OK;
    }
    return STATUS_OFFSET_OUT_OF_RANGE;
}

int32_t log_find_timestamp(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, int64_t timestamp, struct batch_at *found)
{
    struct cursor cursor;
    int status = open_cursor(log, &cursor, slot, generation, partition);
    return status != STATUS_OK ? status : find_from(log, &cursor, timestamp, found);
}

int32_t log_find_max_timestamp(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, struct batch_at *found)
{
    struct cursor cursor;
    struct order_entry entry;
    int status = open_cursor(log, &cursor, slot, generation, partition);
    if (status != STATUS_OK)
        return status;
    /* The largest timestamp may belong to a batch that was released: then the largest of those that are left. */
    int64_t best = -1;
    if (cursor.count > cursor.first && entry_at(log, &cursor, cursor.count - 1, &entry)) {
        int64_t largest = running_max(&cursor, &entry);
        if (largest < 0)
            return STATUS_OFFSET_OUT_OF_RANGE;
        if (find_from(log, &cursor, largest, found) == STATUS_OK)
            return STATUS_OK;
    }
    for (uint64_t number = cursor.first; (number = next_live(log, &cursor, number, &entry)) < cursor.count; number++)
        if (entry.max_timestamp > best)
            best = entry.max_timestamp;
    return best < 0 ? STATUS_OFFSET_OUT_OF_RANGE : find_from(log, &cursor, best, found);
}

void log_entry_range(struct log *log, uint32_t slot, uint32_t generation, uint64_t *first, uint64_t *end)
{
    struct cursor cursor;
    *first = *end = 0;
    if (open_ordered(log, &cursor, slot, generation, PARTITION_VIEW) != STATUS_OK)
        return;
    *first = cursor.first;
    *end = cursor.count;
}

uint32_t log_entries(struct log *log, uint32_t slot, uint32_t generation, uint64_t first, uint32_t count, uint8_t *target)
{
    struct cursor cursor;
    uint32_t copied = 0;
    if (open_ordered(log, &cursor, slot, generation, PARTITION_VIEW) != STATUS_OK)
        return 0;
    while (copied < count && first + copied < cursor.count) {
        struct order_entry entry;
        if (!entry_read(log, &cursor.order, first + copied, &entry))
            break;
        memcpy(target + (uint64_t)copied * sizeof entry, &entry, sizeof entry);
        copied++;
    }
    return copied;
}

static void copy_description(struct log *log, uint64_t at, struct topic_info *info)
{
    struct topic_entry entry;
    mem_read(&log->mem, at, &entry, offsetof(struct topic_entry, next_total_order));
    info->generation = entry.generation;
    info->state = entry.state;
    info->flags = entry.flags;
    info->order_level = entry.order_level;
    info->partition_count = entry.partition_count;
    info->retention_bytes = entry.retention_bytes;
    info->retention_ms = entry.retention_ms;
    info->settings_size = entry.settings_size;
    info->name_size = entry.name_size < TOPIC_NAME_SIZE ? entry.name_size : TOPIC_NAME_SIZE;
    memcpy(info->id, entry.id, sizeof info->id);
    memcpy(info->name, entry.name, sizeof info->name);
}

int32_t log_topic(struct log *log, uint32_t slot, struct topic_info *info)
{
    memset(info, 0, sizeof *info);
    info->slot = slot;
    mem_invalidate(&log->mem, FIELD(CONTROL_POSITION, struct control, topic_slots), sizeof(uint32_t));
    if (slot >= mem_load32(&log->mem, FIELD(CONTROL_POSITION, struct control, topic_slots)))
        return STATUS_UNKNOWN_TOPIC;
    mem_invalidate(&log->mem, topic_position(slot), sizeof(struct topic_entry));
    copy_description(log, topic_position(slot), info);
    return info->state == TOPIC_LIVE ? STATUS_OK : STATUS_UNKNOWN_TOPIC;
}

int32_t log_topic_settings(struct log *log, uint32_t slot, uint32_t generation, uint8_t *target, uint32_t size)
{
    if (slot >= TOPICS_MAX || !topic_alive(log, slot, generation))
        return STATUS_UNKNOWN_TOPIC;
    uint64_t at = topic_position(slot);
    mem_invalidate(&log->mem, at, sizeof(struct topic_entry));
    uint32_t segment = mem_load32(&log->mem, FIELD(at, struct topic_entry, settings_segment));
    uint32_t position = mem_load32(&log->mem, FIELD(at, struct topic_entry, settings_position));
    if (size != mem_load32(&log->mem, FIELD(at, struct topic_entry, settings_size)) || segment >= log->block_count)
        return STATUS_INVALID_ARGUMENT;
    int pin = segment_pin(log, segment);
    int valid = segment_valid(log, segment, position, size);
    if (valid) {
        mem_invalidate(&log->mem, block_position(log, segment) + position, size);
        mem_read(&log->mem, block_position(log, segment) + position, target, size);
    }
    if (pin >= 0)
        segment_unpin(log, pin);
    return valid && topic_alive(log, slot, generation) ? STATUS_OK : STATUS_UNKNOWN_TOPIC;
}
