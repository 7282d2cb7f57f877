/* object.h - loads relocatable objects (ELF64, x86-64) of kernels into executable memory.
 *
 * Objects hold position-independent or small-model code with read-only constants. All objects of one call share a
 * mapping: first all code, then all constants, so that 32-bit displacements reach. The memory is written, then code
 * becomes read+execute and constants read-only: never writable and executable at once. Writable data, thread-local
 * storage and undefined symbols other than memcpy, memmove, memset and what the caller resolves are refused.
 * Source: System V ABI, AMD64 supplement, "Relocation".
 */
#ifndef BLADE_OBJECT_H
#define BLADE_OBJECT_H

#include "base.h"

typedef struct ObjectSource {
    const char *name; /* for messages */
    const uint8_t *data;
    size_t size;
    const char *symbol; /* function to find */
} ObjectSource;

typedef struct ObjectCode {
    void *memory;
    size_t size; /* bytes mapped, code and constants */
} ObjectCode;

/* Address of a function that objects may call besides; NULL when there is none of this name. */
typedef void *ObjectResolver(const char *name);

/* Loads all objects and gives the address of each one's symbol. The bytes are untrusted as far as the format goes: a
 * malformed object is an error. On failure nothing stays mapped. */
bool object_load(const ObjectSource *sources, size_t count, void **entries, ObjectCode *code, Err *err);
bool object_load_with(const ObjectSource *sources, size_t count, ObjectResolver *resolve, void **entries,
                      ObjectCode *code, Err *err); /* resolve may be NULL */
void object_unload(ObjectCode *code);

#endif
