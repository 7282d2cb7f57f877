/* module.c - images of the stand-in: relocatable objects for this CPU, from simt: targets. */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_driver.h"
#include "object.h"
#include "standin.h"

typedef struct Module {
    ObjectCode code;
    StKernel kernel;
    char symbol[64];
} Module;

/* Drivers are not told an image's size: the end of what its headers speak of. */
static size_t image_size(const void *image)
{
    const Elf64_Ehdr *h = image;
    size_t size = h->e_shoff + (size_t)h->e_shnum * sizeof(Elf64_Shdr);
    for (size_t i = 0; i < h->e_shnum; i++) {
        Elf64_Shdr s;
        memcpy(&s, (const char *)image + h->e_shoff + i * sizeof s, sizeof s);
        if (s.sh_type != SHT_NOBITS)
            size = MAX(size, s.sh_offset + s.sh_size);
    }
    return size;
}

int st_module_load(void **module, const void *image, char *log, size_t log_bytes)
{
    if (st_status())
        return st_status();
    Err err = {0};
    bool elf = !memcmp(image, ELFMAG, SELFMAG) ||
               err_set(&err, "no object for this CPU: packs of simt: targets run here");
    Module *m = xcalloc(1, sizeof *m);
    ObjectSource source = {"kernel", image, elf ? image_size(image) : 0, "kernel"};
    void *entry = NULL;
    if (elf && object_load_with(&source, 1, simt_symbol, &entry, &m->code, &err)) {
        m->kernel.entry = entry;
        snprintf(m->symbol, sizeof m->symbol, "kernel");
        *module = m;
        return 0;
    }
    if (log_bytes)
        snprintf(log, log_bytes, "%s", err.text);
    free(m);
    return CUDA_ERROR_INVALID_IMAGE;
}

int st_module_free(void *module)
{
    Module *m = module;
    object_unload(&m->code);
    free(m);
    return st_status();
}

int st_module_function(void **function, void *module, const char *name)
{
    Module *m = module;
    if (strcmp(name, m->symbol))
        return CUDA_ERROR_NOT_FOUND;
    *function = &m->kernel;
    return st_status();
}
