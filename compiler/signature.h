/* signature.h - where the generator and its Lua sources are, and a number that changes whenever either does.
 *
 * A cached pack carries the signature it was built under. The runtime compares without loading the generator (which
 * would pull in LLVM), so the generator's part is the size and modification time of libbladegen.so.
 */
#ifndef BLADE_SIGNATURE_H
#define BLADE_SIGNATURE_H

#include "base.h"

#include <jansson.h>

/* Hash over names and contents of all .lua files below compiler/lua, templates and schedules of the source folder,
 * and over size and time of the file generator_path. Never 0, which means "unknown" in a pack. A folder or file that
 * can't be read counts as empty. */
uint64_t generator_signature(const char *source, const char *generator_path);

/* The same with the tuned settings of a device (tuned.h), which also decide what a pack contains; NULL: this machine. */
uint64_t source_signature(const char *source, const char *generator_path, const char *device);

/* What goes into that, for people: {version, generator: hash, device, tuned: hash, sources: {path: hash}}. `device`: as
 * tuned_read takes it. */
json_t *source_origin(const char *source, const char *generator_path, const char *device);

/* Folder that holds compiler/lua, templates and schedules for a generator at generator_path (.../lib/libbladegen.so):
 * .../share/blade when that is there, else the tree that this program was built from. */
void source_folder(const char *generator_path, char *out, size_t size);

/* Path of libbladegen.so: lib/ beside the folder of this executable, or the executable's own folder; otherwise the bare
 * name, for the dynamic linker's search, and false. */
bool generator_find(char *out, size_t size);

#endif
