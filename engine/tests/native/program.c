/* One program over the core, without Python: built for each processor and with each sanitizer by test_native.py.
 *
 *     program log|memory|threads FOLDER coherent|noncoherent     programs of cases on regions of their own
 *     program batches                                            the gateway's check of batches
 *     program leave|take FOLDER coherent|noncoherent             a region that one process leaves and another takes
 *     program flush clflush|clflushopt                           one instruction, outright: does this processor have it?
 */
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "world.h"

#if defined(__x86_64__)
__attribute__((target("clflushopt"))) static void flush_outright(const char *instruction)
{
    static char line[64];
    if (strcmp(instruction, "clflushopt") == 0)
        _mm_clflushopt(line);
    else
        _mm_clflush(line);
}
#endif

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    uint32_t coherence = count > 3 && strcmp(words[3], "noncoherent") == 0 ? COHERENCE_NONCOHERENT : COHERENCE_COHERENT;
    if (strcmp(what, "batches") == 0)
        cases_of_batches();
#if defined(__x86_64__)
    else if (count == 3 && strcmp(what, "flush") == 0)
        flush_outright(words[2]);
#endif
    else if (count != 4)
        return 2;
    else if (strcmp(what, "log") == 0)
        cases_of_the_log(words[2], coherence);
    else if (strcmp(what, "memory") == 0)
        cases_of_memory(words[2], coherence);
    else if (strcmp(what, "threads") == 0)
        cases_of_threads(words[2], coherence);
    else if (strcmp(what, "leave") == 0)
        leave_a_region(words[2], coherence);
    else if (strcmp(what, "take") == 0)
        take_a_region(words[2]);
    else
        return 2;
    printf("%s: done\n", what);
    return 0;
}
