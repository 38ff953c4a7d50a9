/* Whole steps of many parameters on the CPU, one trip to memory each (cautious ones: one more to count).

   Compiled by native_library.py for one STEP and one REAL, float or double, or for float with HALF: Adam's steps alone,
   whose average and square are bfloat16 in memory. Every tensor of a row has the row's size and no gaps. */

#ifdef _OPENMP
#include <omp.h>
#else /* one thread */
#define omp_get_num_threads() 1
#define omp_get_thread_num() 0
#endif
#include <stdint.h>
#include <tgmath.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef HALF
typedef uint16_t STATE;             /* of Adam's average and square: bfloat16, the upper half of a float */
#else
typedef REAL STATE;
#endif

enum {
    BLOCK = 16384,                  /* elements that a thread takes at a turn; as native.py has it */
    BUNDLE = 1 << 20,               /* elements of rows that are counted, and then moved while still in the cache */
    LINE = 64 / sizeof(STATE),      /* elements of a step's loop: of the smallest ones a line of the cache */
    AHEAD = 2048 / sizeof(REAL),    /* how far ahead memory is asked for: without it a step is a fifth slower */
};

/* What is done of a step that counts: on shards the counts of all processes are added up in between. */
enum { WHOLE = 0, COUNT = 1, MOVE = 2 };

/* Kinds of steps, of which a loop is compiled for each. */
enum { NESTEROV = 1, PENALIZED = 2, CAUTIOUS = 4, ADAPTIVE = 8 };

typedef struct {
    int64_t rows;
    int64_t choice;                 /* what a step has for the user to choose: Nesterov's, RAdam's rectification */
    int64_t phase;                  /* WHOLE, COUNT or MOVE */
    REAL *const *tensors;           /* those of row after row */
    const int64_t *sizes;           /* of rows */
    const void *numbers;            /* of rows: struct Adam, struct SGD or struct RAdam */
    const int64_t *wholes;          /* of rows: elements of the whole, of which a shard has a part */
    int64_t *agreeing;              /* of rows: in how many elements step and gradient agree; zeros before WHOLE, COUNT */
    double scale;                   /* on the gradients, as a product in place before would be */
    double *sums;                   /* of rows, then of blocks, for squares */
} Work;

typedef struct { double take1, keep2, take2, eps, root, size, keep, penalty, sign, least, slack, seed; } Adam;
typedef struct { double momentum, taken, lr, penalty, sign, least, slack; } SGD;
typedef struct { double beta2, take2, correction, eps, decay, share, own_lr, lr; } RAdam;

/* By their signs: the product of two small numbers may be 0. */
INLINE int agree(REAL step, REAL gradient) { return ((step > 0) & (gradient > 0)) | ((step < 0) & (gradient < 0)); }

/* As torch's: where `from` is large and the share near to 1, the other form would lose a small `to`. */
INLINE REAL lerp(REAL from, REAL to, REAL share) {
    return share < (REAL)0.5 ? from + (to - from) * share : to - (to - from) * (1 - share);
}

/* The gradient with the L2 penalty. Without one the parameter, which may be infinite, is nothing to it. */
INLINE REAL penalized(REAL gradient, REAL p, REAL penalty) { return penalty ? gradient + penalty * p : gradient; }

/* Does something to elements of a row, and returns how many of them agree. */
typedef int64_t Block(const Work *work, int64_t row, int64_t from, int64_t to);
typedef int64_t Line(const void *numbers, REAL *const *row, REAL scale, int kind, int64_t from, int64_t to);

/* Asks memory for the elements of a line. */
INLINE void ask_for(const void *tensor, int64_t size, int64_t at) {
    for (int64_t byte = 0; byte < LINE * size; byte += 64) __builtin_prefetch((const char *)tensor + at * size + byte);
}

/* Inlined, so that a full line is a loop of known length. Of a row's tensors, first to last are asked for ahead. */
INLINE int64_t in_lines(Line *line, const void *numbers, REAL *const *row, int first, int last, REAL scale, int kind,
                        int64_t from, int64_t to) {
    int64_t agreeing = 0, at = from;
    for (; at + LINE <= to; at += LINE) {
        for (int i = first; i <= last; i++) ask_for(row[i], i < 2 ? sizeof(REAL) : sizeof(STATE), at + AHEAD);
        agreeing += line(numbers, row, scale, kind, at, at + LINE);
    }
    return agreeing + line(numbers, row, scale, kind, at, to);
}

static void take_turns(const Work *work, int64_t first, int64_t last, int64_t *turn, Block *block) {
    for (int64_t row = first; row < last; row++) {
        int64_t size = work->sizes[row], agreeing = 0;
        for (int64_t from = 0; from < size; from += BLOCK)
            if ((*turn)++ % omp_get_num_threads() == omp_get_thread_num())
                agreeing += block(work, row, from, from + BLOCK < size ? from + BLOCK : size);
        if (agreeing) {
            #pragma omp atomic
            work->agreeing[row] += agreeing;
        }
    }
}

/* Moves all rows, on so many threads; before, if there is something to count, counts it. Or does one of the two. */
static void run(const Work *work, int threads, Block *count, Block *move) {
    #pragma omp parallel num_threads(threads)
    {
        int64_t turn = 0;
        for (int64_t first = 0, last = 0; first < work->rows; first = last) {
            int64_t elements = 0;
            do elements += work->sizes[last++];
            while (last < work->rows && elements + work->sizes[last] <= BUNDLE);
            if (count && work->phase != MOVE) {
                take_turns(work, first, last, &turn, count);
                #pragma omp barrier
            }
            if (work->phase != COUNT) take_turns(work, first, last, &turn, move);
        }
    }
}

/* What a cautious step is multiplied with. Where nothing agrees, the steps are 0, and slack may be next to 0. */
static REAL scale_of(const Work *work, int64_t row, double size, double least, double slack) {
    if (!work->agreeing[row]) return size;
    double mean = (double)work->agreeing[row] / (double)work->wholes[row];
    return size / ((mean > least ? mean : least) + slack);
}

/* Adam, AdamW: parameter, gradient, average, square. */

#ifdef HALF

typedef union { float number; uint32_t bits; } Float;

INLINE REAL from_state(STATE half) {
    Float whole = {.bits = (uint32_t)half << 16};
    return whole.number;
}

/* Rounds up as often as `number` is near to the upper neighbour, by noise of 16 bits: to the nearest, a square that
   falls by less than half a last bit at each step would never fall. What is not a number stays so. */
INLINE STATE to_state(REAL number, uint32_t noise) {
    Float whole = {.number = number};
    return (number != number ? whole.bits | 1 << 22 : whole.bits + noise) >> 16;
}

/* What the noise of an element in a step is made of: the next element's is one more. */
INLINE uint32_t place_of(int64_t element, double seed) { return (uint32_t)element + (uint32_t)seed * 0x9e3779b9u; }

/* Noise of 16 bits for each moment: lowbias32 (Wellons 2018). */
INLINE uint32_t noise_of(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

#else

INLINE REAL from_state(STATE whole) { return whole; }
INLINE STATE to_state(REAL number, uint32_t noise) { return number; }
INLINE uint32_t place_of(int64_t element, double seed) { return 0; }
INLINE uint32_t noise_of(uint32_t place) { return 0; }

#endif

INLINE int64_t count_adam_line(const void *numbers, REAL *const *row, REAL scale, int kind, int64_t from, int64_t to) {
    const Adam *h = numbers;
    const REAL *p = row[0], *g = row[1];
    const STATE *m = (const STATE *)row[2];
    const REAL take1 = h->take1, penalty = h->penalty, sign = h->sign;
    int agreeing = 0;
    #pragma omp simd reduction(+ : agreeing)
    for (int64_t i = from; i < to; i++) {
        REAL gradient = sign * g[i], whole = kind & PENALIZED ? gradient + penalty * p[i] : gradient;
        agreeing += agree(lerp(from_state(m[i]), whole, take1), gradient);
    }
    return agreeing;
}

INLINE int64_t move_adam_line(const void *numbers, REAL *const *row, REAL scale, int kind, int64_t from, int64_t to) {
    const Adam *h = numbers;
    REAL *p = row[0] + from;
    STATE *m = (STATE *)row[2] + from, *v = (STATE *)row[3] + from;
    const REAL *g = row[1] + from;
    const REAL take1 = h->take1, keep2 = h->keep2, take2 = h->take2, eps = h->eps, root = h->root;
    const REAL keep = h->keep, penalty = h->penalty, sign = h->sign;
    const uint32_t first = place_of(from, h->seed);
    const int size = to - from; /* a counter as wide as the noise saves a thirtieth */
    #pragma omp simd
    for (int i = 0; i < size; i++) {
        REAL gradient = sign * g[i], whole = penalized(gradient, p[i], penalty);
        REAL average = lerp(from_state(m[i]), whole, take1), square = from_state(v[i]) * keep2 + take2 * whole * whole;
        REAL step = average / (sqrt(square) * root + eps);
        if (kind & CAUTIOUS) step = agree(average, gradient) ? step : step * 0; /* what is not a number stays so */
        p[i] = p[i] * keep - step * scale;
        uint32_t noise = noise_of(first + i);
        m[i] = to_state(average, noise & 0xffff);
        v[i] = to_state(square, noise >> 16);
    }
    return 0;
}

/* The numbers of a row. By its sign the scale of the gradients costs nothing. */
INLINE Adam adam_of(const Work *work, int64_t row) {
    Adam h = ((const Adam *)work->numbers)[row];
    h.sign *= work->scale;
    return h;
}

static int64_t count_adam(const Work *work, int64_t row, int64_t from, int64_t to) {
    const Adam h = adam_of(work, row);
    REAL *const *tensors = work->tensors + 4 * row;
    if (h.penalty) return in_lines(count_adam_line, &h, tensors, 0, 2, 0, PENALIZED, from, to);
    return in_lines(count_adam_line, &h, tensors, 1, 2, 0, 0, from, to);
}

static int64_t move_adam(const Work *work, int64_t row, int64_t from, int64_t to) {
    const Adam h = adam_of(work, row);
    return in_lines(move_adam_line, &h, work->tensors + 4 * row, 0, 3, h.size, 0, from, to);
}

static int64_t move_cautious_adam(const Work *work, int64_t row, int64_t from, int64_t to) {
    const Adam h = adam_of(work, row);
    REAL scale = scale_of(work, row, h.size, h.least, h.slack);
    return in_lines(move_adam_line, &h, work->tensors + 4 * row, 0, 3, scale, CAUTIOUS, from, to);
}

static void adam(const Work *work, int threads) { run(work, threads, 0, move_adam); }
static void cautious_adam(const Work *work, int threads) { run(work, threads, count_adam, move_cautious_adam); }

#ifndef HALF

/* SGD with momentum: parameter, gradient, buffer. */

INLINE REAL move_buffer(const SGD *h, REAL whole, REAL *buffer, int kind) {
    *buffer = *buffer * (REAL)h->momentum + whole * (REAL)h->taken;
    return kind & NESTEROV ? whole + *buffer * (REAL)h->momentum : *buffer;
}

INLINE int64_t count_sgd_line(const void *numbers, REAL *const *row, REAL scale, int kind, int64_t from, int64_t to) {
    const SGD h = *(const SGD *)numbers;
    const REAL *p = row[0], *g = row[1], *b = row[2];
    const REAL penalty = h.penalty, sign = h.sign;
    int agreeing = 0;
    #pragma omp simd reduction(+ : agreeing)
    for (int64_t i = from; i < to; i++) {
        REAL gradient = sign * g[i], buffer = b[i];
        REAL whole = kind & PENALIZED ? gradient + penalty * p[i] : gradient;
        agreeing += agree(move_buffer(&h, whole, &buffer, kind), gradient);
    }
    return agreeing;
}

INLINE int64_t move_sgd_line(const void *numbers, REAL *const *row, REAL scale, int kind, int64_t from, int64_t to) {
    const SGD h = *(const SGD *)numbers;
    REAL *p = row[0], *b = row[2];
    const REAL *g = row[1];
    const REAL penalty = h.penalty, sign = h.sign;
    #pragma omp simd
    for (int64_t i = from; i < to; i++) {
        REAL gradient = sign * g[i], buffer = b[i];
        REAL step = move_buffer(&h, penalized(gradient, p[i], penalty), &buffer, kind);
        p[i] -= (agree(step, gradient) ? step : step * 0) * scale;
        b[i] = buffer;
    }
    return 0;
}

INLINE SGD sgd_of(const Work *work, int64_t row) {
    SGD h = ((const SGD *)work->numbers)[row];
    h.sign *= work->scale;
    return h;
}

static int64_t count_sgd(const Work *work, int64_t row, int64_t from, int64_t to) {
    const SGD h = sgd_of(work, row);
    REAL *const *tensors = work->tensors + 3 * row;
    if (h.penalty && work->choice) return in_lines(count_sgd_line, &h, tensors, 0, 2, 0, NESTEROV | PENALIZED, from, to);
    if (h.penalty) return in_lines(count_sgd_line, &h, tensors, 0, 2, 0, PENALIZED, from, to);
    if (work->choice) return in_lines(count_sgd_line, &h, tensors, 1, 2, 0, NESTEROV, from, to);
    return in_lines(count_sgd_line, &h, tensors, 1, 2, 0, 0, from, to);
}

static int64_t move_sgd(const Work *work, int64_t row, int64_t from, int64_t to) {
    const SGD h = sgd_of(work, row);
    REAL *const *tensors = work->tensors + 3 * row;
    REAL scale = scale_of(work, row, h.lr, h.least, h.slack);
    if (work->choice) return in_lines(move_sgd_line, &h, tensors, 0, 2, scale, NESTEROV, from, to);
    return in_lines(move_sgd_line, &h, tensors, 0, 2, scale, 0, from, to);
}

static void cautious_sgd(const Work *work, int threads) { run(work, threads, count_sgd, move_sgd); }

/* Schedule-free RAdam: parameter (y), gradient, square, z. */

INLINE int64_t move_radam_line(const void *numbers, REAL *const *row, REAL scale, int kind, int64_t from, int64_t to) {
    const RAdam *h = numbers;
    REAL *y = row[0], *s = row[2], *z = row[3];
    const REAL *g = row[1];
    const REAL beta2 = h->beta2, take2 = h->take2, correction = 1.0 / h->correction, eps = h->eps;
    const REAL decay = h->decay, share = h->share, own_lr = h->own_lr, lr = h->lr;
    #pragma omp simd
    for (int64_t i = from; i < to; i++) {
        REAL gradient = scale * g[i], square = s[i] * beta2 + take2 * gradient * gradient;
        REAL step = kind & ADAPTIVE ? gradient / (sqrt(square * correction) + eps) : gradient;
        step = penalized(step, y[i], decay);
        y[i] = y[i] + (z[i] - y[i]) * share + own_lr * step;
        z[i] -= lr * step;
        s[i] = square;
    }
    return 0;
}

static int64_t move_radam(const Work *work, int64_t row, int64_t from, int64_t to) {
    const RAdam *h = (const RAdam *)work->numbers + row;
    REAL *const *tensors = work->tensors + 4 * row;
    if (work->choice) return in_lines(move_radam_line, h, tensors, 0, 3, work->scale, ADAPTIVE, from, to);
    return in_lines(move_radam_line, h, tensors, 0, 3, work->scale, 0, from, to);
}

static void schedule_free_radam(const Work *work, int threads) { run(work, threads, 0, move_radam); }

#endif

/* Squares: a row is one gradient. Added up block by block, and so to the same sums by any number of threads. */
static void squares(const Work *work, int threads) {
    double *of_blocks = work->sums + work->rows;
    #pragma omp parallel num_threads(threads)
    {
        int64_t turn = 0;
        for (int64_t row = 0; row < work->rows; row++) {
            for (int64_t from = 0; from < work->sizes[row]; from += BLOCK, turn++) {
                if (turn % omp_get_num_threads() != omp_get_thread_num()) continue;
                const REAL *g = work->tensors[row] + from;
                const int64_t rest = work->sizes[row] - from, size = rest < BLOCK ? rest : BLOCK;
                double sum = 0;
                #pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < size; i++) sum += (double)g[i] * (double)g[i];
                of_blocks[turn] = sum;
            }
        }
    }
    for (int64_t row = 0; row < work->rows; row++) {
        work->sums[row] = 0;
        for (int64_t from = 0; from < work->sizes[row]; from += BLOCK) work->sums[row] += *of_blocks++;
    }
}

/* The step of this library; compilers drop the others. */
void step(const Work *work, int threads) { STEP(work, threads); }
