/* What the crash tests call, besides the core. Read by the compiler and, as text, by cffi. */

/* Stores are noted from now on, after those before were forgotten. `descending`: the words of one copy go backwards. */
void undo_start(int32_t descending);
void undo_stop(void);
uint64_t undo_count(void);
/* Takes back the newest stores until `count` are left. `base`: where the caller has mapped the region. */
void undo_back(uint64_t base, uint64_t count);
