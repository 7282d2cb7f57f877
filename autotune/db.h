/* db.h - the database of results: one row a device, target, operator, parameters and bucket; and the same as text.
 *
 * SQLite with a write-ahead log; a case is one transaction, so that whatever ends the process, finished results stay.
 * Beside the database FILE lies the folder "tuned" with a text file a device, which the generator reads
 * (compiler/tuned.h); it is written anew after every change.
 */
#ifndef BLADE_DB_H
#define BLADE_DB_H

#include "json.h"

/* X(field, column, type): columns in order, and keys of the text form. The first five identify a row. */
#define RECORD_TEXTS(X) X(device) X(target) X(operator) X(parameters) X(driver) X(schedule) X(settings) \
    X(default_settings) X(limit_name) X(build) X(date) X(details)
#define RECORD_REALS(X) X(seconds) X(default_seconds) X(gain) X(share) X(correlation)
#define RECORD_INTS(X) X(bucket) X(cores) X(threads) X(measured) X(rejected) X(combinations)

typedef struct Record {
#define X(name) const char *name;
    RECORD_TEXTS(X) /* settings, default_settings, details: JSON */
#undef X
#define X(name) double name;
    RECORD_REALS(X)
#undef X
#define X(name) int64_t name;
    RECORD_INTS(X)
#undef X
} Record;

typedef struct Db Db;

/* Path of the user's database: $XDG_DATA_HOME/blade/tune.db or ~/.local/share/blade/tune.db. */
bool db_default_path(char *out, size_t size, Err *err);

/* Opens or creates; NULL and a message when the file is no such database, of a newer version, or can't be written. */
Db *db_open(const char *path, Err *err);
void db_close(Db *db); /* NULL is allowed */

/* Puts a row in the place of the one with the same identity. On return it is on the disk. */
bool db_put(Db *db, const Record *r, Err *err);

/* Whether a result of this identity is there that was measured under `build` for the same schedule. */
bool db_has(Db *db, const Record *r, bool *there, Err *err);

/* Calls fn for every row, sorted by identity, of one device or (NULL) of all; strings live during the call only. */
typedef bool DbRow(void *context, const Record *r, Err *err);
bool db_each(Db *db, const char *device, DbRow *fn, void *context, Err *err);

/* Names of the devices, sorted; strings of the arena. */
typedef VEC(const char *) DbNames;
bool db_devices(Db *db, Arena *a, DbNames *out, Err *err);

/* Rewrites the text file of the device beside the database. */
bool db_write_text(Db *db, const char *device, Err *err);

/* ---- text (text.c) ---------------------------------------------------------------------------------------------- */

/* Appends the text form of all rows of a device. `details` (what happened to each candidate) is left out unless asked
 * for. */
bool text_put(Db *db, const char *device, bool details, Buf *out, Err *err);

/* Writes rows that are not in a database as such a text. */
void text_from(const char *device, const Record *rows, size_t count, Buf *out);

/* Reads such a text, checking every field; the records' strings live as long as *root (json_decref) and the arena. */
bool text_read(const char *path, Arena *a, json_t **root, Record **rows, size_t *count, Err *err);

#endif
