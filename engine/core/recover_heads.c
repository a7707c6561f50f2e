/* At a takeover: where topics and partitions begin. Release marks entries before it writes the lines that say so, and a kill may come between.
 * So each topic's entries are walked, and what is left of them tells.
 *
 * Invariants
 *  - Each entry, and the element that names it, is looked at once, and what cannot be is damage. From then on the sequencer believes its index pages.
 *  - The batches of each segment are counted here, so that it goes back with the last of them.
 */
#include "sequencer.h"

static int mark_pages(struct log *log, uint32_t slot)
{
    const struct topic_state *topic = &log->sequencer->topics[slot];
    struct index index = order_index(slot, topic->entry.index_root);
    int result = index_mark(log, &index);
    for (uint32_t partition = 0; partition < topic->entry.partition_count && result == 0; partition++) {
        struct index elements = partition_index(topic->partitions[partition].slot, topic->partitions[partition].index_root);
        result = index_mark(log, &elements);
    }
    return result;
}

/* Whether the numbers of a topic and its partitions can be: they bound loops and reads from here on. */
static int numbers_valid(const struct sequencer *sequencer, const struct topic_state *topic)
{
    const struct topic_entry *entry = &topic->entry;
    if (entry->entry_count > sequencer->ordered || entry->log_start_total_order > entry->next_total_order ||
        entry->memory_start_total_order > entry->next_total_order || entry->next_total_order > INT64_MAX)
        return 0;
    for (uint32_t partition = 0; partition < entry->partition_count; partition++) {
        const struct partition_state *state = &topic->partitions[partition];
        if (state->element_first > state->element_count || state->element_count > entry->entry_count ||
            state->log_start_offset > state->next_offset || state->memory_start_offset > state->next_offset || state->next_offset > INT64_MAX)
            return 0;
    }
    return 1;
}

/* What the walk over a topic's entries has found of one partition. */
struct left {
    uint64_t element;                 /* of the first entry that is left */
    uint64_t page, page_number;       /* position of the page of elements in hand, and which one it is */
    uint64_t count;                   /* entries that are not released */
    uint64_t gone;                    /* the first of them, which are gone for readers */
    uint64_t kept_bytes;              /* of the batches before the first that is kept */
    uint64_t next_offset;             /* after the last entry that was met */
};

/* And of the topic. */
struct walk {
    struct topic_state *topic;
    struct left *left;
    uint64_t first, kept_first;       /* entries: the first that is left, the first that is kept */
    uint64_t kept_start;              /* total order of that one */
    uint64_t count, bytes;            /* entries that are left */
    uint64_t position, total_order;   /* the least that the next entry may have */
};

/* The first element of the partition that names the entry, or a later one. */
static uint64_t find_element(struct log *log, const struct partition_state *partition, const struct index *elements, uint64_t number)
{
    uint64_t low = partition->element_first, high = partition->element_count, entry;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (element_read(log, elements, middle, &entry) && entry >= number)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The page that begins with this number; looked at fresh once, since nobody writes it meanwhile. 0: it is gone. */
static uint64_t page_at(struct log *log, const struct index *index, uint64_t number)
{
    uint64_t page = index_find(log, index, number);
    if (page != 0)
        mem_invalidate(&log->mem, page, INDEX_PAGE_SIZE);
    return page;
}

/* Each element names the entry that belongs to it: what is read from an index page by retention was looked at once. */
static int element_valid(struct log *log, const struct walk *walk, uint64_t number, const struct order_entry *entry)
{
    struct left *left = &walk->left[entry->partition];
    const struct partition_state *partition = &walk->topic->partitions[entry->partition];
    struct index elements = partition_index(partition->slot, partition->index_root);
    if (left->count == 0)
        left->element = find_element(log, partition, &elements, number);
    uint64_t at = left->element + left->count, within = at % ELEMENTS_PER_PAGE;
    if (at >= partition->element_count)
        return 0;
    if (left->page == 0 || left->page_number != at / ELEMENTS_PER_PAGE) {
        left->page = page_at(log, &elements, at - within);
        left->page_number = at / ELEMENTS_PER_PAGE;
    }
    return left->page != 0 &&
           mem_load64(&log->mem, FIELD(left->page + within * sizeof(struct partition_element), struct partition_element, entry)) == number;
}

static int fits(uint64_t first, uint64_t count, uint64_t end) { return first <= end && count <= end - first; }

static int entry_valid(struct log *log, const struct walk *walk, const struct order_entry *entry)
{
    const struct topic_entry *topic = &walk->topic->entry;
    if (entry->partition >= topic->partition_count || entry->global_position < walk->position || entry->global_position >= log->sequencer->ordered)
        return 0;
    if (topic->state == TOPIC_DYING)      /* swept already, perhaps: then lines of its partitions are zero, any of them */
        return 1;
    const struct partition_state *partition = &walk->topic->partitions[entry->partition];
    return entry->total_order >= walk->total_order && entry->base_offset >= walk->left[entry->partition].next_offset &&
           fits(entry->total_order, (uint64_t)entry->last_offset_delta + 1, topic->next_total_order) &&
           fits(entry->base_offset, (uint64_t)entry->last_offset_delta + 1, partition->next_offset) &&
           fits(entry->topic_bytes, entry->size, topic->bytes_appended) && fits(entry->partition_bytes, entry->size, partition->bytes_appended);
}

static void raise(struct sequencer *sequencer, uint32_t slot, uint32_t partition, uint64_t *word, uint64_t value)
{
    if (*word >= value)
        return;
    *word = value;
    sequencer_touch_topic(sequencer, slot);
    sequencer_touch_partition(sequencer, slot, partition);
}

/* Whether the batch is no longer for readers: cut, or left to the archive. A kill may have come between the lines of the topic and those of
 * its partitions, which say the same later. */
static int gone(struct sequencer *sequencer, uint32_t slot, const struct order_entry *entry)
{
    struct topic_entry *topic = &sequencer->topics[slot].entry;
    struct partition_state *partition = &sequencer->topics[slot].partitions[entry->partition];
    uint64_t end = entry->base_offset + entry->last_offset_delta + 1, total_end = entry->total_order + entry->last_offset_delta + 1;
    if (total_end <= topic->log_start_total_order)
        raise(sequencer, slot, entry->partition, &partition->log_start_offset, end);
    if (end <= partition->log_start_offset)
        return 1;
    if (total_end <= topic->memory_start_total_order)
        raise(sequencer, slot, entry->partition, &partition->memory_start_offset, end);
    return end <= partition->memory_start_offset;
}

static int count_entry(struct log *log, struct walk *walk, uint32_t slot, uint64_t number, const struct order_entry *entry)
{
    struct left *left = &walk->left[entry->partition];
    if (!segment_valid(log, entry->segment, entry->segment_position, entry->size))
        return 0;
    if (walk->topic->entry.state == TOPIC_LIVE && slot != 0 && !element_valid(log, walk, number, entry))
        return 0;
    log->sequencer->live[entry->segment]++;
    if (walk->topic->entry.state == TOPIC_DYING)
        return 1;                     /* the sweep needs no more */
    walk->bytes += entry->size;
    if (walk->count++ == 0)
        walk->first = number;
    if (slot != 0 && gone(log->sequencer, slot, entry))
        return left->gone++ == left->count++;    /* what is kept has the higher offsets */
    if (walk->kept_first == walk->topic->entry.entry_count) {
        walk->kept_first = number;
        walk->kept_start = entry->total_order;
    }
    if (left->count++ == left->gone)
        left->kept_bytes = entry->partition_bytes;
    return 1;
}

/* Walks the topic's entries: looks whether each can be, counts the batches of each segment, and finds what is left, and what is kept. */
static int walk_entries(struct log *log, uint32_t slot, struct walk *walk)
{
    const struct topic_entry *topic = &walk->topic->entry;
    struct index index = order_index(slot, topic->index_root);
    uint64_t page = 0;
    for (uint64_t number = topic->entry_first; number < topic->entry_count; number++) {
        uint64_t within = number % ENTRIES_PER_PAGE;
        struct order_entry entry;
        if (number == topic->entry_first || within == 0)
            page = page_at(log, &index, number - within);
        if (page == 0) {
            number += ENTRIES_PER_PAGE - 1 - within;
            continue;
        }
        mem_read(&log->mem, page + within * sizeof entry, &entry, sizeof entry);
        if (slot == 0 && entry.state == ENTRY_RELEASED)
            continue;                 /* of a record that was spent before the region was made from a journal, nothing else stands here */
        if (entry.state > ENTRY_CUT || !entry_valid(log, walk, &entry))
            return OPEN_DAMAGED;
        walk->position = entry.global_position + 1;
        walk->total_order = entry.total_order + entry.last_offset_delta + 1;
        walk->left[entry.partition].next_offset = entry.base_offset + entry.last_offset_delta + 1;
        if (entry.state != ENTRY_RELEASED && !count_entry(log, walk, slot, number, &entry))
            return OPEN_DAMAGED;
    }
    return OPEN_OK;
}

/* The lines that release was about to write. Releases go from a partition's head on, so what is left tells where the head is. The bytes before
 * what is kept are known from the first batch that is, unless the archive has it: then they stood in the line before it was evicted. */
static int settle_partition(struct log *log, uint32_t slot, uint32_t number, const struct left *left)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct partition_state *state = &topic->partitions[number];
    if (left->count > state->element_count || (left->count > 0 && left->element + left->count != state->element_count))
        return 0;
    uint64_t first = state->element_count - left->count, released = state->bytes_released;
    if (first < state->element_first)
        return 0;
    if (state->log_start_offset >= state->memory_start_offset)
        released = left->gone < left->count ? left->kept_bytes : state->bytes_appended;
    state->kept_first = first + left->gone;
    if (left->gone > 0)
        release_want(log, slot, number);
    if (state->element_first == first && state->bytes_released == released)
        return 1;                     /* both are looked at: they stand in two lines */
    topic->settle_pages = 1;
    state->element_first = first;
    state->bytes_released = released;
    sequencer_touch_partition(log->sequencer, slot, number);
    return 1;
}

static int settle_topic(struct log *log, uint32_t slot, const struct walk *walk)
{
    struct topic_state *topic = walk->topic;
    struct topic_entry *entry = &topic->entry, before = *entry;
    entry->entry_first = walk->first;
    entry->holes = entry->entry_count - walk->first - walk->count;
    topic->kept_first = walk->kept_first;
    if (walk->first < walk->kept_first)
        release_want(log, slot, PARTITION_VIEW);
    entry->bytes_released = 0;
    for (uint32_t partition = 0; partition < entry->partition_count; partition++) {
        if (!settle_partition(log, slot, partition, &walk->left[partition]))
            return OPEN_DAMAGED;
        entry->bytes_released += topic->partitions[partition].bytes_released;
    }
    if (entry->log_start_total_order >= entry->memory_start_total_order && walk->kept_start > entry->log_start_total_order)
        entry->log_start_total_order = walk->kept_start;
    if (memcmp(entry, &before, sizeof before) != 0) {
        topic->settle_pages = 1;
        sequencer_touch_topic(log->sequencer, slot);
    }
    return entry->bytes_released <= entry->bytes_appended ? OPEN_OK : OPEN_DAMAGED;
}

/* The operations' own topic is other: its records go in any order, and its partition follows the topic. */
static void settle_records(struct sequencer *sequencer, const struct walk *walk)
{
    struct topic_entry *topic = &walk->topic->entry;
    struct partition_state *partition = &walk->topic->partitions[0];
    uint64_t holes = topic->entry_count - walk->first - walk->count, released = topic->bytes_appended - walk->bytes;
    if (topic->entry_first == walk->first && topic->holes == holes && topic->bytes_released == released && partition->element_first == walk->first)
        return;
    walk->topic->settle_pages = 1;
    topic->entry_first = partition->element_first = partition->log_start_offset = walk->first;
    topic->holes = holes;
    topic->bytes_released = released;
    if (topic->log_start_total_order < walk->kept_start)
        topic->log_start_total_order = walk->kept_start;
    sequencer_touch_topic(sequencer, 0);
    sequencer_touch_partition(sequencer, 0, 0);
}

int recover_heads(struct log *log, uint32_t slot)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_state *topic = &sequencer->topics[slot];
    if (topic->entry.state == TOPIC_FREE)
        return OPEN_OK;
    if ((topic->entry.state == TOPIC_LIVE && !numbers_valid(sequencer, topic)) || mark_pages(log, slot) != 0)
        return OPEN_DAMAGED;
    struct left *left = calloc(topic->entry.partition_count, sizeof *left);
    if (left == NULL)
        return OPEN_NO_MEMORY;
    struct walk walk = {
        .topic = topic,
        .left = left,
        .first = topic->entry.entry_count,
        .kept_first = topic->entry.entry_count,
        .kept_start = topic->entry.next_total_order,
    };
    int result = walk_entries(log, slot, &walk);
    if (result == OPEN_OK && slot == 0)
        settle_records(sequencer, &walk);
    else if (result == OPEN_OK && topic->entry.state == TOPIC_LIVE)
        result = settle_topic(log, slot, &walk);
    free(left);
    return result;
}
