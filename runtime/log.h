/* log.h - one line per event on standard error: time, level, event, and key=value fields, or the same as JSON objects.
 *
 *     log_event(LOG_INFO, "request", "id", "s", id, "status", "d", 200, "seconds", "f", 0.125, NULL);
 *
 * Values are given as a type letter and a value: "s" const char * (NULL: the field is left out; quoted where needed),
 * "d" int, "l" int64_t, "f" double. Lines of several threads never mix.
 */
#ifndef BLADE_LOG_H
#define BLADE_LOG_H

#include "base.h"

typedef enum LogLevel { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR, LOG_LEVELS } LogLevel;
extern const char *const log_level_names[LOG_LEVELS]; /* "debug", "info", "warning", "error" */

/* Nothing below `level` is printed (default LOG_INFO); before threads are started. */
void log_setup(LogLevel level, bool json);
void log_event(LogLevel level, const char *event, ...) __attribute__((sentinel));

#endif
