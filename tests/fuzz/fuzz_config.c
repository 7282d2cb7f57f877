/* fuzz_config.c - any bytes as config.json: parsing in Python's dialect, then every key read as every type. What was
 * read must be JSON that reads back equal. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok)
        abort();
}

static void read_key(const json_t *config, const char *key)
{
    int64_t n;
    double real;
    bool flag;
    const char *text;
    Err err = {0};
    if (json_get_int(config, key, 1, 1 << 20, 7, &n, &err))
        require(n >= 1 && n <= 1 << 20);
    json_get_int(config, key, INT64_MIN, INT64_MAX, 0, &n, &err);
    if (json_get_real(config, key, -DBL_MAX, DBL_MAX, 0, &real, &err))
        require(real >= -DBL_MAX && real <= DBL_MAX);
    json_get_bool(config, key, false, &flag, &err);
    json_get_str(config, key, "", &text, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Err err = {0};
    json_t *config = json_parse((const char *)data, size, "config.json", &err);
    if (!config) {
        require(*err.text);
        return 0;
    }
    const char *key;
    json_t *value;
    json_object_foreach(config, key, value)
        read_key(config, key);
    char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (text) { /* NULL for nesting beyond jansson's limit when writing */
        json_t *again = json_parse(text, strlen(text), "again", &err);
        require(again && json_equal(config, again));
        json_decref(again);
        free(text);
    }
    json_decref(config);
    return 0;
}
