/* sampler.cu - the operator `sample` (templates/sample.lua says what it computes) as one source for CUDA and HIP:
 * one block a row. Written in what C, CUDA C++ and HIP C++ have in common, so that a test can compile it for the
 * host.
 *
 * Weights are whole multiples of 2^-35, so sums are kept in 64-bit integers: exact, in any order, in the memory of
 * a block. A threshold is looked for by radix on integers that order like the floats: a histogram of the 11 highest
 * bits, of the next 11, of the last 10. Only groups of 64 logits whose peak reaches the threshold so far are read
 * again.
 *
 * Given by the compiler: VOCAB, PITCH (elements from row to row of the logits), THREADS, WAVE (threads of a warp),
 * SHARED (bytes of on-chip memory), and SIZE_OUTPUTS (place of the number of rows in `sizes`). Compiled without
 * contraction of products and sums. */
#if defined(__CUDACC__)
#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ __launch_bounds__(THREADS, 1) void
#define ROW ((int)blockIdx.x)
#define THREAD ((int)threadIdx.x)
#define SHARED_MEMORY(bytes) extern __shared__ __align__(16) unsigned char memory[]
#define WARP_XOR(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)
#elif defined(__HIP__) || defined(__HIPCC__)
#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ __launch_bounds__(THREADS, 1) void
#define ROW ((int)blockIdx.x)
#define THREAD ((int)threadIdx.x)
#define SHARED_MEMORY(bytes) __shared__ __attribute__((aligned(16))) unsigned char memory[bytes]
#define WARP_XOR(value, mask) __shfl_xor(value, mask)
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

enum { GROUP = 64, GROUPS = (VOCAB + GROUP - 1) / GROUP, SEGMENTS = (VOCAB + 4095) / 4096, BINS = 2048,
       WARPS = THREADS / WAVE };

typedef struct Found { /* result of find */
    u64 before; /* sum of what comes before the place */
    int at;     /* -1: the sum of all is less than the target */
} Found;

/* On-chip memory of a block. */
typedef struct Shared {
    u64 part[THREADS];      /* of scans: sums up to and with the part of a thread */
    u64 lane[GROUP];        /* of one group: what each token contributes */
    u64 sums[GROUPS > BINS ? GROUPS : BINS]; /* by group, or a histogram with the largest keys first */
    u32 peaks[GROUPS];      /* keys of the groups' largest logits */
    int tokens[THREADS];    /* of adjustments */
    Found found;
    u32 top;                /* key of the largest logit */
    int again, token;
} Shared;

typedef char shared_is_enough[sizeof(Shared) <= SHARED ? 1 : -1];

typedef struct Row {
    Shared *s;
    float *logits;
    float top, inverse;     /* largest logit; 1 / temperature */
    u32 floor;              /* keys below can't matter */
    u32 bound;              /* kept are keys above the bound, and at the bound tokens up to `last` */
    int last;
} Row;

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

DEVICE u32 bits_of(float x)
{
    union { float f; u32 u; } v;
    v.f = x;
    return v.u;
}

DEVICE float float_of(u32 bits)
{
    union { float f; u32 u; } v;
    v.u = bits;
    return v.f;
}

DEVICE float negative_infinity(void) { return float_of(0xff800000u); }

/* Unsigned integers that order like floats, and back; zeros are one number, NaN is the least. */
DEVICE u32 key_of(float x)
{
    u32 b = bits_of(x == x ? x + 0.0f : negative_infinity());
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

DEVICE float value_of(u32 key)
{
    return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* The polynomials of the generated kernels (compiler/math.c), bit for bit. */
DEVICE float exponential(float x)
{
    const float low = (float)-87.336544, high = (float)88.722839;
    float y = x < low ? low : x;
    y = y > high ? high : y;
    float k = rintf(y * (float)1.4426950408889634);
    float r = fmaf(k, (float)-0.693359375, y);
    r = fmaf(k, (float)2.12194440e-4, r);
    float p = fmaf((float)1.3888803e-3, r, (float)8.3334519e-3);
    p = fmaf(p, r, (float)4.1666648e-2);
    p = fmaf(p, r, (float)1.6666666e-1);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    float e = k == k ? float_of(bits_of(p) + ((u32)(int)k << 23)) : p;
    e = x < low ? 0.0f : e;
    return x > high ? float_of(0x7f800000u) : e;
}

DEVICE float logarithm(float x)
{
    u32 b = bits_of(x > (float)1.17549435e-38 ? x : (float)1.17549435e-38);
    int k = (int)(b - 0x3f3504f3u) >> 23;
    float m = float_of(b - ((u32)k << 23)), kf = (float)k, f = m - 1.0f, f2 = f * f;
    float p = fmaf((float)7.0376836292e-2, f, (float)-1.1514610310e-1);
    p = fmaf(p, f, (float)1.1676998740e-1);
    p = fmaf(p, f, (float)-1.2420140846e-1);
    p = fmaf(p, f, (float)1.4249322787e-1);
    p = fmaf(p, f, (float)-1.6668057665e-1);
    p = fmaf(p, f, (float)2.0000714765e-1);
    p = fmaf(p, f, (float)-2.4999993993e-1);
    p = fmaf(p, f, (float)3.3333331174e-1);
    p = p * f * f2;
    p = fmaf(kf, (float)-2.12194440e-4, p);
    p = fmaf(f2, -0.5f, p);
    float result = fmaf(kf, (float)0.693359375, f + p);
    if (x == float_of(0x7f800000u))
        return x;
    return x == 0.0f ? negative_infinity() : x > 0.0f ? result : float_of(0x7fc00000u);
}

/* ---- the block -------------------------------------------------------------------------------------------------- */

/* Sum over the threads of a warp, in all of them. */
DEVICE u64 warp_sum(u64 v)
{
    for (int d = WAVE / 2; d > 0; d /= 2)
        v += WARP_XOR(v, d);
    return v;
}

/* Afterwards part[t] is the sum of v up to and with thread t's share of neighbouring elements. Sum of all. */
DEVICE u64 scan(Shared *s, const u64 *v, int n)
{
    int share = (n + THREADS - 1) / THREADS, t = THREAD;
    u64 sum = 0;
    for (int i = t * share; i < (t + 1) * share && i < n; i++)
        sum += v[i];
    s->part[t] = sum;
    __syncthreads();
    for (int d = 1; d < THREADS; d *= 2) {
        u64 other = t >= d ? s->part[t - d] : 0;
        __syncthreads();
        s->part[t] += other;
        __syncthreads();
    }
    return s->part[THREADS - 1];
}

/* The first place of v at which the sum of all up to and with it reaches the target (at least 1). After scan. */
DEVICE Found find(Shared *s, const u64 *v, int n, u64 target)
{
    int share = (n + THREADS - 1) / THREADS, t = THREAD;
    u64 before = t ? s->part[t - 1] : 0;
    if (t == 0)
        s->found.at = -1;
    __syncthreads();
    if (before < target && s->part[t] >= target) {
        int i = t * share;
        while (before + v[i] < target)
            before += v[i++];
        s->found.before = before;
        s->found.at = i;
    }
    __syncthreads();
    Found f = s->found;
    __syncthreads();
    return f;
}

DEVICE void clear(u64 *v, int n)
{
    __syncthreads();
    for (int i = THREAD; i < n; i += THREADS)
        v[i] = 0;
    __syncthreads();
}

/* ---- adjustments ------------------------------------------------------------------------------------------------ */

/* Entries first..past-1, THREADS at a time. A token that is listed twice is adjusted twice, in the order of the
 * list: an entry waits until those before it with the same token are through. */
DEVICE void adjust(Row *r, const int *token, const float *value, float *saved, int first, int past)
{
    Shared *s = r->s;
    for (int at = first; at < past; at += THREADS) {
        int i = at + THREAD, turn = 0, count = past - at < THREADS ? past - at : THREADS;
        s->tokens[THREAD] = i < past ? token[i] : -1;
        __syncthreads();
        for (int j = 0; j < THREAD && j < count; j++)
            turn += i < past && s->tokens[j] == s->tokens[THREAD];
        for (int now = 0, more = 1; more; now++) {
            if (i < past && turn == now) {
                float x = r->logits[token[i]], by = value[2 * i];
                saved[i] = x;
                r->logits[token[i]] = (x > 0.0f ? x / by : x * by) + value[2 * i + 1];
            }
            if (THREAD == 0)
                s->again = 0;
            __syncthreads();
            if (i < past && turn > now)
                s->again = 1;
            __syncthreads();
            more = s->again;
            __syncthreads();
        }
    }
}

/* Back to the raw logits: of each token the first entry counts, which the last writes give. */
DEVICE void restore(Row *r, const int *token, const float *saved, int first, int past)
{
    Shared *s = r->s;
    int chunks = (past - first + THREADS - 1) / THREADS;
    for (int chunk = chunks - 1; chunk >= 0; chunk--) {
        int i = first + chunk * THREADS + THREAD, earlier = 0;
        s->tokens[THREAD] = i < past ? token[i] : -1;
        __syncthreads();
        for (int j = 0; j < THREAD && i < past; j++)
            earlier += s->tokens[j] == s->tokens[THREAD];
        if (i < past && !earlier)
            r->logits[token[i]] = saved[i];
        __syncthreads();
    }
}

/* Keys of the peaks, of the adjusted logits; and the largest. */
DEVICE void find_peaks(Row *r, const float *peaks, const int *token, int first, int past)
{
    Shared *s = r->s;
    for (int g = THREAD; g < GROUPS; g += THREADS)
        s->peaks[g] = key_of(peaks[g]);
    if (THREAD == 0)
        s->top = 0;
    __syncthreads();
    for (int i = first + THREAD; i < past; i += THREADS) {
        int g = token[i] / GROUP;
        u32 peak = 0;
        for (int j = g * GROUP; j < (g + 1) * GROUP && j < VOCAB; j++) {
            u32 key = key_of(r->logits[j]);
            peak = key > peak ? key : peak;
        }
        s->peaks[g] = peak; /* the same from all who write it */
    }
    __syncthreads();
    u32 top = 0;
    for (int g = THREAD; g < GROUPS; g += THREADS)
        top = s->peaks[g] > top ? s->peaks[g] : top;
    atomicMax(&s->top, top);
    __syncthreads();
    r->top = value_of(s->top);
}

/* The first token whose logit is the largest. */
DEVICE int largest(Row *r)
{
    Shared *s = r->s;
    if (THREAD == 0)
        s->token = VOCAB - 1;
    __syncthreads();
    for (int g = THREAD / WAVE; g < GROUPS; g += WARPS)
        for (int j = THREAD % WAVE; j < GROUP && s->peaks[g] == s->top; j += WAVE)
            if (g * GROUP + j < VOCAB && key_of(r->logits[g * GROUP + j]) == s->top)
                atomicMin(&s->token, g * GROUP + j);
    __syncthreads();
    int token = s->token;
    __syncthreads();
    return token;
}

/* ---- what is kept ----------------------------------------------------------------------------------------------- */

DEVICE int kept(const Row *r, u32 key, int token)
{
    return token < VOCAB && (key > r->bound || (key == r->bound && token <= r->last));
}

/* A token's weight, in units of 2^-35. Adding and taking away 2^-12 rounds to them. */
DEVICE u64 weight(const Row *r, u32 key)
{
    float w = (exponential((value_of(key) - r->top) * r->inverse) + 0x1p-12f) - 0x1p-12f;
    return (u64)(w * 0x1p35f);
}

enum { BY_COUNT, BY_WEIGHT };

DEVICE u64 measure(const Row *r, int by, u32 key, int token)
{
    if (!kept(r, key, token) || key < r->floor)
        return 0;
    return by == BY_WEIGHT ? weight(r, key) : 1;
}

DEVICE u32 key_at(const Row *r, int token)
{
    return token < VOCAB ? key_of(r->logits[token]) : 0;
}

/* Adds what is kept, and has these bits above `shift + bits`, to the histogram of the bits above `shift`. */
DEVICE void histogram(const Row *r, int by, u32 prefix, int shift, int bits)
{
    Shared *s = r->s;
    int rest = shift + bits; /* 32: there is no prefix */
    u32 low = rest < 32 ? prefix << rest : 0;
    low = low > r->floor ? low : r->floor;
    clear(s->sums, BINS);
    for (int g = THREAD / WAVE; g < GROUPS; g += WARPS)
        for (int j = THREAD % WAVE; j < GROUP && s->peaks[g] >= low; j += WAVE) {
            int token = g * GROUP + j;
            u32 key = key_at(r, token);
            u64 m = rest < 32 && key >> rest != prefix ? 0 : measure(r, by, key, token);
            if (m)
                atomicAdd(&s->sums[(BINS - 1) - (key >> shift & (BINS - 1) >> (11 - bits))], m);
        }
    __syncthreads();
}

/* The same of the groups' peaks, one each. */
DEVICE void peak_histogram(const Row *r, u32 prefix, int shift, int bits)
{
    Shared *s = r->s;
    int rest = shift + bits;
    clear(s->sums, BINS);
    for (int g = THREAD; g < GROUPS; g += THREADS)
        if (rest == 32 || s->peaks[g] >> rest == prefix)
            atomicAdd(&s->sums[(BINS - 1) - (s->peaks[g] >> shift & (BINS - 1) >> (11 - bits))], (u64)1);
    __syncthreads();
}

typedef struct Bound {
    u32 key;
    u64 above, equal; /* measure of what is larger, and of what equals it */
} Bound;

/* The largest key for which what is not below it measures at least `target`. */
DEVICE Bound bound_of(const Row *r, int peaks, int by, u64 target)
{
    Bound b = {0, 0, 0};
    for (int shift = 21; ; shift = shift == 21 ? 10 : 0) {
        int bits = shift ? 11 : 10;
        if (peaks)
            peak_histogram(r, b.key, shift, bits);
        else
            histogram(r, by, b.key, shift, bits);
        scan(r->s, r->s->sums, BINS);
        Found f = find(r->s, r->s->sums, BINS, target - b.above);
        f.at = f.at < 0 ? BINS - 1 : f.at;
        b.above += f.before;
        b.equal = r->s->sums[f.at];
        b.key = b.key << bits | (u32)(BINS - 1 - f.at);
        if (!shift)
            return b;
    }
}

/* The token at which the sums over tokens, of the group that `find` gave, reach the target: lane[] has their terms. */
DEVICE int token_in_group(Shared *s, Found f, u64 target)
{
    __syncthreads();
    if (THREAD == 0) {
        u64 sum = f.before;
        int j = 0;
        for (; j < GROUP - 1; j++) {
            sum += s->lane[j];
            if (sum >= target)
                break;
        }
        s->token = f.at * GROUP + j;
    }
    __syncthreads();
    int token = s->token;
    __syncthreads();
    return token < VOCAB ? token : VOCAB - 1;
}

/* Of what equals the bound, keeps the first `count` tokens. */
DEVICE int nth_equal(const Row *r, u32 key, u64 count)
{
    Shared *s = r->s;
    clear(s->sums, GROUPS);
    for (int g = THREAD / WAVE; g < GROUPS; g += WARPS)
        for (int j = THREAD % WAVE; j < GROUP && s->peaks[g] >= key; j += WAVE)
            if (key_at(r, g * GROUP + j) == key && kept(r, key, g * GROUP + j))
                atomicAdd(&s->sums[g], (u64)1);
    __syncthreads();
    scan(s, s->sums, GROUPS);
    Found f = find(s, s->sums, GROUPS, count);
    for (int j = THREAD; j < GROUP && f.at >= 0; j += THREADS)
        s->lane[j] = key_at(r, f.at * GROUP + j) == key && kept(r, key, f.at * GROUP + j);
    return f.at < 0 ? r->last : token_in_group(s, f, count);
}

/* Shrinks what is kept to the most likely tokens, as few as measure the target; lower tokens first among equals. */
DEVICE void cut(Row *r, int by, u64 target)
{
    Bound b = bound_of(r, 0, by, target);
    u64 each = by == BY_WEIGHT ? weight(r, b.key) : 1;
    each = each ? each : 1;
    u64 needed = (target - b.above + each - 1) / each;
    int last = needed * each < b.equal ? nth_equal(r, b.key, needed) : b.key == r->bound ? r->last : VOCAB - 1;
    r->bound = b.key;
    r->last = last;
}

/* Sums of weights by group, of what is kept and weighs at least `least`; and of all. */
DEVICE u64 weigh(const Row *r, float least)
{
    Shared *s = r->s;
    u32 low = r->bound > r->floor ? r->bound : r->floor;
    __syncthreads();
    for (int g = THREAD / WAVE; g < GROUPS; g += WARPS) {
        u64 sum = 0;
        for (int j = THREAD % WAVE; j < GROUP && s->peaks[g] >= low; j += WAVE) {
            u64 w = measure(r, BY_WEIGHT, key_at(r, g * GROUP + j), g * GROUP + j);
            sum += (float)w * 0x1p-35f >= least ? w : 0;
        }
        sum = warp_sum(sum);
        if (THREAD % WAVE == 0)
            s->sums[g] = sum;
    }
    __syncthreads();
    return scan(s, s->sums, GROUPS);
}

/* The first token, in the order of tokens, at which the sum of weights exceeds u of their total; after weigh. */
DEVICE int draw(const Row *r, u64 total, float least, float u)
{
    Shared *s = r->s;
    u64 target = (u64)((double)total * (double)u) + 1;
    Found f = find(s, s->sums, GROUPS, target < total ? target : total);
    for (int j = THREAD; j < GROUP; j += THREADS) {
        u64 w = measure(r, BY_WEIGHT, key_at(r, f.at * GROUP + j), f.at * GROUP + j);
        s->lane[j] = (float)w * 0x1p-35f >= least ? w : 0;
    }
    return token_in_group(s, f, target < total ? target : total);
}

/* The least whole number that is not below x >= 0. */
DEVICE u64 whole_above(double x)
{
    u64 n = (u64)x;
    return (double)n < x ? n + 1 : n;
}

DEVICE int sample(Row *r, int top_k, float top_p, float min_p, float u, int otherwise)
{
    int limited = top_k >= 1 && top_k < VOCAB;
    r->bound = 0;
    r->last = VOCAB - 1;
    r->floor = 0;
    if (limited) {
        r->floor = top_k <= GROUPS ? bound_of(r, 1, BY_COUNT,
                                              (u64)top_k).key : 0; /* no fewer tokens than peaks are above */
        cut(r, BY_COUNT, (u64)top_k);
    }
    r->floor = key_of(r->top - 26.0f / r->inverse); /* weights below are 0 */
    if (top_p < 1.0f) {
        u64 target = whole_above((double)weigh(r, 0.0f) * (double)top_p);
        cut(r, BY_WEIGHT, target ? target : 1);
    }
    u64 total = weigh(r, min_p);
    return total ? draw(r, total, min_p, u) : otherwise;
}

/* ---- the row ---------------------------------------------------------------------------------------------------- */

/* {max, log-sum-exp} of the raw logits: the segments' sums, in order. */
DEVICE float log_sum_exp(const float *segments, float *top_out)
{
    float top = negative_infinity(), sum = 0.0f;
    for (int i = 0; i < SEGMENTS; i++)
        top = fmaxf(top, segments[2 * i]);
    for (int i = 0; i < SEGMENTS; i++)
        sum = fmaf(segments[2 * i + 1], exponential(segments[2 * i] - top), sum);
    *top_out = top;
    return top + logarithm(sum);
}

KERNEL kernel(float *logits, const float *peaks, const float *segments, const float *sample_params,
              const int *adjust_start,
              const int *adjust_token, const float *adjust_value, float *saved, int *sampled, float *sampled_logprob,
              float *logz, const long long *sizes)
{
    SHARED_MEMORY(SHARED);
    int row = ROW;
    if (row >= sizes[SIZE_OUTPUTS])
        return;
    const float *p = sample_params + 8 * row;
    int first = adjust_start[row], past = adjust_start[row + 1];
    Row r;
    r.s = (Shared *)memory;
    r.logits = logits + (long long)row * PITCH;
    r.inverse = p[0];
    adjust(&r, adjust_token, adjust_value, saved, first, past);
    find_peaks(&r, peaks + (long long)row * GROUPS, adjust_token, first, past);
    int token = largest(&r);
    if (r.inverse > 0.0f && r.top > negative_infinity())
        token = sample(&r, (int)p[4], p[1], p[2], p[3], token);
    restore(&r, adjust_token, saved, first, past);
    if (THREAD == 0) {
        float top, z = log_sum_exp(segments + (long long)row * SEGMENTS * 2, &top);
        logz[2 * row] = top;
        logz[2 * row + 1] = z;
        sampled[row] = token;
        sampled_logprob[row] = r.logits[token] - z;
    }
}
