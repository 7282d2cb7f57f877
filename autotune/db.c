/* db.c - results in SQLite; see db.h. */
#include "db.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, VERSION = 1, BUSY_MILLISECONDS = 20000 };

struct Db {
    sqlite3 *handle;
    char path[PATH_BYTES];
};

#define X(name) #name ","
#define COLUMNS RECORD_TEXTS(X) RECORD_REALS(X) RECORD_INTS(X)
static const char columns[] = COLUMNS;
#undef X

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS results ("
#define X(name) #name " TEXT NOT NULL,"
    RECORD_TEXTS(X)
#undef X
#define X(name) #name " REAL NOT NULL,"
    RECORD_REALS(X)
#undef X
#define X(name) #name " INTEGER NOT NULL,"
    RECORD_INTS(X)
#undef X
    "PRIMARY KEY (device, target, operator, parameters, bucket)) WITHOUT ROWID;";

bool db_default_path(char *out, size_t size, Err *err)
{
    const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n = xdg && xdg[0] == '/' ? snprintf(out, size, "%s/blade/tune.db", xdg)
            : home && home[0]    ? snprintf(out, size, "%s/.local/share/blade/tune.db", home)
                                 : 0;
    return (n > 0 && (size_t)n < size) || err_set(err, "no home folder is set; name the database with --db FILE");
}

/* ---- SQLite ----------------------------------------------------------------------------------------------------- */

static bool failed(const Db *db, Err *err)
{
    return err_set(err, "%s: %s", db->path, sqlite3_errmsg(db->handle));
}

static bool run(Db *db, const char *sql, Err *err)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK || failed(db, err);
}

static sqlite3_stmt *prepare(Db *db, const char *sql, Err *err)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db->handle, sql, -1, &s, NULL) != SQLITE_OK)
        failed(db, err);
    return s;
}

static bool check_version(Db *db, Err *err)
{
    sqlite3_stmt *s = prepare(db, "PRAGMA user_version", err);
    if (!s)
        return false;
    int version = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int(s, 0) : -1;
    sqlite3_finalize(s);
    if (version > VERSION)
        return err_set(err, "%s: version %d of the database of results; this program knows version %d", db->path,
                       version, VERSION);
    return version >= 0 || failed(db, err);
}

static bool make_folder(const char *path, Err *err)
{
    char folder[PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash || slash == folder)
        return true;
    *slash = 0;
    return dir_make(folder, err);
}

Db *db_open(const char *path, Err *err)
{
    Db *db = xcalloc(1, sizeof *db);
    char set[64];
    snprintf(db->path, sizeof db->path, "%s", path);
    snprintf(set, sizeof set, "PRAGMA user_version = %d", VERSION);
    bool ok = make_folder(path, err) && (sqlite3_open(path, &db->handle) == SQLITE_OK || failed(db, err));
    if (ok)
        sqlite3_busy_timeout(db->handle, BUSY_MILLISECONDS);
    ok = ok && check_version(db, err) && run(db, "PRAGMA journal_mode = WAL", err) &&
         run(db, "PRAGMA synchronous = FULL", err) && run(db, schema, err) && run(db, set, err);
    if (ok)
        return db;
    db_close(db);
    return NULL;
}

void db_close(Db *db)
{
    if (!db)
        return;
    sqlite3_close(db->handle);
    free(db);
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

static void bind_record(sqlite3_stmt *s, const Record *r)
{
    int n = 1;
#define X(name) sqlite3_bind_text(s, n++, r->name ? r->name : "", -1, SQLITE_TRANSIENT);
    RECORD_TEXTS(X)
#undef X
#define X(name) sqlite3_bind_double(s, n++, r->name);
    RECORD_REALS(X)
#undef X
#define X(name) sqlite3_bind_int64(s, n++, r->name);
    RECORD_INTS(X)
#undef X
}

static const char *column_text(sqlite3_stmt *s, int n)
{
    const char *text = (const char *)sqlite3_column_text(s, n);
    return text ? text : "";
}

static Record read_record(sqlite3_stmt *s)
{
    Record r = {0};
    int n = 0;
#define X(name) r.name = column_text(s, n++);
    RECORD_TEXTS(X)
#undef X
#define X(name) r.name = sqlite3_column_double(s, n++);
    RECORD_REALS(X)
#undef X
#define X(name) r.name = sqlite3_column_int64(s, n++);
    RECORD_INTS(X)
#undef X
    return r;
}

bool db_put(Db *db, const Record *r, Err *err)
{
    char sql[1024], marks[128] = "";
#define X(name) strcat(marks, "?,");
    RECORD_TEXTS(X) RECORD_REALS(X) RECORD_INTS(X)
#undef X
    marks[strlen(marks) - 1] = 0;
    snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO results (%.*s) VALUES (%s)", (int)strlen(columns) - 1, columns,
             marks);
    sqlite3_stmt *s = prepare(db, sql, err);
    if (!s)
        return false;
    bind_record(s, r);
    bool ok = sqlite3_step(s) == SQLITE_DONE || failed(db, err);
    sqlite3_finalize(s);
    return ok;
}

bool db_has(Db *db, const Record *r, bool *there, Err *err)
{
    sqlite3_stmt *s = prepare(db, "SELECT 1 FROM results WHERE device=? AND target=? AND operator=? AND parameters=? "
                              "AND schedule=? AND build=? AND bucket=?", err);
    if (!s)
        return false;
    const char *texts[] = {r->device, r->target, r->operator, r->parameters, r->schedule, r->build};
    for (int i = 0; i < (int)COUNT(texts); i++)
        sqlite3_bind_text(s, i + 1, texts[i], -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(s, (int)COUNT(texts) + 1, r->bucket);
    int rc = sqlite3_step(s);
    *there = rc == SQLITE_ROW;
    bool ok = *there || rc == SQLITE_DONE || failed(db, err);
    sqlite3_finalize(s);
    return ok;
}

bool db_each(Db *db, const char *device, DbRow *fn, void *context, Err *err)
{
    char sql[1024];
    snprintf(sql, sizeof sql, "SELECT %.*s FROM results WHERE ?1 IS NULL OR device = ?1 ORDER BY device, target, "
             "operator, parameters, bucket", (int)strlen(columns) - 1, columns);
    sqlite3_stmt *s = prepare(db, sql, err);
    if (!s)
        return false;
    if (device)
        sqlite3_bind_text(s, 1, device, -1, SQLITE_TRANSIENT);
    bool ok = true;
    int rc;
    while (ok && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        Record r = read_record(s);
        ok = fn(context, &r, err);
    }
    ok = ok && (rc == SQLITE_DONE || failed(db, err));
    sqlite3_finalize(s);
    return ok;
}

bool db_devices(Db *db, Arena *a, DbNames *out, Err *err)
{
    sqlite3_stmt *s = prepare(db, "SELECT DISTINCT device FROM results ORDER BY device", err);
    if (!s)
        return false;
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW)
        vec_push(out, arena_strdup(a, column_text(s, 0)));
    bool ok = rc == SQLITE_DONE || failed(db, err);
    sqlite3_finalize(s);
    return ok;
}

bool db_write_text(Db *db, const char *device, Err *err)
{
    char folder[PATH_BYTES + 16], path[PATH_BYTES + 256];
    char *slash = strrchr(db->path, '/');
    snprintf(folder, sizeof folder, "%.*s%s", slash ? (int)(slash - db->path) + 1 : 0, db->path, "tuned");
    snprintf(path, sizeof path, "%s/%.200s.json", folder, device);
    Buf text = {0};
    bool ok = dir_make(folder, err) && text_put(db, device, false, &text, err) &&
              file_write_atomic(path, text.data, text.len, err);
    buf_free(&text);
    return ok;
}
