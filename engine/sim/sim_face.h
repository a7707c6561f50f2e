/* What the simulation's Python calls, besides the core. Read by the compiler and, as text, by cffi. A host is known by its number: one
 * for each handle on the region, in the order in which they were made; numbers of hosts that are gone are used again.
 */

struct log;

enum { SIM_FLUSH = 0, SIM_FENCE = 1, SIM_INVALIDATE = 2 };
/* SIM_DELETED: the operation does nothing. SIM_REDIRECTED: it meets the lines one further. SIM_UNFENCED: an invalidate whose fence is
   missing, so that loads may run ahead of it. */
enum { SIM_NONE = 0, SIM_DELETED = 1, SIM_REDIRECTED = 2, SIM_UNFENCED = 3 };
enum { SIM_AT_FENCES = 1, SIM_AT_INVALIDATES = 2 };
enum { SIM_RESERVE = 8 };             /* RESERVE_BLOCKS of log.h */
enum { SIM_ORDER_SLOTS = 512 };       /* of the ring of order, which is shorter here */

struct sim_site {
    const char *file;
    uint32_t line;
    uint32_t operation;
    uint64_t hits;                /* how often it ran since sim_begin, in children as well */
};

/* A new world over `size` bytes of memory at this address, which the caller maps, shared. All hosts are gone. */
void sim_begin(uint64_t memory, uint64_t size);
int32_t sim_host_of(struct log *log);
/* The host is gone as by a kill: what its cache held alone is lost. `log`: its handle, or NULL where it has none (any more). */
void sim_host_end(int32_t host, struct log *log);
/* The host is killed while its call is still on the stack: from here on nothing that it does reaches memory or a hook. */
void sim_host_die(int32_t host);
/* In a child process: what is done to memory stays in this process. `fd` is the file behind it. */
void sim_private(int32_t fd);
/* What every clock of the core says from here on; 0 in a new world. */
void sim_clock(int64_t nanoseconds);
/* Called where a host waits for another (a pause, a sleep), not while it runs already; without it a wait ends the process. */
void sim_wait_hook(void (*hook)(void));

/* Lines that the host stored to and that are not surely in memory. For each, how many versions memory may hold besides the
   present one (none: a line of a reservation that nobody stored to yet): a line may have been written back after any of its stores since it was
   last fenced. Returns how many lines. */
uint32_t sim_unfenced(int32_t host, uint64_t *lines, uint32_t *versions, uint32_t room);
/* Memory gets version chosen[i] of unfenced line i: 1 is the oldest, 0 leaves the line. The host's cache stays as it is. */
void sim_write_back(int32_t host, const uint32_t *chosen, uint32_t count);

/* Changes of memory are remembered from the first call on; sim_undo takes them back to a mark. */
uint64_t sim_mark(void);
void sim_undo(uint64_t mark);
/* The caches of living hosts, kept and restored; one level. The unfenced lines of a host must be the same at both times. */
void sim_keep_cache(int32_t host);
void sim_restore_cache(int32_t host);
/* The host holds a copy of every line that has been written so far, and of some after these (as a prefetcher may have left it). */
void sim_prefetch(int32_t host);
/* And of these lines, written or not. */
void sim_prefetch_range(int32_t host, uint64_t position, uint64_t size);
/* The same for hosts that are made later: they begin with copies as lines are now. The second adds lines that nobody wrote yet. */
void sim_keep_stale(void);
void sim_keep_stale_range(uint64_t position, uint64_t size);
void sim_forget_stale(void);

/* Every host loses or writes back a line of its cache at one of `one_in` steps; 0: never. */
void sim_evict(uint64_t seed, uint32_t one_in);
/* `hook` is called when `host` is about to pass a fence or an atomic (all that its stores may leave in memory up to there is possible
   now), or to pass an invalidate; never while the host's hook runs already. NULL: none. */
void sim_hook(int32_t host, uint32_t when, void (*hook)(void));
void sim_hook_next(uint32_t when, void (*hook)(void));      /* of the next host that is made */
/* abort() after so many steps: a mutant may run in circles. */
void sim_limit(uint64_t steps);
uint64_t sim_steps(void);
/* Atomics since sim_begin that claimed or freed blocks, or told how many have memory. */
uint64_t sim_allocation_atomics(void);

uint32_t sim_site_count(void);
void sim_site_get(uint32_t number, struct sim_site *site);
void sim_mutate(uint32_t number, uint32_t mutant);

/* A handle that only reads, as `broker` (whose pins it uses). It takes no other part. */
void sim_describe(struct log *log, uint32_t block);     /* claimed before: the rest of a reservation */
struct log *sim_reader(int32_t fd, uint64_t size, uint32_t broker);
