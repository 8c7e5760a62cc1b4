// A few threads that share the chunks of one job at a time.
#pragma once
#include <stdint.h>

typedef void (*work_t)(void *context, int64_t chunk);

// Chunks 0 to chunks - 1, each once, on at most `threads` threads; chunks are claimed one by one, and the caller never waits for a helper that has
// claimed none.
void each_chunk(work_t work, void *context, int64_t chunks, int threads);
