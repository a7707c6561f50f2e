/* The notes of undo.h: one per word that was stored into the region. */
#include "mem.h"
#include "undo_face.h"

#define WORD 8
#define WHOLE_ABOVE 1024              /* a copy of payload is one note */

struct note {
    uint64_t position;
    uint32_t size;
    uint32_t saved;                   /* bytes into `bytes` */
};

static struct note *notes;
static uint64_t note_count, note_room;
static uint8_t *bytes;
static uint64_t byte_count, byte_room;
static int active, backwards;

static void *grow(void *memory, uint64_t *room, uint64_t needed, uint64_t element)
{
    if (needed <= *room)
        return memory;
    *room = 2 * needed + 1024;
    memory = realloc(memory, *room * element);
    if (memory == NULL)
        abort();
    return memory;
}

static void note_piece(const struct mem *mem, uint64_t position, uint64_t size)
{
    notes = grow(notes, &note_room, note_count + 1, sizeof *notes);
    bytes = grow(bytes, &byte_room, byte_count + size, 1);
    notes[note_count++] = (struct note){position, (uint32_t)size, (uint32_t)byte_count};
    mem_read(mem, position, bytes + byte_count, size);
    byte_count += size;
}

void undo_note(const struct mem *mem, uint64_t position, uint64_t size)
{
    if (!active || size == 0)
        return;
    uint64_t piece = size > WHOLE_ABOVE ? size : WORD;
    uint64_t count = (size + piece - 1) / piece;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = (backwards ? count - 1 - i : i) * piece;
        note_piece(mem, position + at, size - at < piece ? size - at : piece);
    }
}

void undo_note_whole(const struct mem *mem, uint64_t position, uint64_t size)
{
    if (active && size > 0)
        note_piece(mem, position, size);
}

void undo_start(int32_t descending)
{
    active = 1;
    backwards = descending;
    note_count = byte_count = 0;
}

void undo_stop(void)
{
    active = 0;
}

uint64_t undo_count(void)
{
    return note_count;
}

void undo_back(uint64_t base, uint64_t count)
{
    while (note_count > count) {
        const struct note *note = &notes[--note_count];
        memcpy((uint8_t *)(uintptr_t)base + note->position, bytes + note->saved, note->size);
        byte_count = note->saved;
    }
}
