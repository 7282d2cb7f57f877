/* jobs.c - cases between their measurement and their last look; see tuner.h. */
#include <stdlib.h>
#include <string.h>

#include "tuner.h"

static const double apart = 5, look_seconds = 3; /* between looks; for one at most, its preparation aside */
static const double usual = 1.5;                 /* what a look takes as a rule */

static void job_free(Job *j)
{
    candidates_free(&j->own);
    free(j);
}

bool jobs_add(Jobs *q, const Job *job, Err *err)
{
    Job *j = xmalloc(sizeof *j);
    *j = *job;
    j->since = now_seconds();
    if (!j->result.settled) {
        vec_push(&q->list, j);
        return true;
    }
    bool ok = q->finish(q->context, j, err);
    job_free(j);
    return ok;
}

/* One look at the job that waits longest; it goes to the end of the queue unless that settles it. */
static bool look(Jobs *q, Err *err)
{
    Job *j = q->list.at[0];
    if (!q->look(q->context, j, look_seconds, err))
        return false;
    q->list.len--;
    memmove(q->list.at, q->list.at + 1, q->list.len * sizeof *q->list.at);
    bool ok = jobs_add(q, j, err);
    free(j);
    return ok;
}

bool jobs_run(Jobs *q, bool all, Err *err)
{
    bool ok = true;
    while (ok && !tuner_stop && q->list.len && (all || now_seconds() > q->list.at[0]->since + apart))
        ok = look(q, err);
    return ok || tuner_stop;
}

double jobs_seconds(const Jobs *q)
{
    int looks = 0;
    for (size_t i = 0; i < q->list.len; i++)
        looks += MAX(2 - q->list.at[i]->result.looks, 1);
    return looks * usual;
}

void jobs_free(Jobs *q)
{
    for (size_t i = 0; i < q->list.len; i++)
        job_free(q->list.at[i]);
    vec_free(&q->list);
}
