/* Takes random steps of native.c, for sanitizers.py: with threads of this file in the place of OpenMP's, as a thread
   sanitizer does not know libgomp's. Each configuration is taken twice, on several threads and on one. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP adam
#include "native.c"

/* Threads. */

typedef struct { void (*body)(void *); void *data; int number, team; } Share;

static pthread_barrier_t barrier;
static __thread int number_here, team_here = 1;

int omp_get_thread_num(void) { return number_here; }
int omp_get_num_threads(void) { return team_here; }

static void *work_on(void *argument) {
    const Share *share = argument;
    number_here = share->number, team_here = share->team;
    share->body(share->data);
    number_here = 0, team_here = 1;
    return 0;
}

void GOMP_parallel(void (*body)(void *), void *data, unsigned team, unsigned flags) {
    pthread_t threads[team];
    Share shares[team];
    pthread_barrier_init(&barrier, 0, team);
    for (unsigned i = 0; i < team; i++) shares[i] = (Share){body, data, i, team};
    for (unsigned i = 1; i < team; i++)
        if (pthread_create(&threads[i], 0, work_on, &shares[i])) abort();
    work_on(&shares[0]);
    for (unsigned i = 1; i < team; i++) pthread_join(threads[i], 0);
    pthread_barrier_destroy(&barrier);
}

void GOMP_barrier(void) {
#ifndef NO_BARRIER /* a fault that is to be found */
    pthread_barrier_wait(&barrier);
#endif
}

/* Random configurations. */

static uint64_t state;

static uint64_t below(uint64_t end) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % end;
}

typedef struct {
    void (*take)(const Work *, int);
    int tensors;
    int numbers;
    int choice;                     /* the place of a number that is 0 or 1, or -1 */
    int count;                      /* the place of the count of steps, or -1 */
} Kind;

static const Kind KINDS[] = {
    {adam, 4, sizeof(Adam) / sizeof(double), -1, 11},
    {cautious_adam, 4, sizeof(Adam) / sizeof(double), -1, 11},
    {cautious_sgd, 3, sizeof(SGD) / sizeof(double), 7, 8},
    {schedule_free_radam, 4, sizeof(RAdam) / sizeof(double), 8, -1},
    {squares, 1, 0, -1, -1},
};

enum { ROWS = 40, SETS = 3, TENSORS = 4, NUMBERS = 16 };

static const int64_t SIZES[] = {0, 1, 2, 7, 15, 17, 31, 33, 64, 65, 127, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 1,
                                BLOCK - 1, BLOCK, BLOCK + 1, 40001};
static const double ODD[] = {0, 1, -1, 0.5, 0.999, 1e-8, 1e300, -1e300, 1e-300, __builtin_inf(), __builtin_nan("")};

/* Any bits, or numbers of about 1. */
static void fill(unsigned char *bytes, int64_t elements, int size, int is_odd) {
    static const unsigned char HIGH[] = {0x3d, 0x3e, 0x3f, 0xbd, 0xbe, 0xbf};
    for (int64_t i = 0; i < elements; i++) {
        uint64_t bits = below(UINT64_MAX);
        memcpy(bytes + i * size, &bits, size);
        if (!is_odd) bytes[i * size + size - 1] = HIGH[bits % 6];
    }
}

static void random_numbers(double *numbers, const Kind *kind, int is_odd) {
    for (int i = 0; i < kind->numbers; i++)
        numbers[i] = is_odd && !below(3) ? ODD[below(sizeof ODD / sizeof *ODD)] : below(1001) / 1000.0;
    if (kind->choice >= 0) numbers[kind->choice] = below(2);
    if (kind->count >= 0) numbers[kind->count] = 1 + below(1000000);
}

/* Memory that ends where the tensor does. */
static void *tensor_of(int64_t elements, int size, int offset, const void *content) {
    int64_t bytes = elements * size;
#ifdef SHORT /* a fault that is to be found */
    if (elements > 64) bytes -= size;
#endif
    char *memory = malloc(bytes + offset);
    memcpy(memory + offset, content, bytes);
    return memory + offset;
}

static void take(Work *work, const Kind *kind, int is_in_parts, int threads) {
    work->phase = is_in_parts ? COUNT : WHOLE;
    kind->take(work, threads);
    if (!is_in_parts) return;
    work->phase = MOVE;
    kind->take(work, threads);
}

static void take_random_step(void) {
    const Kind *kind = &KINDS[below(sizeof KINDS / sizeof *KINDS)];
    const int rows = 1 + below(below(2) ? 4 : ROWS), is_odd = !below(3), is_in_parts = below(2), threads = 2 + below(4);
    int64_t sizes[ROWS], wholes[ROWS], agreeing[2][ROWS] = {{0}}, blocks = 0;
    int32_t sets[ROWS];
    uint32_t streams[ROWS];
    void *tensors[2][ROWS * TENSORS];
    int offsets[2][ROWS * TENSORS];
    double numbers[SETS * NUMBERS];
    for (int set = 0; set < SETS; set++) random_numbers(numbers + set * kind->numbers, kind, is_odd);
    for (int row = 0; row < rows; row++) {
        sizes[row] = SIZES[below(sizeof SIZES / sizeof *SIZES)];
        if (rows < 3 && !below(20)) sizes[row] = BUNDLE + 5;
        wholes[row] = sizes[row] + below(100), sets[row] = below(SETS), streams[row] = below(1 << 20);
        blocks += (sizes[row] + BLOCK - 1) / BLOCK;
        for (int i = 0; i < kind->tensors; i++) {
            const int at = row * kind->tensors + i, size = i < 2 ? sizeof(PARAMETER) : sizeof(STATE);
            unsigned char *content = malloc(sizes[row] * size);
            fill(content, sizes[row], size, is_odd);
            for (int copy = 0; copy < 2; copy++) {
                offsets[copy][at] = size * below(3);
                tensors[copy][at] = tensor_of(sizes[row], size, offsets[copy][at], content);
            }
            free(content);
        }
    }
    double *sums[2] = {malloc((rows + blocks) * sizeof(double)), malloc((rows + blocks) * sizeof(double))};
    const double scales[SETS] = {1, 0.37, 0.62};
    const int64_t is_noisy = below(2);
    for (int copy = 0; copy < 2; copy++) {
        Work work = {.rows = rows, .tensors = tensors[copy], .sizes = sizes, .wholes = wholes, .sets = sets,
                     .numbers = numbers, .streams = streams, .agreeing = agreeing[copy], .scales = scales,
                     .is_noisy = is_noisy, .sums = sums[copy]};
        take(&work, kind, is_in_parts, copy ? 1 : threads);
    }
    for (int at = 0; at < rows * kind->tensors; at++) {
        const int64_t bytes = sizes[at / kind->tensors] * (at % kind->tensors < 2 ? sizeof(PARAMETER) : sizeof(STATE));
        if (memcmp(tensors[0][at], tensors[1][at], bytes)) printf("DIFFERENT on several threads\n"), exit(3);
        for (int copy = 0; copy < 2; copy++) free((char *)tensors[copy][at] - offsets[copy][at]);
    }
    for (int copy = 0; copy < 2; copy++) free(sums[copy]);
}

int main(int count, char **arguments) {
    const int steps = atoi(arguments[1]);
    state = 88172645463325252ull + 2654435761u * atoi(arguments[2]);
#ifdef SHIFTED /* a fault that is to be found */
    volatile int far = 40;
    printf("%d\n", 1 << far);
#endif
    for (int i = 0; i < steps; i++) take_random_step();
    printf("%d steps\n", steps);
    return 0;
}
