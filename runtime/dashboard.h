/* dashboard.h - the live page of a server, and the numbers that it asks for every second.
 *
 *     GET /dashboard        dashboard_html, text/html. It holds no data, so it needs no key: it asks for one when the
 *                           server answers 401 to the next line
 *     GET /dashboard/data   metrics_dashboard, application/json. ?after=N leaves out the points up to number N
 *
 * The JSON; times in seconds, null where there is nothing to tell:
 *
 *     {"model": "name", "version": "0.1.0", "started": 1764000000.123, "uptime": 12.5,
 *      "now": {"running": 3, "waiting": 0, "kv_usage": 0.25, "kv_pages": 4096, "page_tokens": 16,
 *              "ttft": {"p50": 0.1, "p99": 0.2}, "itl": {"p50": 0.01, "p99": 0.03}},          latencies: the last minute
 *      "totals": {"prompt_tokens": 0, "generated_tokens": 0, "prefix_queries": 0, "prefix_hits": 0, "preemptions": 0,
 *                 "rejections": 0, "steps": 0, "finished": {"stop": 0, "length": 0, "abort": 0, "error": 0}},
 *      "history": {"last": 2, "t": [1.0, 2.0], "running": [3, 3], ...}}                        see history_json
 */
#ifndef BLADE_DASHBOARD_H
#define BLADE_DASHBOARD_H

#include "metrics.h"

extern const char dashboard_html[]; /* runtime/dashboard.html */
extern const size_t dashboard_html_len;

/* Appends the whole object. `after`: the query's parameter as it came, or NULL. With `m` NULL: "{}". */
void metrics_dashboard(const Metrics *m, const char *after, Buf *out);

#endif
