/* metrics.h - counters, gauges and histograms of a server, under the names that vLLM uses, so that dashboards, routers
 * and Kubernetes' inference gateway work as they are; and their history for the live page.
 *
 * All functions may be called from any thread. Names: https://docs.vllm.ai/en/latest/design/metrics.html; text format:
 * https://prometheus.io/docs/instrumenting/exposition_formats. Labels of every vllm: metric: model_name, engine="0".
 */
#ifndef BLADE_METRICS_H
#define BLADE_METRICS_H

#include "base.h"

/* X(id, name, help) */
#define METRIC_COUNTERS(X)                                                                                             \
    X(PROMPT_TOKENS, "vllm:prompt_tokens_total", "Prompt tokens computed or taken from the prefix cache.")             \
    X(GENERATION_TOKENS, "vllm:generation_tokens_total", "Generated tokens.")                                          \
    X(PREEMPTIONS, "vllm:num_preemptions_total", "Sequences that gave their pages back to be computed again.")         \
    X(PREFIX_QUERIES, "vllm:prefix_cache_queries_total", "Prompt tokens looked for in the prefix cache.")              \
    X(PREFIX_HITS, "vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.")                         \
    X(REJECTIONS, "vllm:admission_rejections_total", "Requests refused because a queue was full or waited too long.")  \
    X(STEPS, "blade:engine_steps_total", "Steps of the engine.")
#define METRIC_GAUGES(X)                                                                                               \
    X(RUNNING, "vllm:num_requests_running", "Sequences in the present batch.")                                         \
    X(WAITING, "vllm:num_requests_waiting", "Sequences that wait.")                                                    \
    X(KV_USAGE, "vllm:kv_cache_usage_perc", "Part of the KV cache in use; 1 is all.")                                  \
    X(GPU_CACHE_USAGE, "vllm:gpu_cache_usage_perc", "The same under its older name; set together with it.")            \
    X(SWAPPED, "vllm:num_requests_swapped", "Always 0: preemption is by recompute.")
/* X(id, name, help, bounds): bounds names one of the bucket lists of metrics.c */
#define METRIC_HISTOGRAMS(X)                                                                                           \
    X(TTFT, "vllm:time_to_first_token_seconds", "From the arrival of a request to its first token.", seconds)          \
    X(ITL, "vllm:inter_token_latency_seconds", "Between tokens of a sequence.", short_seconds)                         \
    X(TPOT, "vllm:request_time_per_output_token_seconds", "Mean time between tokens, by request.", short_seconds)      \
    X(E2E, "vllm:e2e_request_latency_seconds", "From arrival to the last token.", long_seconds)                        \
    X(QUEUE_TIME, "vllm:request_queue_time_seconds", "From arrival to the first step.", long_seconds)                  \
    X(PREFILL_TIME, "vllm:request_prefill_time_seconds", "From the first step to the first token.", long_seconds)      \
    X(DECODE_TIME, "vllm:request_decode_time_seconds", "From the first token to the last.", long_seconds)              \
    X(INFERENCE_TIME, "vllm:request_inference_time_seconds", "From the first step to the last token.", long_seconds)   \
    X(PROMPT_LENGTH, "vllm:request_prompt_tokens", "Prompt tokens of a request.", counts)                              \
    X(GENERATION_LENGTH, "vllm:request_generation_tokens", "Generated tokens of a request.", counts)                   \
    X(ITERATION_TOKENS, "vllm:iteration_tokens_total", "Tokens of a step.", step_counts)                               \
    X(PARAMS_N, "vllm:request_params_n", "n of a request.", small_counts)                                              \
    X(PARAMS_MAX_TOKENS, "vllm:request_params_max_tokens", "max_tokens of a request.", counts)                         \
    X(STEP_TIME, "blade:engine_step_seconds", "Wall time of a step of the engine.", short_seconds)

#define X(id, ...) METRIC_##id,
typedef enum MetricCounter { METRIC_COUNTERS(X) METRIC_COUNTERS_COUNT } MetricCounter;
typedef enum MetricGauge { METRIC_GAUGES(X) METRIC_GAUGES_COUNT } MetricGauge;
typedef enum MetricHistogram { METRIC_HISTOGRAMS(X) METRIC_HISTOGRAMS_COUNT } MetricHistogram;
#undef X

typedef struct Metrics Metrics;

Metrics *metrics_new(const char *model_name); /* copied */
void metrics_free(Metrics *m);                /* NULL is allowed, here and in all functions below */

void metrics_add(Metrics *m, MetricCounter id, double value);
void metrics_set(Metrics *m, MetricGauge id, double value);
void metrics_observe(Metrics *m, MetricHistogram id, double value); /* seconds, or a count; NAN and < 0 are ignored */
/* vllm:request_success_total{finished_reason}: "stop", "length", "abort", "error"; any other one counts as "error". */
void metrics_finished(Metrics *m, const char *reason);
/* http_requests_total{method, handler, status}: "2xx" ...; handler is the route's path, "" when none fitted. */
void metrics_http(Metrics *m, const char *method, const char *handler, int status);
/* vllm:cache_config_info{block_size, num_gpu_blocks}: tokens of a page and pages of the KV cache; once they are known. */
void metrics_cache_config(Metrics *m, int64_t page_tokens, int64_t pages);

double metrics_counter(const Metrics *m, MetricCounter id);
double metrics_gauge(const Metrics *m, MetricGauge id);

/* Appends everything as Prometheus text. */
void metrics_render(const Metrics *m, Buf *out);

/* Takes a point of the history; once a second. */
void metrics_tick(Metrics *m);
/* Appends JSON for the live page: the points of the last 15 minutes (history.h). The whole of what the page reads:
 * metrics_dashboard in dashboard.h. */
void metrics_history(const Metrics *m, Buf *out);

#endif
