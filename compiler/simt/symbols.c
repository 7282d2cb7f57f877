/* symbols.c - the functions that retargeted code may call, by name. */
#include "simt.h"

#include <string.h>

#define SHIM(convention, function, intrinsic) void simt_##function(void);
#define EXTRA(function, name) void simt_##function(void);
#include "shims.inc"

static const struct {
    const char *name;
    void (*address)(void);
} symbols[] = {
#define SHIM(convention, function, intrinsic) {"simt_" #function, simt_##function},
#define EXTRA(function, name) {name, simt_##function},
#include "shims.inc"
};

void *simt_symbol(const char *name)
{
    for (size_t i = 0; i < COUNT(symbols); i++)
        if (!strcmp(symbols[i].name, name))
            return (void *)(uintptr_t)symbols[i].address;
    return NULL;
}
