/* Simulated non-coherent memory: what mem.h promises and nothing more.
 *
 * The model
 *  - Memory is the region's file. Each host (one handle) has a cache of lines over it. A load brings its line into the cache and is answered from
 *    there ever after: a copy goes stale when another host writes, until it is invalidated or happens to be evicted.
 *  - A store changes the cached copy. The line is then unfenced: memory may hold any of the versions that the line had since it was last fenced,
 *    whether flushed or not, because a line can be written back at any moment. Only what was flushed, and then fenced, is surely there.
 *    What a host stored to one line reaches memory in the order of its stores; different lines know no order.
 *  - The fence inside an invalidate orders that invalidate, and completes no flush. (Machines complete it. The core must not live on that.) Until
 *    that fence, loads may still be answered by the old copy. An invalidate leaves a line alone that its own host has unfenced.
 *  - Whole lines are written back: two hosts that write parts of one line destroy each other's.
 *  - Atomics are coherent, and so is every line that one was ever used on: the shared bitmap and the mark of committed memory. Where blocks
 *    are cut into ranges, neither is used, and what atomics there are is counted: none may be.
 *  - A reservation's bytes are stored by the socket, past the seam: what stands in the cache when the line is flushed counts.
 *  - One thread runs all hosts: where one waits for another, a hook has the other run.
 *  - Store-load order is outside the model (segment.c argues it).
 *
 * One thread. `unfenced` lines of a host are kept in a list, with all versions.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sim.h"
#include "sequencer.h"

#define HOSTS_MAX 64
#define LINES_AHEAD 12

enum { ABSENT = 0, CLEAN = 1, UNFENCED = 2, DROPPING = 3 };

struct image {
    uint8_t bytes[LINE_SIZE];
};

struct unfenced {
    uint64_t line;
    struct image *versions;           /* oldest first; the last is the present one */
    uint32_t count, room;
    uint32_t flushed;                 /* versions up to this number were flushed */
    int raw;                          /* the socket may store to it */
};

struct saved_line {
    uint64_t line;
    struct image image;
};

struct list {
    struct saved_line *lines;
    uint64_t count, room;
};

struct host {
    int used;
    uint8_t *cache;                   /* what mem->base of its handle is */
    void *mapped;                     /* what the core mapped, for munmap alone */
    uint8_t *state;                   /* per line */
    uint32_t *number;                 /* per unfenced line: which of `unfenced` */
    uint64_t *touched;                /* lines that may be cached */
    uint64_t touched_count, touched_room;
    uint8_t *listed;                  /* per line: whether it stands in `touched` */
    struct unfenced *unfenced;
    uint32_t unfenced_count, unfenced_room;
    uint64_t *dropping;
    uint64_t dropping_count, dropping_room;
    struct list kept;
    void (*hook)(void);
    uint32_t hook_when;
    int in_hook;
    int dead;                         /* killed: its calls run to their ends, and change nothing */
};

static uint8_t *memory;
static uint64_t memory_size, line_count, cache_size;
static struct host hosts[HOSTS_MAX];
static struct host *acting;
static int invalidating, unordered;   /* what the simulated machine is in the middle of */
static uint8_t *coherent;             /* per line: an atomic was used on it */
static uint8_t *written;              /* per line: in `written_lines` */
static uint64_t *written_lines, written_count, written_room;
static struct list undo, stale;
static int undo_active;
static uint64_t random_state, steps, steps_max, allocation_atomics;
static uint32_t evict_one_in;
static void (*next_hook)(void);       /* of the next host that is made */
static uint32_t next_hook_when;
static void (*wait_hook)(void);
static int64_t clock_now;
static int in_wait;

extern struct sim_place __start_sim_places[], __stop_sim_places[];
static uint64_t *hits;                /* of each place; children of a scenario count there, too */

static void *grow(void *array, uint64_t *room, uint64_t needed, uint64_t element)
{
    if (needed <= *room)
        return array;
    *room = 2 * needed + 64;
    array = realloc(array, *room * element);
    if (array == NULL)
        abort();
    return array;
}

static void *zeroed(uint64_t size)
{
    void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED)
        abort();
    return made;
}

static void list_add(struct list *list, uint64_t line, const uint8_t *bytes)
{
    list->lines = grow(list->lines, &list->room, list->count + 1, sizeof *list->lines);
    list->lines[list->count].line = line;
    memcpy(list->lines[list->count++].image.bytes, bytes, LINE_SIZE);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

static uint8_t *memory_line(uint64_t line) { return memory + line * LINE_SIZE; }

static void memory_set(uint64_t line, const uint8_t *bytes)
{
    if (undo_active)
        list_add(&undo, line, memory_line(line));
    memcpy(memory_line(line), bytes, LINE_SIZE);
    if (!written[line]) {
        written[line] = 1;
        written_lines = grow(written_lines, &written_room, written_count + 1, sizeof *written_lines);
        written_lines[written_count++] = line;
    }
}

uint64_t sim_mark(void)
{
    undo_active = 1;
    return undo.count;
}

void sim_undo(uint64_t mark)
{
    while (undo.count > mark) {
        const struct saved_line *saved = &undo.lines[--undo.count];
        memcpy(memory_line(saved->line), saved->image.bytes, LINE_SIZE);
    }
}

/* ---- hosts ----------------------------------------------------------------------------------------------------------- */

static struct host *host_of(const struct mem *mem)
{
    for (struct host *host = hosts; host < hosts + HOSTS_MAX; host++)
        if (host->used && host->cache == mem->base)
            return host;
    abort();
}

static uint8_t *cached(const struct host *host, uint64_t line) { return host->cache + line * LINE_SIZE; }

static void set_state(struct host *host, uint64_t line, uint8_t state)
{
    host->state[line] = state;
    if (host->listed[line])
        return;
    host->listed[line] = 1;
    host->touched = grow(host->touched, &host->touched_room, host->touched_count + 1, sizeof *host->touched);
    host->touched[host->touched_count++] = line;
}

static void fill(struct host *host, uint64_t line, const uint8_t *bytes)
{
    memcpy(cached(host, line), bytes, LINE_SIZE);
    set_state(host, line, CLEAN);
}

static void empty(struct host *host)
{
    for (uint64_t i = 0; i < host->touched_count; i++) {
        host->state[host->touched[i]] = ABSENT;
        host->listed[host->touched[i]] = 0;
    }
    for (uint32_t i = 0; i < host->unfenced_count; i++)
        free(host->unfenced[i].versions);
    host->touched_count = host->unfenced_count = host->dropping_count = 0;
}

static struct host *host_new(void)
{
    struct host *host = hosts;
    while (host->used)
        if (++host == hosts + HOSTS_MAX)
            abort();
    if (host->cache == NULL) {
        host->cache = zeroed(cache_size);
        host->state = zeroed(line_count);
        host->listed = zeroed(line_count);
        host->number = zeroed(line_count * sizeof *host->number);
    }
    host->used = 1;
    host->hook = next_hook;
    host->hook_when = next_hook_when;
    host->in_hook = host->dead = 0;
    next_hook = NULL;
    for (uint64_t i = 0; i < stale.count; i++)
        if (!coherent[stale.lines[i].line])
            fill(host, stale.lines[i].line, stale.lines[i].image.bytes);
    return host;
}

static void host_release(struct host *host)
{
    if (host->cache == NULL)
        return;
    empty(host);
    munmap(host->cache, cache_size);
    munmap(host->state, line_count);
    munmap(host->listed, line_count);
    munmap(host->number, line_count * sizeof *host->number);
    free(host->touched);
    free(host->unfenced);
    free(host->dropping);
    free(host->kept.lines);
    memset(host, 0, sizeof *host);
}

void sim_begin(uint64_t base, uint64_t size)
{
    /* A handle's large tables are pages that the kernel zeroes when they are touched; from the heap, calloc would write all of them. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    for (struct host *host = hosts; host < hosts + HOSTS_MAX; host++)
        host_release(host);
    if (coherent != NULL) {
        munmap(coherent, line_count);
        munmap(written, line_count);
    }
    memory = (uint8_t *)(uintptr_t)base;
    memory_size = size;
    line_count = size / LINE_SIZE;
    cache_size = size;
    coherent = zeroed(line_count);
    written = zeroed(line_count);
    written_count = undo.count = stale.count = steps = steps_max = allocation_atomics = 0;
    undo_active = 0;
    evict_one_in = 0;
    acting = NULL;
    next_hook = wait_hook = NULL;
    in_wait = 0;
    clock_now = 0;
    if (hits == NULL)
        hits = mmap(NULL, sim_site_count() * sizeof *hits, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (hits == MAP_FAILED)
        abort();
    memset(hits, 0, sim_site_count() * sizeof *hits);
}

int32_t sim_host_of(struct log *log) { return (int32_t)(host_of(&log->mem) - hosts); }

void sim_host_end(int32_t number, struct log *log)
{
    if (log != NULL) {
        if (sim_host_of(log) != number)
            abort();
        munmap(hosts[number].mapped, memory_size);
        sequencer_release(log);
        free(log);
    }
    empty(&hosts[number]);
    hosts[number].used = 0;
    hosts[number].hook = NULL;
}

void sim_host_die(int32_t number)
{
    hosts[number].dead = 1;
    hosts[number].hook = NULL;
}

void sim_private(int32_t fd)
{
    if (mmap(memory, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
        abort();
}

/* ---- unfenced lines -------------------------------------------------------------------------------------------------- */

static struct unfenced *unfenced_of(struct host *host, uint64_t line)
{
    if (host->state[line] == UNFENCED)
        return &host->unfenced[host->number[line]];
    uint64_t room = host->unfenced_room;
    host->unfenced = grow(host->unfenced, &room, host->unfenced_count + 1, sizeof *host->unfenced);
    host->unfenced_room = (uint32_t)room;
    host->number[line] = host->unfenced_count;
    set_state(host, line, UNFENCED);
    host->unfenced[host->unfenced_count] = (struct unfenced){.line = line};
    return &host->unfenced[host->unfenced_count++];
}

static void add_version(struct host *host, struct unfenced *unfenced)
{
    const uint8_t *now = cached(host, unfenced->line);
    if (unfenced->count > 0 && memcmp(unfenced->versions[unfenced->count - 1].bytes, now, LINE_SIZE) == 0)
        return;
    uint64_t room = unfenced->room;
    unfenced->versions = grow(unfenced->versions, &room, unfenced->count + 1, sizeof *unfenced->versions);
    unfenced->room = (uint32_t)room;
    memcpy(unfenced->versions[unfenced->count++].bytes, now, LINE_SIZE);
}

static void no_longer_unfenced(struct host *host, uint32_t number, uint8_t state)
{
    struct unfenced *unfenced = &host->unfenced[number];
    free(unfenced->versions);
    set_state(host, unfenced->line, state);
    *unfenced = host->unfenced[--host->unfenced_count];
    if (number < host->unfenced_count)
        host->number[unfenced->line] = number;
}

/* Memory has version `count` now, and will not have an older one again. */
static void reached(struct host *host, uint32_t number, uint32_t count, uint8_t state)
{
    struct unfenced *unfenced = &host->unfenced[number];
    memory_set(unfenced->line, unfenced->versions[count - 1].bytes);
    if (count == unfenced->count) {
        no_longer_unfenced(host, number, state);
        return;
    }
    unfenced->count -= count;
    unfenced->flushed = 0;
    memmove(unfenced->versions, unfenced->versions + count, unfenced->count * sizeof *unfenced->versions);
}

uint32_t sim_unfenced(int32_t number, uint64_t *lines, uint32_t *versions, uint32_t room)
{
    struct host *host = &hosts[number];
    for (uint32_t i = 0; i < host->unfenced_count && i < room; i++) {
        struct unfenced *unfenced = &host->unfenced[i];
        if (unfenced->raw && memcmp(cached(host, unfenced->line), memory_line(unfenced->line), LINE_SIZE) != 0)
            add_version(host, unfenced);
        lines[i] = host->unfenced[i].line;
        versions[i] = host->unfenced[i].count;
    }
    return host->unfenced_count;
}

void sim_write_back(int32_t number, const uint32_t *chosen, uint32_t count)
{
    const struct host *host = &hosts[number];
    if (count > host->unfenced_count)
        abort();
    for (uint32_t i = 0; i < count; i++)
        if (chosen[i] > 0)
            memory_set(host->unfenced[i].line, host->unfenced[i].versions[chosen[i] - 1].bytes);
}

/* ---- copies ---------------------------------------------------------------------------------------------------------- */

void sim_keep_cache(int32_t number)
{
    struct host *host = &hosts[number];
    host->kept.count = 0;
    for (uint64_t i = 0; i < host->touched_count; i++)
        if (host->state[host->touched[i]] == CLEAN)
            list_add(&host->kept, host->touched[i], cached(host, host->touched[i]));
}

void sim_restore_cache(int32_t number)
{
    struct host *host = &hosts[number];
    for (uint64_t i = 0; i < host->touched_count; i++)
        if (host->state[host->touched[i]] == CLEAN)
            host->state[host->touched[i]] = ABSENT;
    for (uint64_t i = 0; i < host->kept.count; i++)
        if (host->state[host->kept.lines[i].line] == ABSENT)
            fill(host, host->kept.lines[i].line, host->kept.lines[i].image.bytes);
}

static void prefetch_line(struct host *host, uint64_t line)
{
    if (host->state[line] == ABSENT && !coherent[line])
        fill(host, line, memory_line(line));
}

/* Written lines, and those after the last one of each run of them: prefetchers go ahead. */
static void each_likely_line(void (*take)(struct host *, uint64_t), struct host *host)
{
    for (uint64_t i = 0; i < written_count; i++) {
        uint64_t line = written_lines[i];
        take(host, line);
        for (uint64_t ahead = line + 1; ahead <= line + LINES_AHEAD && ahead < line_count && !written[ahead]; ahead++)
            take(host, ahead);
    }
}

void sim_prefetch(int32_t number) { each_likely_line(prefetch_line, &hosts[number]); }

void sim_prefetch_range(int32_t number, uint64_t position, uint64_t size)
{
    for (uint64_t line = position / LINE_SIZE; line * LINE_SIZE < position + size; line++)
        prefetch_line(&hosts[number], line);
}

static void keep_stale_line(struct host *host, uint64_t line)
{
    (void)host;
    list_add(&stale, line, memory_line(line));
}

void sim_keep_stale(void)
{
    stale.count = 0;
    each_likely_line(keep_stale_line, NULL);
}

void sim_keep_stale_range(uint64_t position, uint64_t size)
{
    for (uint64_t line = position / LINE_SIZE; line * LINE_SIZE < position + size; line++)
        if (!written[line])
            list_add(&stale, line, memory_line(line));
}

void sim_forget_stale(void) { stale.count = 0; }

/* ---- steps ----------------------------------------------------------------------------------------------------------- */

static uint64_t draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void evict_one(struct host *host)
{
    if (host->unfenced_count > 0 && draw() % 2 == 0) {
        uint32_t number = (uint32_t)(draw() % host->unfenced_count);
        struct unfenced *unfenced = &host->unfenced[number];
        if (!unfenced->raw)
            reached(host, number, unfenced->count, ABSENT);
    } else if (host->touched_count > 0) {
        uint64_t line = host->touched[draw() % host->touched_count];
        if (host->state[line] == CLEAN)
            host->state[line] = ABSENT;
    }
}

static struct host *step(const struct mem *mem)
{
    struct host *host = host_of(mem);
    if (++steps == steps_max)
        abort();
    if (evict_one_in != 0 && !host->dead && draw() % evict_one_in == 0)
        evict_one(host);
    return host;
}

static void call_hook(struct host *host, uint32_t when)
{
    if (host->hook == NULL || host->in_hook || !(host->hook_when & when))
        return;
    host->in_hook = 1;
    host->hook();
    host->in_hook = 0;
}

void sim_evict(uint64_t seed, uint32_t one_in)
{
    random_state = seed * 0x9e3779b97f4a7c15ull + 1;
    evict_one_in = one_in;
}

void sim_hook(int32_t number, uint32_t when, void (*hook)(void))
{
    hosts[number].hook = hook;
    hosts[number].hook_when = when;
}

void sim_hook_next(uint32_t when, void (*hook)(void))
{
    next_hook = hook;
    next_hook_when = when;
}

void sim_limit(uint64_t more) { steps_max = steps + more; }
uint64_t sim_steps(void) { return steps; }
uint64_t sim_allocation_atomics(void) { return allocation_atomics; }

/* ---- the machine, as mem.h calls it ------------------------------------------------------------------------------------ */

static void flush_line(struct host *host, uint64_t line)
{
    if (host->state[line] != UNFENCED)
        return;
    struct unfenced *unfenced = &host->unfenced[host->number[line]];
    if (unfenced->raw)
        add_version(host, unfenced);
    unfenced->flushed = unfenced->count;
}

static void drop_line(struct host *host, uint64_t line)
{
    if (host->state[line] != CLEAN)
        return;
    host->state[line] = DROPPING;
    host->dropping = grow(host->dropping, &host->dropping_room, host->dropping_count + 1, sizeof *host->dropping);
    host->dropping[host->dropping_count++] = line;
}

void mem_machine_flush(const uint8_t *first, const uint8_t *end)
{
    for (uint64_t line = (uint64_t)(first - acting->cache) / LINE_SIZE; acting->cache + line * LINE_SIZE < end; line++)
        if (invalidating)
            drop_line(acting, line);
        else
            flush_line(acting, line);
}

void mem_machine_fence(void)
{
    if (acting->dead)
        return;
    for (uint32_t i = acting->unfenced_count; i > 0; i--)
        if (acting->unfenced[i - 1].flushed > 0)
            reached(acting, i - 1, acting->unfenced[i - 1].flushed, CLEAN);
}

void mem_machine_full_fence(void)
{
    if (!invalidating)
        mem_machine_fence();
    else if (unordered)
        return;
    for (uint64_t i = 0; i < acting->dropping_count; i++)
        if (acting->state[acting->dropping[i]] == DROPPING)
            acting->state[acting->dropping[i]] = ABSENT;
    acting->dropping_count = 0;
}

/* One thread: who waits has the others run. */
static void wait_for_others(void)
{
    if (in_wait)
        return;
    if (wait_hook == NULL)
        abort();
    in_wait = 1;
    wait_hook();
    in_wait = 0;
}

void sim_wait_hook(void (*hook)(void)) { wait_hook = hook; }

void sim_clock(int64_t nanoseconds) { clock_now = nanoseconds; }

int sim_clock_gettime(clockid_t clock, struct timespec *time)
{
    (void)clock;
    *time = (struct timespec){clock_now / 1000000000, clock_now % 1000000000};
    return 0;
}

void mem_machine_pause(void) { wait_for_others(); }

void mem_sleep(struct mem *mem, uint64_t position, uint32_t value, int64_t nanoseconds_max)
{
    (void)mem, (void)position, (void)value, (void)nanoseconds_max;
    wait_for_others();
}

void mem_wake(struct mem *mem, uint64_t position)
{
    (void)mem, (void)position;
}

/* ---- the seam -------------------------------------------------------------------------------------------------------- */

static uint8_t *line_for_load(struct host *host, uint64_t line)
{
    if (coherent[line])
        return memory_line(line);
    if (host->state[line] == ABSENT)
        fill(host, line, memory_line(line));
    return cached(host, line);
}

void sim_load(const struct mem *mem, uint64_t position, void *target, uint64_t size)
{
    (void)mem_at(mem, position, size);
    struct host *host = step(mem);
    for (uint64_t done = 0; done < size;) {
        uint64_t line = (position + done) / LINE_SIZE, within = (position + done) % LINE_SIZE;
        uint64_t here = LINE_SIZE - within < size - done ? LINE_SIZE - within : size - done;
        memcpy((uint8_t *)target + done, line_for_load(host, line) + within, here);
        done += here;
    }
}

static void store_part(struct host *host, uint64_t line, uint64_t within, const uint8_t *source, uint64_t size)
{
    if (coherent[line])
        abort();                      /* such a line takes atomics alone */
    if (host->state[line] == ABSENT)
        fill(host, line, memory_line(line));
    struct unfenced *unfenced = unfenced_of(host, line);
    memcpy(cached(host, line) + within, source, size);
    add_version(host, unfenced);
}

void sim_store(struct mem *mem, uint64_t position, const void *source, uint64_t size)
{
    (void)mem_at(mem, position, size);
    struct host *host = step(mem);
    for (uint64_t done = 0; done < size;) {
        uint64_t line = (position + done) / LINE_SIZE, within = (position + done) % LINE_SIZE;
        uint64_t here = LINE_SIZE - within < size - done ? LINE_SIZE - within : size - done;
        store_part(host, line, within, (const uint8_t *)source + done, here);
        done += here;
    }
}

uint64_t mem_load64(const struct mem *mem, uint64_t position)
{
    uint64_t value;
    sim_load(mem, position, &value, sizeof value);
    return value;
}

uint32_t mem_load32(const struct mem *mem, uint64_t position)
{
    uint32_t value;
    sim_load(mem, position, &value, sizeof value);
    return value;
}

void mem_store64(struct mem *mem, uint64_t position, uint64_t value) { sim_store(mem, position, &value, sizeof value); }
void mem_store32(struct mem *mem, uint64_t position, uint32_t value) { sim_store(mem, position, &value, sizeof value); }
void mem_read(const struct mem *mem, uint64_t position, void *target, uint64_t size) { sim_load(mem, position, target, size); }
void mem_write(struct mem *mem, uint64_t position, const void *source, uint64_t size) { sim_store(mem, position, source, size); }

void mem_zero(struct mem *mem, uint64_t position, uint64_t size)
{
    static const uint8_t zeros[LINE_SIZE];
    for (uint64_t done = 0; done < size; done += LINE_SIZE)
        sim_store(mem, position + done, zeros, size - done < LINE_SIZE ? size - done : LINE_SIZE);
}

static void count_hit(const struct sim_place *place) { hits[place - __start_sim_places]++; }

void sim_flush(struct sim_place *place, struct mem *mem, uint64_t position, uint64_t size)
{
    acting = step(mem);
    count_hit(place);
    if (place->mutant == SIM_DELETED)
        return;
    seam_flush(mem, place->mutant == SIM_REDIRECTED ? position + LINE_SIZE : position, size);
}

static void fence(struct sim_place *place, struct mem *mem, void (*pass)(struct mem *))
{
    struct host *host = step(mem);
    count_hit(place);
    if (place->mutant == SIM_DELETED)
        return;
    call_hook(host, SIM_AT_FENCES);
    acting = host;
    pass(mem);
}

void sim_fence(struct sim_place *place, struct mem *mem) { fence(place, mem, seam_fence); }
void sim_full_fence(struct sim_place *place, struct mem *mem) { fence(place, mem, seam_full_fence); }

void sim_invalidate(struct sim_place *place, struct mem *mem, uint64_t position, uint64_t size)
{
    struct host *host = step(mem);
    count_hit(place);
    call_hook(host, SIM_AT_INVALIDATES);
    if (place->mutant == SIM_DELETED)
        return;
    acting = host;
    invalidating = 1;
    unordered = place->mutant == SIM_UNFENCED;
    seam_invalidate(mem, place->mutant == SIM_REDIRECTED ? position + LINE_SIZE : position, size);
    invalidating = unordered = 0;
}

void sim_publish64(struct sim_place *flushed, struct sim_place *fenced, struct mem *mem, uint64_t position, uint64_t value)
{
    mem_store64(mem, position, value);
    sim_flush(flushed, mem, position, sizeof value);
    sim_fence(fenced, mem);
}

uint64_t sim_observe64(struct sim_place *place, struct mem *mem, uint64_t position)
{
    sim_invalidate(place, mem, position, sizeof(uint64_t));
    return mem_load64(mem, position);
}

/* Where an atomic goes: memory itself. What the hosts hold of the line is dropped for good. */
static uint8_t *atomic_at(struct mem *mem, uint64_t position)
{
    (void)mem_at(mem, position, sizeof(uint32_t));
    struct host *host = step(mem);
    uint64_t line = position / LINE_SIZE;
    call_hook(host, SIM_AT_FENCES);
    acting = host;
    if (!coherent[line]) {
        coherent[line] = 1;
        for (struct host *other = hosts; other < hosts + HOSTS_MAX; other++)
            if (other->used && other->state[line] != ABSENT) {
                if (other->state[line] == UNFENCED)
                    abort();
                other->state[line] = ABSENT;
            }
    }
    return memory + position;
}

/* Of allocation: what sleepers and wakers exchange is half as long, and joins processes of one host. */
static uint64_t *atomic_word(struct mem *mem, uint64_t position)
{
    allocation_atomics++;
    return (uint64_t *)(void *)atomic_at(mem, position);
}

static void replace_bytes(const uint8_t *at, const void *value, uint64_t size)
{
    if (acting->dead)
        return;
    uint8_t bytes[LINE_SIZE];
    uint64_t position = (uint64_t)(at - memory);
    memcpy(bytes, memory_line(position / LINE_SIZE), LINE_SIZE);
    memcpy(bytes + position % LINE_SIZE, value, size);
    memory_set(position / LINE_SIZE, bytes);
}

static uint64_t replace_word(const uint64_t *word, uint64_t value)
{
    uint64_t before = *word;
    replace_bytes((const uint8_t *)word, &value, sizeof value);
    return before;
}

uint32_t mem_exchange32(struct mem *mem, uint64_t position, uint32_t value)
{
    const uint8_t *at = atomic_at(mem, position);
    uint32_t before = *(const uint32_t *)(const void *)at;
    replace_bytes(at, &value, sizeof value);
    return before;
}

uint64_t mem_fetch_or64(struct mem *mem, uint64_t position, uint64_t bits)
{
    uint64_t *word = atomic_word(mem, position);
    return replace_word(word, *word | bits);
}

uint64_t mem_fetch_and64(struct mem *mem, uint64_t position, uint64_t bits)
{
    uint64_t *word = atomic_word(mem, position);
    return replace_word(word, *word & bits);
}

void mem_raise64(struct mem *mem, uint64_t position, uint64_t value)
{
    uint64_t *word = atomic_word(mem, position);
    if (*word < value)
        replace_word(word, value);
}

void mem_use(struct mem *mem, void *base, uint64_t size)
{
    struct host *host = host_new();
    if (size != memory_size)
        abort();
    host->mapped = base;
    seam_use(mem, host->cache, size);
}

void *mem_pages(const struct mem *mem, uint64_t position, uint64_t size)
{
    (void)mem_at(mem, position, size);
    return (uint8_t *)host_of(mem)->mapped + position;
}

uint8_t *mem_reserved(const struct mem *mem, uint64_t position, uint64_t size)
{
    struct host *host = step(mem);
    for (uint64_t line = position / LINE_SIZE; line * LINE_SIZE < position + size; line++) {
        (void)line_for_load(host, line);
        unfenced_of(host, line)->raw = 1;
    }
    return mem_at(mem, position, size);
}

/* The copy that the host has, or takes now: the socket reads what its loads would. */
const uint8_t *mem_lent(const struct mem *mem, uint64_t position, uint64_t size)
{
    struct host *host = step(mem);
    for (uint64_t line = position / LINE_SIZE; line * LINE_SIZE < position + size; line++)
        (void)line_for_load(host, line);
    return mem_at(mem, position, size);
}

/* ---- sites and readers ------------------------------------------------------------------------------------------------ */

uint32_t sim_site_count(void) { return (uint32_t)(__stop_sim_places - __start_sim_places); }

void sim_site_get(uint32_t number, struct sim_site *site)
{
    const struct sim_place *place = &__start_sim_places[number];
    *site = (struct sim_site){place->file, place->line, place->operation, hits == NULL ? 0 : hits[number]};
}

void sim_mutate(uint32_t number, uint32_t mutant) { __start_sim_places[number].mutant = mutant; }

void sim_describe(struct log *log, uint32_t block) { segment_describe(log, block, BLOCK_RUN, 1, 0, 0); }

struct log *sim_reader(int32_t fd, uint64_t size, uint32_t broker)
{
    struct region_header header;
    struct log *log = calloc(1, sizeof *log);
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (log == NULL || base == MAP_FAILED)
        abort();
    log->fd = fd;
    mem_use(&log->mem, base, size);
    mem_read(&log->mem, 0, &header, sizeof header);
    log->mem.noncoherent = 1;
    log->block_count = header.block_count;
    log->bitmap_position = header.bitmap_position;
    log->block_table_position = header.block_table_position;
    log->blocks_position = header.blocks_position;
    log->broker = broker;
    return log;
}

_Static_assert(SIM_RESERVE == RESERVE_BLOCKS, "the reserve");
