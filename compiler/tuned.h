/* tuned.h - tuned settings of kernels as text: which settings of a schedule are fastest on a device, as bladetune found
 * them. The generator reads these files, never the database of results.
 *
 * A device has at most two files NAME.json (NAME as cpu_device says, of a GPU as Device.name): the one that ships in autotune/results of the
 * source folder, and the user's own, which counts more. A file is one JSON object; each entry stands on its own line,
 * sorted, so that files compare and merge well:
 *
 *     {"format": 1, "device": "amd-epyc-9354p-f25m17-32c", "entries": [
 *     {"bucket": 4, "operator": "matmul", "parameters": "k=2048,n=2048,w=bf16", "schedule": "default@9f3c0a12",
 *      "settings": {"ahead": 0, "rows": 4, ...}, "target": "x86-64-v4", ...},
 *     ...]}
 *
 * An entry applies to a kernel of the same target, operator, parameters and bucket (most tokens of a step, 0: any)
 * when the schedule is still the one that was tuned (its name and a hash of its code, comments aside) and knows these
 * settings and values. Further keys (seconds, gain, date, ...: autotune/db.h) are for people.
 */
#ifndef BLADE_TUNED_H
#define BLADE_TUNED_H

#include "json.h"

/* Folder of the user's own files: $XDG_DATA_HOME/blade/tuned or ~/.local/share/blade/tuned. "" when there is no home
 * folder, or its path is too long. */
void tuned_user_folder(char *out, size_t size);

/* Continues hash `h` with the bytes of both files. */
uint64_t tuned_signature(uint64_t h, const char *source, const char *device);

/* The entries of both files for `target`, the user's last, as an array; each with keys "file" and "shipped" added. A file that is
 * no such file is left out with a line in `warnings`. */
json_t *tuned_read(const char *source, const char *device, const char *target, Buf *warnings);

/* Reads one file: its object, or NULL and a message. Checks all that the format says about every entry. */
json_t *tuned_file(const char *path, Err *err);

#endif
