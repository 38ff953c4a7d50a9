/* Types of numbers in memory, by torch's names: read as REAL, and rounded when they are written. */

#ifdef __F16C__
#include <immintrin.h>
#endif

typedef float float32;
typedef double float64;
typedef struct { uint16_t bits; } bfloat16; /* the upper half of a float */
typedef struct { uint16_t bits; } float16;  /* IEEE 754's binary16 */

typedef union { float number; uint32_t bits; } Float;

INLINE float32 from_float32(float32 x) { return x; }
INLINE float64 from_float64(float64 x) { return x; }

INLINE float32 from_bfloat16(bfloat16 x) {
    const Float whole = {.bits = (uint32_t)x.bits << 16};
    return whole.number;
}

INLINE float32 from_float16(float16 x) {
    const uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
    const Float small = {.number = (float)(int)rest * 0x1p-24f}; /* below the normal ones */
    const uint32_t exponents = rest < 0x7c00 ? 112 : 224;        /* 255 of what is infinite or not a number */
    const Float whole = {.bits = sign | (rest < 0x0400 ? small.bits : (rest << 13) + (exponents << 23))};
    return whole.number;
}

/* Each rounds to the nearest number or, where `noise` of 16 bits says so, to one of its neighbours: a bfloat16 that many
   steps change by less than half a last bit would never change. NaN stays NaN. */

INLINE float32 to_float32(float32 x, int is_noisy, uint32_t noise) { return x; }
INLINE float64 to_float64(float64 x, int is_noisy, uint32_t noise) { return x; }

INLINE bfloat16 to_bfloat16(float32 x, int is_noisy, uint32_t noise) {
    const Float whole = {.number = x};
    const uint32_t up = is_noisy ? noise : 0x7fff + (whole.bits >> 16 & 1);
    return (bfloat16){(x != x ? whole.bits | 1 << 22 : whole.bits + up) >> 16};
}

INLINE float16 to_float16(float32 x) {
    const Float whole = {.number = x};
    const uint32_t rest = whole.bits & 0x7fffffff;
    const Float size = {.bits = rest}, small = {.number = size.number + 0.5f}; /* has the last bit of a small one */
    uint32_t half = (rest - (112u << 23) + 0x0fff + (rest >> 13 & 1)) >> 13;
    half = rest < 113u << 23 ? small.bits - (126u << 23) : half < 0x7c00 && rest < 143u << 23 ? half : 0x7c00;
    return (float16){(whole.bits >> 16 & 0x8000) | (x != x ? 0x7e00 | (rest >> 13 & 0x3ff) : half)};
}

/* Elements of float16 as float32, and back. No compiler makes a loop over single ones use the processor's conversions. */

INLINE void widen(const float16 *from, float32 *to, int elements) {
    int i = 0;
#ifdef __F16C__
    for (; i + 8 <= elements; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < elements; i++) to[i] = from_float16(from[i]);
}

INLINE void narrow(const float32 *from, float16 *to, int elements) {
    int i = 0;
#ifdef __F16C__
    for (; i + 8 <= elements; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < elements; i++) to[i] = to_float16(from[i]);
}

/* Such elements times a scale, rounded as a product in place would be. */
INLINE void scale_wide(float32 *wide, float32 scale, int elements) {
    float16 products[8];
    for (int at = 0, some; at < elements; at += some) {
        some = elements - at < 8 ? elements - at : 8;
        for (int i = at; i < at + some; i++) wide[i] *= scale;
        narrow(wide + at, products, some);
        widen(products, wide + at, some);
    }
}

/* The types that a line reads and writes: where memory has float16, a copy of the line in float32. */
#define IN_LINE(TYPE) __typeof__(_Generic((TYPE){0}, float16: (float32){0}, default: (TYPE){0}))
typedef IN_LINE(PARAMETER) LineParameter;
typedef IN_LINE(STATE) LineState;

#define FROM(TYPE) _Generic((TYPE){0}, float32: from_float32, float64: from_float64, \
                            bfloat16: from_bfloat16, float16: from_float16)
#define TO(TYPE) _Generic((TYPE){0}, float32: to_float32, float64: to_float64, bfloat16: to_bfloat16)

INLINE REAL from_parameter(LineParameter x) { return FROM(LineParameter)(x); }
INLINE REAL from_state(LineState x) { return FROM(LineState)(x); }
INLINE LineParameter to_parameter(REAL x, int is_noisy, uint32_t noise) { return TO(LineParameter)(x, is_noisy, noise); }
INLINE LineState to_state(REAL x, uint32_t noise) { return TO(LineState)(x, 1, noise); }

/* A gradient times its scale, rounded likewise. Its sign changes nothing of that. */
INLINE REAL scaled(LineParameter gradient, REAL scale) {
    return from_parameter(to_parameter(scale * from_parameter(gradient), 0, 0));
}

/* What the noise of an element in a step is made of: the next element's is one more. */
INLINE uint32_t place_of(int64_t element, double step, uint32_t stream) {
    return (uint32_t)element + (uint32_t)step * 0x9e3779b9u + stream * 0x85ebca6bu;
}

/* Noise of 32 bits, half for each moment: lowbias32 (Wellons 2018). That of the parameter is made of this one. */
INLINE uint32_t noise_of(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}
