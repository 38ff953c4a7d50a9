/* Whole steps of many parameters on the CPU, one trip to memory each (cautious ones: one more to count).

   Compiled by native_library.py for one STEP and three types of native_types.h: PARAMETER, also of gradients, and STATE in
   memory, and REAL for the arithmetic. Every tensor of a row has the row's size and no gaps. */

#ifdef _OPENMP
#include <omp.h>
#else /* one thread */
#define omp_get_num_threads() 1
#define omp_get_thread_num() 0
#endif
#include <stdint.h>
#include <tgmath.h>

#define INLINE static inline __attribute__((always_inline))

#include "native_types.h"

enum {
    PIECE = 1024,                   /* elements: a row is shared by threads in whole pieces */
    BUNDLE = 1 << 20,               /* elements of rows that are counted, and then moved while still in the cache */
    BLOCK = 16384,                  /* elements whose squares are added up before others'; as native.py has it */
    SUMS = 32,                      /* at a time, so that no sum waits for the one before */
    IS_FLOAT16 = _Generic((PARAMETER){0}, float16: 1, default: 0),
    LINE = IS_FLOAT16 ? 128 : 64 / (sizeof(STATE) < sizeof(PARAMETER) ? sizeof(STATE) : sizeof(PARAMETER)), /* elements
                                       of a step's loop: a line of the cache, or enough to convert at a time */
    AHEAD = 2560 / sizeof(REAL),    /* how far ahead a step asks for memory: up to a seventh faster */
    FAR_AHEAD = 8192,               /* bytes: the same for what is only read */
};

/* What is done of a step that counts: on shards the counts of all processes are added up in between. Before it: CHECK. */
enum { WHOLE = 0, COUNT = 1, MOVE = 2, CHECK = 3 };

/* Kinds of steps, of which a loop is compiled for each. COUNTING: only a count is taken; EARLY: it also writes the
   averages, and the step then reads them as they are. */
enum { NESTEROV = 1, PENALIZED = 2, CAUTIOUS = 4, ADAPTIVE = 8, NOISY = 16, COUNTING = 32, EARLY = 64 };

typedef struct {
    int64_t rows;
    int64_t phase;                  /* WHOLE, COUNT, MOVE or CHECK */
    void *const *tensors;           /* those of row after row: parameter, gradient, state */
    const int64_t *sizes;           /* of rows */
    const int64_t *wholes;          /* of rows: elements of the whole, of which a shard has a part */
    const int32_t *sets;            /* of rows: which set of numbers they have */
    const void *numbers;            /* of sets: struct Adam, struct SGD or struct RAdam */
    float *const *steps;            /* of rows: the count of steps, which this one is added to; or 0 */
    const double *counts;           /* of sets: the count before this step */
    const uint32_t *streams;        /* of rows: what their noise differs in */
    int64_t *agreeing;              /* of rows: in how many elements step and gradient agree */
    const double *scales;           /* of sets: on the gradients, as a product in place before would be */
    int64_t is_noisy;               /* whether parameters are rounded by noise */
    double *sums;                   /* of rows, then of blocks, for squares */
} Work;

typedef struct { double take1, keep2, take2, eps, root, size, keep, penalty, sign, least, slack, step; } Adam;
typedef struct { double momentum, taken, lr, penalty, sign, least, slack, is_nesterov, step; } SGD;
typedef struct { double beta2, take2, correction, eps, decay, share, own_lr, lr, is_adaptive; } RAdam;

/* By their signs: the product of two small numbers may be 0. */
INLINE int agree(REAL step, REAL gradient) { return (copysign((REAL)1, gradient) * step > 0) & (gradient != 0); }

/* As torch's: where `from` is large and the share near to 1, the other form would lose a small `to`. */
INLINE REAL lerp(REAL from, REAL to, REAL share) {
    return share < (REAL)0.5 ? from + (to - from) * share : to - (to - from) * (1 - share);
}

/* The gradient with the L2 penalty. Without one the parameter, which may be infinite, is nothing to it. */
INLINE REAL penalized(REAL gradient, REAL p, REAL penalty) { return penalty ? gradient + penalty * p : gradient; }

/* What a line needs of its row. size: what the step is multiplied with. */
typedef struct {
    const void *numbers;
    void *const *tensors;
    REAL scale;                     /* of the gradients; negative to maximize */
    uint32_t stream;
} Row;

/* Does something to elements of a row, and returns how many of them agree, or adds that up by places in the line. */
typedef int64_t Block(const Work *work, int64_t row, int64_t from, int64_t to);
typedef void Line(const Row *row, REAL size, int kind, int64_t from, int64_t to, int32_t *agreeing);

/* Asks memory for the elements of a line. */
INLINE void ask_for(const void *tensor, int64_t size, int64_t at) {
    for (int64_t byte = 0; byte < LINE * size; byte += 64) __builtin_prefetch((const char *)tensor + at * size + byte);
}

/* Takes a line. Where memory has float16, it works on a copy of the first tensors, which is written back or not. */
INLINE void take_line(Line *line, const Row *row, int tensors, REAL size, int kind, int64_t from, int64_t to,
                      int32_t *agreeing) {
    if (!IS_FLOAT16) {
        line(row, size, kind, from, to, agreeing);
        return;
    }
    const int elements = to - from, halves = sizeof(STATE) == sizeof(float16) ? tensors : 2;
    float32 copies[4][LINE];
    void *copied[4];
    for (int i = 0; i < tensors; i++) {
        copied[i] = i < halves ? (void *)copies[i] : (STATE *)row->tensors[i] + from;
        if (i < halves) widen((const float16 *)row->tensors[i] + from, copies[i], elements);
    }
    if (row->scale != 1) scale_wide(copies[1], row->scale, elements);
    line(&(Row){row->numbers, copied, 1, row->stream}, size, kind, 0, elements, agreeing);
    for (int i = 0; i < halves && !(kind & COUNTING); i++)
        if (i != 1) narrow(copies[i], (float16 *)row->tensors[i] + from, elements);
}

/* Inlined, so that a full line is a loop of known length. What of a row's tensors it reads is asked for ahead. */
INLINE int64_t in_lines(Line *line, const Row *row, int tensors, REAL size, int kind, int64_t from, int64_t to) {
    const int first = kind & COUNTING && !(kind & PENALIZED);
    int32_t agreeing[LINE] = {0};
    int64_t at = from, sum = 0;
    for (; at + LINE <= to; at += LINE) {
        for (int i = first; i < tensors; i++)
            ask_for(row->tensors[i], i < 2 ? sizeof(PARAMETER) : sizeof(STATE), at + AHEAD);
        take_line(line, row, tensors, size, kind, at, at + LINE, agreeing);
    }
    take_line(line, row, tensors, size, kind, at, to, agreeing);
    for (int i = 0; i < LINE && kind & COUNTING; i++) sum += agreeing[i];
    return sum;
}

/* How many elements of a row come before the one at `end`, in whole pieces. */
INLINE int64_t cut(int64_t end, int64_t size) { return end < 0 ? 0 : end < size ? end / PIECE * PIECE : size; }

/* Does something to this thread's share of some rows, whose elements it goes through from one end to the other: two
   threads that took turns in blocks would be a quarter slower where memory is fast. */
static void take_share(const Work *work, int64_t first, int64_t last, int64_t elements, Block *block) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    int64_t begin = elements * thread / threads, end = elements * (thread + 1) / threads;
    for (int64_t row = first; row < last && end > 0; row++) {
        const int64_t size = work->sizes[row], from = cut(begin, size), to = cut(end, size);
        const int64_t agreeing = from < to ? block(work, row, from, to) : 0;
        if (agreeing) {
            #pragma omp atomic
            work->agreeing[row] += agreeing;
        }
        begin -= size, end -= size;
    }
}

/* Moves all rows, on so many threads; before, if there is something to count, counts it. Or does one of the two. */
static void run(const Work *work, int threads, Block *count, Block *move) {
    #pragma omp parallel num_threads(threads)
    for (int64_t first = 0, last = 0; first < work->rows; first = last) {
        int64_t elements = 0;
        do elements += work->sizes[last++];
        while (last < work->rows && (!count || elements + work->sizes[last] <= BUNDLE));
        if (count && work->phase != MOVE) {
            take_share(work, first, last, elements, count);
            #pragma omp barrier
        }
        if (work->phase != COUNT) take_share(work, first, last, elements, move);
    }
}

/* What a cautious step is multiplied with. Where nothing agrees, the steps are 0, and slack may be next to 0. */
static REAL size_of(const Work *work, int64_t row, double size, double least, double slack) {
    if (!work->agreeing[row]) return size;
    double mean = (double)work->agreeing[row] / (double)work->wholes[row];
    return size / ((mean > least ? mean : least) + slack);
}

/* Whether a count writes the averages: on shards, where the move reads all from memory, that is 6 % faster. A whole
   step finds them in the cache, and would be 2 % slower. */
INLINE int is_early(const Work *work) { return work->phase != WHOLE && sizeof(STATE) == sizeof(REAL); }

/* Returns how many counts of steps are not as expected. */
static int64_t check_counts(const Work *work) {
    int64_t odd = 0;
    for (int64_t row = 0; row < work->rows; row++) odd += *work->steps[row] != work->counts[work->sets[row]];
    return odd;
}

/* Adam, AdamW: parameter, gradient, average, square. */

INLINE void take_adam_line(const Row *row, REAL size, int kind, int64_t from, int64_t to, int32_t *agreeing) {
    const Adam *h = row->numbers;
    LineParameter *p = (LineParameter *)row->tensors[0] + from;
    LineState *m = (LineState *)row->tensors[2] + from, *v = (LineState *)row->tensors[3] + from;
    const LineParameter *g = (LineParameter *)row->tensors[1] + from;
    const REAL take1 = h->take1, keep2 = h->keep2, take2 = h->take2, eps = h->eps, root = h->root;
    const REAL keep = h->keep, penalty = h->penalty, scale = row->scale;
    const uint32_t first = place_of(from, h->step, row->stream);
    const int elements = to - from; /* a counter as wide as the noise saves a thirtieth */
    #pragma omp simd
    for (int i = 0; i < elements; i++) {
        REAL gradient = scaled(g[i], scale);
        if (kind & COUNTING) {
            REAL whole = kind & PENALIZED ? gradient + penalty * from_parameter(p[i]) : gradient;
            REAL average = lerp(from_state(m[i]), whole, take1);
            if (kind & EARLY) m[i] = to_state(average, 0);
            agreeing[i] += agree(average, gradient);
            continue;
        }
        REAL parameter = from_parameter(p[i]), whole = penalized(gradient, parameter, penalty);
        REAL average = kind & EARLY ? from_state(m[i]) : lerp(from_state(m[i]), whole, take1);
        REAL square = from_state(v[i]) * keep2 + take2 * whole * whole, step = average / (sqrt(square) * root + eps);
        if (kind & CAUTIOUS) step = agree(average, gradient) ? step : step * 0; /* what is not a number stays so */
        uint32_t noise = noise_of(first + i);
        p[i] = to_parameter(parameter * keep - step * size, kind & NOISY, kind & NOISY ? noise_of(noise) >> 16 : 0);
        if (!(kind & EARLY)) m[i] = to_state(average, noise & 0xffff);
        v[i] = to_state(square, noise >> 16);
    }
}

/* Whether there is anything to round by noise. */
INLINE int is_noisy(const Work *work) { return _Generic((PARAMETER){0}, bfloat16: 1, default: 0) && work->is_noisy; }

INLINE Row adam_row(const Work *work, int64_t row) {
    const Adam *h = (const Adam *)work->numbers + work->sets[row];
    return (Row){h, work->tensors + 4 * row, h->sign * work->scales[work->sets[row]], work->streams[row]};
}

static int64_t count_adam(const Work *work, int64_t at, int64_t from, int64_t to) {
    const Row row = adam_row(work, at);
    const int penalized = (REAL)((const Adam *)row.numbers)->penalty ? PENALIZED : 0;
    switch (penalized | (is_early(work) ? EARLY : 0)) {
    case 0: return in_lines(take_adam_line, &row, 3, 0, COUNTING, from, to);
    case PENALIZED: return in_lines(take_adam_line, &row, 3, 0, COUNTING | PENALIZED, from, to);
    case EARLY: return in_lines(take_adam_line, &row, 3, 0, COUNTING | EARLY, from, to);
    default: return in_lines(take_adam_line, &row, 3, 0, COUNTING | PENALIZED | EARLY, from, to);
    }
}

static int64_t move_adam(const Work *work, int64_t at, int64_t from, int64_t to) {
    const Row row = adam_row(work, at);
    const REAL size = ((const Adam *)row.numbers)->size;
    if (is_noisy(work)) return in_lines(take_adam_line, &row, 4, size, NOISY, from, to);
    return in_lines(take_adam_line, &row, 4, size, 0, from, to);
}

static int64_t move_cautious_adam(const Work *work, int64_t at, int64_t from, int64_t to) {
    const Row row = adam_row(work, at);
    const Adam *h = row.numbers;
    const REAL size = size_of(work, at, h->size, h->least, h->slack);
    switch ((is_noisy(work) ? NOISY : 0) | (is_early(work) ? EARLY : 0)) {
    case 0: return in_lines(take_adam_line, &row, 4, size, CAUTIOUS, from, to);
    case NOISY: return in_lines(take_adam_line, &row, 4, size, CAUTIOUS | NOISY, from, to);
    case EARLY: return in_lines(take_adam_line, &row, 4, size, CAUTIOUS | EARLY, from, to);
    default: return in_lines(take_adam_line, &row, 4, size, CAUTIOUS | NOISY | EARLY, from, to);
    }
}

static void adam(const Work *work, int threads) { run(work, threads, 0, move_adam); }
static void cautious_adam(const Work *work, int threads) { run(work, threads, count_adam, move_cautious_adam); }

/* SGD with momentum: parameter, gradient, buffer. */

INLINE REAL move_buffer(const SGD *h, REAL whole, REAL *buffer, int kind) {
    *buffer = *buffer * (REAL)h->momentum + whole * (REAL)h->taken;
    return kind & NESTEROV ? whole + *buffer * (REAL)h->momentum : *buffer;
}

INLINE void take_sgd_line(const Row *row, REAL size, int kind, int64_t from, int64_t to, int32_t *agreeing) {
    const SGD h = *(const SGD *)row->numbers;
    LineParameter *p = (LineParameter *)row->tensors[0] + from;
    LineState *b = (LineState *)row->tensors[2] + from;
    const LineParameter *g = (LineParameter *)row->tensors[1] + from;
    const REAL penalty = h.penalty, scale = row->scale;
    const uint32_t first = place_of(from, h.step, row->stream);
    const int elements = to - from;
    #pragma omp simd
    for (int i = 0; i < elements; i++) {
        REAL gradient = scaled(g[i], scale), buffer = from_state(b[i]);
        if (kind & COUNTING) {
            REAL whole = kind & PENALIZED ? gradient + penalty * from_parameter(p[i]) : gradient;
            REAL step = move_buffer(&h, whole, &buffer, kind);
            agreeing[i] += agree(step, gradient);
            continue;
        }
        REAL parameter = from_parameter(p[i]);
        REAL step = move_buffer(&h, penalized(gradient, parameter, penalty), &buffer, kind);
        uint32_t noise = noise_of(first + i);
        step = agree(step, gradient) ? step : step * 0;
        p[i] = to_parameter(parameter - step * size, kind & NOISY, kind & NOISY ? noise_of(noise) >> 16 : 0);
        b[i] = to_state(buffer, noise >> 16);
    }
}

INLINE Row sgd_row(const Work *work, int64_t row) {
    const SGD *h = (const SGD *)work->numbers + work->sets[row];
    return (Row){h, work->tensors + 3 * row, h->sign * work->scales[work->sets[row]], work->streams[row]};
}

static int64_t count_sgd(const Work *work, int64_t at, int64_t from, int64_t to) {
    const Row row = sgd_row(work, at);
    const SGD *h = row.numbers;
    switch (((REAL)h->penalty ? PENALIZED : 0) | (h->is_nesterov ? NESTEROV : 0)) {
    case 0: return in_lines(take_sgd_line, &row, 3, 0, COUNTING, from, to);
    case PENALIZED: return in_lines(take_sgd_line, &row, 3, 0, COUNTING | PENALIZED, from, to);
    case NESTEROV: return in_lines(take_sgd_line, &row, 3, 0, COUNTING | NESTEROV, from, to);
    default: return in_lines(take_sgd_line, &row, 3, 0, COUNTING | NESTEROV | PENALIZED, from, to);
    }
}

static int64_t move_sgd(const Work *work, int64_t at, int64_t from, int64_t to) {
    const Row row = sgd_row(work, at);
    const SGD *h = row.numbers;
    const REAL size = size_of(work, at, h->lr, h->least, h->slack);
    switch ((is_noisy(work) ? NOISY : 0) | (h->is_nesterov ? NESTEROV : 0)) {
    case 0: return in_lines(take_sgd_line, &row, 3, size, 0, from, to);
    case NOISY: return in_lines(take_sgd_line, &row, 3, size, NOISY, from, to);
    case NESTEROV: return in_lines(take_sgd_line, &row, 3, size, NESTEROV, from, to);
    default: return in_lines(take_sgd_line, &row, 3, size, NESTEROV | NOISY, from, to);
    }
}

static void cautious_sgd(const Work *work, int threads) { run(work, threads, count_sgd, move_sgd); }

/* Schedule-free RAdam: parameter (y), gradient, square, z. */

INLINE void take_radam_line(const Row *row, REAL size, int kind, int64_t from, int64_t to, int32_t *agreeing) {
    const RAdam *h = row->numbers;
    LineParameter *y = row->tensors[0];
    LineState *s = row->tensors[2], *z = row->tensors[3];
    const LineParameter *g = row->tensors[1];
    const REAL beta2 = h->beta2, take2 = h->take2, correction = 1.0 / h->correction, eps = h->eps;
    const REAL decay = h->decay, share = h->share, own_lr = h->own_lr, lr = h->lr, scale = row->scale;
    #pragma omp simd
    for (int64_t i = from; i < to; i++) {
        REAL parameter = from_parameter(y[i]), gradient = scaled(g[i], scale), base = from_state(z[i]);
        REAL square = from_state(s[i]) * beta2 + take2 * gradient * gradient;
        REAL step = kind & ADAPTIVE ? gradient / (sqrt(square * correction) + eps) : gradient;
        step = penalized(step, parameter, decay);
        y[i] = to_parameter(parameter + (base - parameter) * share + own_lr * step, 0, 0);
        z[i] = to_state(base - lr * step, 0);
        s[i] = to_state(square, 0);
    }
}

static int64_t move_radam(const Work *work, int64_t at, int64_t from, int64_t to) {
    const RAdam *h = (const RAdam *)work->numbers + work->sets[at];
    const Row row = {h, work->tensors + 4 * at, work->scales[work->sets[at]], 0};
    if (h->is_adaptive) return in_lines(take_radam_line, &row, 4, 0, ADAPTIVE, from, to);
    return in_lines(take_radam_line, &row, 4, 0, 0, from, to);
}

static void schedule_free_radam(const Work *work, int threads) { run(work, threads, 0, move_radam); }

/* Squares: a row is one gradient. Added up block by block, and so to the same sums by any number of threads. */

static double sum_of_squares(const PARAMETER *g, int64_t size) {
    double sums[SUMS] = {0}, sum = 0;
    int64_t at = 0;
    for (; at + SUMS <= size; at += SUMS) {
        for (int64_t byte = 0; byte < SUMS * sizeof(PARAMETER); byte += 64)
            __builtin_prefetch((const char *)(g + at) + FAR_AHEAD + byte);
        #pragma omp simd
        for (int i = 0; i < SUMS; i++) {
            double number = FROM(PARAMETER)(g[at + i]);
            sums[i] += number * number;
        }
    }
    for (int i = 0; at + i < size; i++) {
        double number = FROM(PARAMETER)(g[at + i]);
        sums[i] += number * number;
    }
    for (int i = 0; i < SUMS; i++) sum += sums[i];
    return sum;
}

INLINE int64_t blocks_of(int64_t size) { return (size + BLOCK - 1) / BLOCK; }

static void squares(const Work *work, int threads) {
    double *of_blocks = work->sums + work->rows;
    int64_t blocks = 0;
    for (int64_t row = 0; row < work->rows; row++) blocks += blocks_of(work->sizes[row]);
    #pragma omp parallel num_threads(threads)
    {
        const int64_t thread = omp_get_thread_num(), number = omp_get_num_threads();
        const int64_t begin = blocks * thread / number, end = blocks * (thread + 1) / number;
        for (int64_t row = 0, at = 0; row < work->rows; at += blocks_of(work->sizes[row++])) {
            const int64_t size = work->sizes[row];
            for (int64_t block = at > begin ? at : begin; block < end && (block - at) * BLOCK < size; block++) {
                const int64_t from = (block - at) * BLOCK, rest = size - from;
                const PARAMETER *g = (const PARAMETER *)work->tensors[row] + from;
                of_blocks[block] = sum_of_squares(g, rest < BLOCK ? rest : BLOCK);
            }
        }
    }
    for (int64_t row = 0; row < work->rows; row++) {
        work->sums[row] = 0;
        for (int64_t i = blocks_of(work->sizes[row]); i > 0; i--) work->sums[row] += *of_blocks++;
    }
}

/* The step of this library; compilers drop the others. Returns in how many rows CHECK finds an odd count. */
int64_t step(const Work *work, int threads) {
    if (work->phase == CHECK) return check_counts(work);
    for (int64_t row = 0; row < work->rows && work->phase != MOVE; row++) {
        if (work->steps) *work->steps[row] += 1;
        if (work->agreeing) work->agreeing[row] = 0;
    }
    STEP(work, threads);
    return 0;
}
