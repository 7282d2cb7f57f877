/* Event streams from a server: whatever the bytes, the events do not depend on how the network cuts them, and every
 * event can be read as a chunk. The first byte of the input seeds the cuts. */
#include <stdlib.h>

#include "load_sse.h"

static void digest(void *context, const char *data, size_t len)
{
    uint64_t *hash = context;
    LoadChunk chunk;
    load_chunk_read(data, len, &chunk);
    *hash = hash_bytes(*hash, data, len + 1) + 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    uint64_t whole = 0, pieces = 0, state = size ? data[0] : 0;
    Sse s = {0};
    sse_feed(&s, text, size, digest, &whole);
    sse_end(&s, digest, &whole);
    sse_free(&s);
    for (size_t at = 0; at < size;) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        size_t n = MIN((size_t)(state >> 60), size - at);
        sse_feed(&s, text + at, n, digest, &pieces);
        at += n;
    }
    sse_end(&s, digest, &pieces);
    sse_free(&s);
    if (whole != pieces)
        abort();
    char line[100];
    load_error_text(text, size, line, sizeof line);
    return 0;
}
