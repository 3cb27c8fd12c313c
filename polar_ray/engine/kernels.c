/* What a forward on CPU spends time on: attention, root mean square norm, rotary positions and gated activation, each in
 * one pass over its data, and in bfloat16 the matrix products, around a kernel that is given.
 *
 * Compiled for the machine that it runs on when an engine first starts there; see kernels.py. Every function takes
 * float32 (bf16 = 0) or bfloat16 (bf16 = 1) data and computes in float32. No result depends on the number of threads.
 */
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define ROWS 48   /* rows of queries in one tile: tokens times the heads that share a key */
#define KEYS 256  /* keys in one block */
#define STEPS 64  /* terms of a sum that are added in one go */
#define MAX_DIM 256

typedef float f16v __attribute__((vector_size(64)));
typedef int32_t i16v __attribute__((vector_size(64)));
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef uint16_t h16v __attribute__((vector_size(32)));

INLINE f16v load_f(const float *p) { f16v v; memcpy(&v, p, sizeof v); return v; }
INLINE void store_f(float *p, f16v v) { memcpy(p, &v, sizeof v); }
INLINE f16v all(float x) { return x - (f16v){0}; }
INLINE f16v pick(i16v where, f16v a, f16v b) { return (f16v)((where & (i16v)a) | (~where & (i16v)b)); }

INLINE f16v load_h(const uint16_t *p) {
    h16v h;
    memcpy(&h, p, sizeof h);
    return (f16v)(__builtin_convertvector(h, u16v) << 16);
}

INLINE h16v narrow(f16v v) {
#ifdef __AVX512BF16__
    return (h16v)_mm512_cvtneps_pbh((__m512)v);
#else
    u16v bits = (u16v)v;
    u16v rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u16v is_nan = (u16v)(v != v);
    return __builtin_convertvector((is_nan & 0x7fc0) | (~is_nan & rounded), h16v);
#endif
}

INLINE void store_h(uint16_t *p, f16v v) { h16v h = narrow(v); memcpy(p, &h, sizeof h); }

INLINE float one_h(uint16_t h) { uint32_t bits = (uint32_t)h << 16; float x; memcpy(&x, &bits, 4); return x; }
INLINE uint16_t narrow_one(float x) { uint16_t out[16]; store_h(out, all(x)); return out[0]; }

INLINE f16v load(int bf16, const void *p, long i) {
    return bf16 ? load_h((const uint16_t *)p + i) : load_f((const float *)p + i);
}
INLINE void store(int bf16, void *p, long i, f16v v) {
    if (bf16) store_h((uint16_t *)p + i, v); else store_f((float *)p + i, v);
}
INLINE float load_one(int bf16, const void *p, long i) {
    return bf16 ? one_h(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}
INLINE void store_one(int bf16, void *p, long i, float x) {
    if (bf16) ((uint16_t *)p)[i] = narrow_one(x); else ((float *)p)[i] = x;
}

/* The largest number; what it gives for NaN does not matter, since the sum of exponentials is NaN then. */
INLINE f16v larger(f16v a, f16v b) {
#ifdef __AVX512F__
    return (f16v)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return pick(b > a, b, a);
#endif
}

#define HALVES(v, combine)                                                                             \
    v = combine(v, __builtin_shuffle(v, (i16v){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));            \
    v = combine(v, __builtin_shuffle(v, (i16v){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));            \
    v = combine(v, __builtin_shuffle(v, (i16v){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));            \
    v = combine(v, __builtin_shuffle(v, (i16v){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14}))
INLINE f16v plus(f16v a, f16v b) { return a + b; }
INLINE float sum_of(f16v v) { HALVES(v, plus); return v[0]; }

/* e^x: 2^n times a polynomial in the rest, with the coefficients of the Cephes library's expf. Below -87 it is 0, above
 * 88.7 it is infinity. NaN stays NaN. */
INLINE f16v exp_of(f16v x) {
#ifdef __AVX512F__
    /* The second operand is the result where one is NaN. */
    x = (f16v)_mm512_max_ps(_mm512_set1_ps(-104.0f), (__m512)x);
    x = (f16v)_mm512_min_ps(_mm512_set1_ps(89.0f), (__m512)x);
    f16v n = (f16v)_mm512_roundscale_ps((__m512)(x * 1.44269504088896341f), 0);
#else
    i16v zero = x < -87.0f;
    x = pick(zero, all(-87.0f), x);
    x = pick(x > 89.0f, all(89.0f), x);
    f16v shifted = x * 1.44269504088896341f + 12582912.0f;
    f16v n = shifted - 12582912.0f;
#endif
    f16v r = x - n * 0.693359375f + n * 2.12194440e-4f;
    f16v y = 1.9875691500e-4f * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
#ifdef __AVX512F__
    return (f16v)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    f16v power = (f16v)(((i16v)shifted - 0x4b400000 + 127) << 23);
    return pick(zero, all(0), y * power);
#endif
}

/* 2^x, with the coefficients of the Cephes library's exp2f. For what is rounded to bfloat16, by up to 1 part in 512,
 * three coefficients: the least squares fit between -1/2 and 1/2, off by 1 part in 10,000. NaN stays NaN. */
INLINE f16v exp2_of(int bf16, f16v x) {
#ifdef __AVX512F__
    x = (f16v)_mm512_max_ps(_mm512_set1_ps(-160.0f), (__m512)x);
    f16v n = (f16v)_mm512_roundscale_ps((__m512)x, 0), r = x - n;
    f16v y = all(5.500892e-2f);
    if (!bf16) {
        y = (1.535336188319500e-4f * r + 1.339887440266574e-3f) * r + 9.618437357674640e-3f;
        y = y * r + 5.550332471162809e-2f;
    }
    y = y * r + (bf16 ? 2.4221096e-1f : 2.402264791363012e-1f);
    y = y * r + (bf16 ? 6.9328293e-1f : 6.931472028550421e-1f);
    y = y * r + 1.0f;
    return (f16v)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    (void)bf16;
    return exp_of(x * 0.69314718056f);
#endif
}

/* 1 / x for x from 1 to infinity, to the last bit or the one before. */
INLINE f16v inverse(f16v x) {
#ifdef __AVX512F__
    f16v y = (f16v)_mm512_rcp14_ps((__m512)x);
    /* One step of Newton's; at infinity, where it would give NaN, the estimate is 0 already. */
    f16v step = y * (2.0f - x * y);
    return (f16v)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)y, _mm512_setzero_ps(), _CMP_EQ_OQ), (__m512)step,
                                      (__m512)y);
#else
    return 1.0f / x;
#endif
}

/* What attention is made for here: 0 nothing, 1 float32, 2 bfloat16 too. */
int polar_level(void) {
#if defined(__AVX512BF16__)
    return 2;
#elif defined(__AVX512F__)
    return 1;
#else
    return 0;
#endif
}

/* ------------------------------------------------------------------------------------------- element-wise work */

/* One row of polar_norm, with what it reads and writes known to the compiler. */
INLINE void norm_row(const int x_bf16, const int bf16, const int out_bf16, const void *x, const void *weight, void *out,
                     long base, long dim, float eps, int plus_one) {
    long i = 0;
    f16v squares = {0};
    float total = 0;
    for (; i + 16 <= dim; i += 16) {
        f16v v = load(x_bf16, x, base + i);
        squares += v * v;
    }
    total = sum_of(squares);
    for (; i < dim; i++) {
        float v = load_one(x_bf16, x, base + i);
        total += v * v;
    }
    float scale = 1.0f / sqrtf(total / dim + eps);
    for (i = 0; i + 16 <= dim; i += 16) {
        f16v v = load(x_bf16, x, base + i) * scale, w = load(bf16, weight, i);
        store(out_bf16, out, base + i, v * (plus_one ? 1.0f + w : w));
    }
    for (; i < dim; i++) {
        float v = load_one(x_bf16, x, base + i) * scale, w = load_one(bf16, weight, i);
        store_one(out_bf16, out, base + i, v * (plus_one ? 1.0f + w : w));
    }
}

/* out = weight * x / rms(x). `bf16` is of the weight; in between nothing is rounded. `plus_one`: Gemma's norm, which
 * multiplies by 1 + weight. */
void polar_norm(int x_bf16, int bf16, int out_bf16, const void *x, const void *weight, void *out, long rows, long dim,
                float eps, int plus_one, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++) {
        long base = row * dim;
        if (!bf16)
            norm_row(0, 0, 0, x, weight, out, base, dim, eps, plus_one);
        else if (x_bf16)
            norm_row(1, 1, 1, x, weight, out, base, dim, eps, plus_one);
        else if (out_bf16)
            norm_row(0, 1, 1, x, weight, out, base, dim, eps, plus_one);
        else
            norm_row(0, 1, 0, x, weight, out, base, dim, eps, plus_one);
    }
}

INLINE void add_part(const int bf16, float *x, const void *branch, long from, long to) {
    long i = from;
    for (; i + 16 <= to; i += 16) store_f(x + i, load_f(x + i) + load(bf16, branch, i));
    for (; i < to; i++) x[i] += load_one(bf16, branch, i);
}

/* x += branch, in float32; `bf16` is of the branch. */
void polar_add(int bf16, float *x, const void *branch, long count, int threads) {
    const long part = 4096;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long from = 0; from < count; from += part) {
        long to = from + part < count ? from + part : count;
        bf16 ? add_part(1, x, branch, from, to) : add_part(0, x, branch, from, to);
    }
}

INLINE void rotate_row(const int bf16, const int out_bf16, const void *x, long from, const float *cos, const float *sin,
                       void *out, long to, int dim) {
    int half = dim / 2, i = 0;
    for (; i + 16 <= half; i += 16) {
        f16v a = load(bf16, x, from + i), b = load(bf16, x, from + half + i);
        f16v low = a * load_f(cos + i) - b * load_f(sin + i);
        f16v high = b * load_f(cos + half + i) + a * load_f(sin + half + i);
        store(out_bf16, out, to + i, low);
        store(out_bf16, out, to + half + i, high);
    }
    for (; i < half; i++) {
        float a = load_one(bf16, x, from + i), b = load_one(bf16, x, from + half + i);
        float low = a * cos[i] - b * sin[i];
        float high = b * cos[half + i] + a * sin[half + i];
        store_one(out_bf16, out, to + i, low);
        store_one(out_bf16, out, to + half + i, high);
    }
}

/* Rotates each head's two halves by its position: out = x * cos + (-second, first) * sin. */
void polar_rotate(int bf16, int out_bf16, const void *x, long x_stride, const float *cos, const float *sin, void *out,
                  long out_stride, long rows, int heads, int dim, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++)
        for (int head = 0; head < heads; head++) {
            long from = row * x_stride + (long)head * dim, to = row * out_stride + (long)head * dim, at = row * dim;
            if (bf16)
                rotate_row(1, 1, x, from, cos + at, sin + at, out, to, dim);
            else if (out_bf16)
                rotate_row(0, 1, x, from, cos + at, sin + at, out, to, dim);
            else
                rotate_row(0, 0, x, from, cos + at, sin + at, out, to, dim);
        }
}

INLINE f16v silu(int bf16, f16v x) {
    return x * inverse(1.0f + (bf16 ? exp2_of(1, x * -1.44269504088896341f) : exp_of(-x)));
}

/* tanh(x), from e^(2|x|), which loses nothing that float32 holds where it is used. */
INLINE f16v tanh_of(f16v x) { return 1.0f - 2.0f * inverse(exp_of(2.0f * x) + 1.0f); }

INLINE f16v gelu_tanh(f16v x) {
    return 0.5f * x * (1.0f + tanh_of(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

INLINE void gate_part(const int bf16, const int kind, void *gate, const void *up, long from, long to) {
    long i = from;
    for (; i + 16 <= to; i += 16) {
        f16v x = load(bf16, gate, i);
        store(bf16, gate, i, (kind ? gelu_tanh(x) : silu(bf16, x)) * load(bf16, up, i));
    }
    for (; i < to; i++) {
        f16v x = all(load_one(bf16, gate, i));
        x = kind ? gelu_tanh(x) : silu(bf16, x);
        store_one(bf16, gate, i, x[0] * load_one(bf16, up, i));
    }
}

/* gate = activation(gate) * up, in place; kind 0 is SiLU, kind 1 is GELU by its tanh formula. */
void polar_gate(int bf16, void *gate, const void *up, long count, int kind, int threads) {
    const long part = 4096;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long from = 0; from < count; from += part) {
        long to = from + part < count ? from + part : count;
        if (bf16)
            kind ? gate_part(1, 1, gate, up, from, to) : gate_part(1, 0, gate, up, from, to);
        else
            kind ? gate_part(0, 1, gate, up, from, to) : gate_part(0, 0, gate, up, from, to);
    }
}

/* ----------------------------------------------------------------------------------------------------- products
 *
 * Products of bfloat16 matrices whose sums are float32, and are rounded after what follows them, or not at all. torch
 * has the kernel (at::native::cpublas::brgemm, which its own compiler calls). A weight lies in panels of up to PANEL
 * columns, in which the two numbers of an even and an odd step stand next to each other.
 */

#define PANEL 64
#define PRODUCT_ROWS 512

/* out = left * right, or out += it; `paired` is how the right side lies. */
typedef void (*Brgemm)(int64_t rows, int64_t columns, int64_t steps, int64_t left_stride, int64_t right_stride,
                       int64_t out_stride, _Bool add, const void *left, const void *right, float *out, _Bool paired);
typedef void (*Release)(_Bool paired);

/* How many of `rest` rows go through one product. There are few different sizes, as in linear.py. */
INLINE long rows_of(long rest) {
    return rest >= PRODUCT_ROWS ? PRODUCT_ROWS : rest >= 32 ? rest / 32 * 32 : rest;
}
INLINE long blocks_of(long rows) {
    long blocks = 0;
    for (long row = 0; row < rows; row += rows_of(rows - row)) blocks++;
    return blocks;
}
INLINE long row_of(long block, long rows) {
    long row = 0;
    while (block--) row += rows_of(rows - row);
    return row;
}

INLINE f16v load_bias(const uint16_t *bias, long i, long rest) {
    if (!bias) return all(0);
    uint16_t last[16] = {0};
    if (rest >= 16) return load_h(bias + i);
    memcpy(last, bias + i, rest * 2);
    return load_h(last);
}

/* float32 numbers that polar_product and polar_gated need to work in. */
long polar_products_workspace(int threads) { return 2L * threads * PRODUCT_ROWS * PANEL; }

/* out = x * weight + bias, in float32 or rounded once (out_bf16); or out += it, in float32 alone. `bias` may be NULL. */
void polar_product(Brgemm brgemm, Release release, int out_bf16, int add, const uint16_t *x, const uint16_t *weight,
                   const uint16_t *bias, void *out, long rows, long steps, long columns, float *workspace, int threads) {
    long blocks = blocks_of(rows), panels = (columns + PANEL - 1) / PANEL;
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        float *scratch = workspace + 2L * omp_get_thread_num() * PRODUCT_ROWS * PANEL;
#else
        float *scratch = workspace;
#endif
#pragma omp for schedule(static)
        for (long item = 0; item < blocks * panels; item++) {
            long first = row_of(item / panels, rows), count = rows_of(rows - first), column = item % panels * PANEL;
            long width = columns - column < PANEL ? columns - column : PANEL;
            float *target = out_bf16 ? scratch : (float *)out + first * columns + column;
            long stride = out_bf16 ? PANEL : columns;
            if (bias && !out_bf16)
                for (long r = 0; r < count; r++)
                    for (long i = 0; i < width; i++)
                        target[r * stride + i] = (add ? target[r * stride + i] : 0) + one_h(bias[column + i]);
            brgemm(count, width, steps, steps, width, stride, !out_bf16 && (add || bias), x + first * steps,
                   weight + column * steps, target, 1);
            if (!out_bf16) continue;
            for (long i = 0; i < width; i += 16) {
                f16v more = load_bias(bias, column + i, width - i);
                uint16_t *to = (uint16_t *)out + first * columns + column + i;
                for (long r = 0; r < count; r++, to += columns) {
                    h16v rounded = narrow(load_f(scratch + r * PANEL + i) + more);
                    memcpy(to, &rounded, (width - i < 16 ? width - i : 16) * 2);
                }
            }
        }
        release(1);
    }
}

/* out = activation(x * gate + gate_bias) * (x * up + up_bias), rounded once; kinds as in polar_gate. */
void polar_gated(Brgemm brgemm, Release release, const uint16_t *x, const uint16_t *gate, const uint16_t *gate_bias,
                 const uint16_t *up, const uint16_t *up_bias, uint16_t *out, long rows, long steps, long columns, int kind,
                 float *workspace, int threads) {
    long blocks = blocks_of(rows), panels = (columns + PANEL - 1) / PANEL;
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        float *scratch = workspace + 2L * omp_get_thread_num() * PRODUCT_ROWS * PANEL;
#else
        float *scratch = workspace;
#endif
        float *other = scratch + PRODUCT_ROWS * PANEL;
#pragma omp for schedule(static)
        for (long item = 0; item < blocks * panels; item++) {
            long first = row_of(item / panels, rows), count = rows_of(rows - first), column = item % panels * PANEL;
            long width = columns - column < PANEL ? columns - column : PANEL;
            brgemm(count, width, steps, steps, width, PANEL, 0, x + first * steps, gate + column * steps, scratch, 1);
            brgemm(count, width, steps, steps, width, PANEL, 0, x + first * steps, up + column * steps, other, 1);
            for (long i = 0; i < width; i += 16) {
                f16v one = load_bias(gate_bias, column + i, width - i), two = load_bias(up_bias, column + i, width - i);
                uint16_t *to = out + first * columns + column + i;
                for (long r = 0; r < count; r++, to += columns) {
                    f16v a = load_f(scratch + r * PANEL + i) + one, b = load_f(other + r * PANEL + i) + two;
                    h16v rounded = narrow((kind ? gelu_tanh(a) : silu(1, a)) * b);
                    memcpy(to, &rounded, (width - i < 16 ? width - i : 16) * 2);
                }
            }
        }
        release(1);
    }
}

/* ---------------------------------------------------------------------------------------------------- attention
 *
 * Keys are packed in blocks of 16, transposed, so that a vector holds one dimension (bfloat16: a pair of dimensions) of
 * 16 keys; values so that a vector holds 16 dimensions of one key (bfloat16: of a pair of keys). A piece is a run of
 * keys that stand next to each other; it starts a block of its own.
 */

INLINE f16v spread(int bf16, const uint32_t *word) {
    if (bf16) return (f16v)((i16v){0} + (int32_t)*word);
    float x;
    memcpy(&x, word, 4);
    return all(x);
}

/* bfloat16: the products of both halves of each word. */
INLINE f16v multiply_add(int bf16, f16v sum, f16v left, f16v right) {
#ifdef __AVX512BF16__
    if (bf16) return (f16v)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
#endif
    return sum + left * right;
}

/* sums[row][column] = start + sum over `steps` of left[row][step] * right[step][column]; 16 columns to a vector. */
INLINE void product(int bf16, const int rows, const int columns, const uint32_t *left, long left_stride,
                    const uint32_t *right, long step_stride, long column_stride, long steps, float *sums,
                    long sum_stride, const float *start) {
    f16v sum[6][4];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++)
            sum[r][c] = start ? load_f(sums + r * sum_stride + c * 16) * start[r] : all(0);
    for (long step = 0; step < steps; step++) {
        f16v vector[4];
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++)
            vector[c] = load_f((const float *)right + step * step_stride + c * column_stride);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            f16v word = spread(bf16, left + r * left_stride + step);
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) sum[r][c] = multiply_add(bf16, sum[r][c], word, vector[c]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) store_f(sums + r * sum_stride + c * 16, sum[r][c]);
}

#define PRODUCT(R, C)                                                                                              \
    product(bf16, R, C, left, left_stride, right, step_stride, column_stride, steps, sums, sum_stride, start)
#define PRODUCTS(R)                                                                                                \
    switch (columns) {                                                                                             \
    case 1: PRODUCT(R, 1); return;                                                                                 \
    case 2: PRODUCT(R, 2); return;                                                                                 \
    case 3: PRODUCT(R, 3); return;                                                                                 \
    default: PRODUCT(R, 4); return;                                                                                \
    }

#define SIZED(NAME, BF16)                                                                                          \
    static void NAME(int rows, int columns, const uint32_t *left, long left_stride, const uint32_t *right,         \
                     long step_stride, long column_stride, long steps, float *sums, long sum_stride,               \
                     const float *start) {                                                                         \
        enum { bf16 = BF16 };                                                                                      \
        switch (rows) {                                                                                            \
        case 1: PRODUCTS(1)                                                                                        \
        case 2: PRODUCTS(2)                                                                                        \
        case 3: PRODUCTS(3)                                                                                        \
        case 4: PRODUCTS(4)                                                                                        \
        case 5: PRODUCTS(5)                                                                                        \
        default: PRODUCTS(6)                                                                                       \
        }                                                                                                          \
    }
SIZED(product_f, 0)
SIZED(product_h, 1)

INLINE int smaller(int a, int b) { return a < b ? a : b; }
INLINE int bigger(int a, int b) { return a > b ? a : b; }

/* The same for any number of rows and columns (a multiple of 16), in blocks whose right side stays in the first cache. */
INLINE void blocked_product(const int bf16, int rows, int columns, const uint32_t *left, long left_stride,
                            const uint32_t *right, long step_stride, long column_stride, int steps, float *sums,
                            long sum_stride, const float *start) {
    static const float ones[6] = {1, 1, 1, 1, 1, 1};
    for (int column = 0; column < columns; column += 64)
        for (int step = 0; step < steps; step += STEPS)
            for (int r = 0; r < rows; r += 6)
                (bf16 ? product_h : product_f)(
                    smaller(6, rows - r), smaller(4, (columns - column) / 16), left + r * left_stride + step,
                    left_stride, right + step * step_stride + column / 16 * column_stride, step_stride, column_stride,
                    smaller(STEPS, steps - step), sums + r * sum_stride + column, sum_stride,
                    step ? ones : start ? start + r : NULL);
}

INLINE long up_to(long n, long step) { return (n + step - 1) / step * step; }

typedef struct {
    int bf16, kv_heads, group, dim;
    const char *query, *key, *value;
    char *out;
    long query_stride, key_stride, value_stride, out_stride;
    const int *piece_start, *piece_length, *piece_position;
    const long *piece_offset; /* in packed keys */
    const int *query_start, *query_length, *query_position, *chain_start, *chain;
    float scale, cap;
    int window;
    uint32_t *packed_keys, *packed_values; /* one head after the other */
    long head_keys, head_values;           /* words of one head */
} Attention;

/* 32-bit words per key: a float, or a pair of bfloat16. */
INLINE int words_of(int bf16, int dim) { return bf16 ? (dim + 1) / 2 : dim; }

/* Exchanges bit `bit` of the row's number with that of the column's; all four bits make a transpose. */
#define EXCHANGE(bit, low, high)                                                                                   \
    for (int r = 0; r < 16; r++)                                                                                   \
        if (!(r & bit)) {                                                                                          \
            f16v one = row[r], two = row[r + bit];                                                                 \
            row[r] = __builtin_shuffle(one, two, low);                                                             \
            row[r + bit] = __builtin_shuffle(one, two, high);                                                      \
        }
INLINE void transpose(f16v row[16]) {
    EXCHANGE(8, ((i16v){0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}),
             ((i16v){8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}))
    EXCHANGE(4, ((i16v){0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27}),
             ((i16v){4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31}))
    EXCHANGE(2, ((i16v){0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29}),
             ((i16v){2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31}))
    EXCHANGE(1, ((i16v){0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}),
             ((i16v){1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31}))
}

static void pack(const Attention *a, int piece, int head) {
    int words = words_of(a->bf16, a->dim), wide = up_to(a->dim, 16), length = a->piece_length[piece];
    long first = a->piece_offset[piece], size = a->bf16 ? 2 : 4, padded = up_to(length, 16);
    uint32_t *keys = a->packed_keys + head * a->head_keys + first * words;
    uint32_t *values = a->packed_values + head * a->head_values + first * wide / (a->bf16 ? 2 : 1);
    const char *from_key = a->key + (a->piece_start[piece] * a->key_stride + (long)head * a->dim) * size;
    const char *from_value = a->value + (a->piece_start[piece] * a->value_stride + (long)head * a->dim) * size;
    for (long block = 0; block < padded; block += 16) {
        uint32_t *to = keys + block * words;
        int here = smaller(16, length - block);
        for (int w = 0; w < words; w += 16) {
            /* The last pair of an odd number of dimensions has one. */
            long bytes = smaller(64, (int)(a->dim * size) - w * 4);
            f16v row[16];
            for (int key = 0; key < 16; key++) {
                row[key] = all(0);
                const char *place = from_key + (block + key) * a->key_stride * size + w * 4;
                if (key >= here) continue;
                if (bytes == 64) memcpy(&row[key], place, 64); else memcpy(&row[key], place, bytes);
            }
            transpose(row);
            for (int i = 0; i < smaller(16, words - w); i++) store_f((float *)to + (w + i) * 16, row[i]);
        }
    }
    for (long key = 0; key < padded; key++) {
        const char *from = from_value + key * a->value_stride * size;
        if (!a->bf16) {
            uint32_t *to = values + key * wide;
            memset(to, 0, wide * 4L);
            if (key < length) memcpy(to, from, a->dim * 4L);
        } else if (key % 2 == 0) {
            uint32_t *to = values + key / 2 * wide;
            const uint16_t *one = (const uint16_t *)from, *two = one + a->value_stride;
            if (key + 1 < length && a->dim == wide) {
                for (int i = 0; i < wide; i += 16) {
                    u16v low = (u16v)load_h(one + i) >> 16, high = (u16v)load_h(two + i);
                    store_f((float *)to + i, (f16v)(low | high));
                }
                continue;
            }
            memset(to, 0, wide * 4L);
            if (key + 1 < length)
                for (int i = 0; i < a->dim; i++) to[i] = one[i] | (uint32_t)two[i] << 16;
            else if (key < length)
                for (int i = 0; i < a->dim; i++) to[i] = one[i];
        }
    }
}

/* What one thread works in. Not on its stack, which cannot say that there is no memory. */
typedef struct {
    uint32_t query[ROWS * MAX_DIM];
    float score[ROWS * KEYS], sum[ROWS * MAX_DIM];
    uint16_t weight[ROWS * KEYS];
} Scratch;

/* The tile of the tokens from `first` to `stop` of one span of queries, for the heads that share one key head. */
INLINE void tile(const int bf16, const Attention *a, Scratch *scratch, int span, int first, int stop, int head) {
    int dim = a->dim, words = words_of(bf16, dim), wide = up_to(dim, 16);
    int rows = (stop - first) * a->group, position = a->query_position[span];
    long size = bf16 ? 2 : 4;
    uint32_t *query = scratch->query;
    float *score = scratch->score, *sum = scratch->sum, most[ROWS], shrink[ROWS];
    f16v total[ROWS];
    uint16_t *weight = scratch->weight;

    if (bf16 && dim % 2) memset(query, 0, sizeof scratch->query);
    for (int r = 0; r < rows; r++) {
        long token = a->query_start[span] + first + r / a->group;
        const char *from = a->query + (token * a->query_stride + (head * a->group + r % a->group) * (long)dim) * size;
        memcpy(query + r * words, from, dim * size);
    }
    for (int r = 0; r < ROWS; r++) { most[r] = -INFINITY; total[r] = all(0); }
    memset(sum, 0, sizeof(float) * rows * wide);

    for (int link = a->chain_start[span]; link < a->chain_start[span + 1]; link++) {
        int piece = a->chain[link], start = a->piece_position[piece];
        int seen = smaller(a->piece_length[piece], position + stop - start);
        int from = a->window > 0 ? bigger(0, position + first - a->window + 1 - start) / 16 * 16 : 0;
        const uint32_t *keys = a->packed_keys + head * a->head_keys + a->piece_offset[piece] * words;
        const uint32_t *values =
            a->packed_values + head * a->head_values + a->piece_offset[piece] * wide / (bf16 ? 2 : 1);
        for (int block = from; block < seen; block += KEYS) {
            int here = smaller(KEYS, seen - block), padded = up_to(here, 16);
            blocked_product(bf16, rows, padded, query, words, keys + (long)block * words, 16, 16L * words, words, score,
                            KEYS, NULL);
            /* From here on scores are exponents of 2. */
            f16v top[ROWS];
            for (int r = rows; r < ROWS; r++) top[r] = all(-INFINITY);
            float before[ROWS], scale = (a->cap > 0 ? 1 : a->scale) * 1.44269504088896341f;
            memcpy(before, most, sizeof before);
            for (int r = 0; r < rows; r++) {
                float *row = score + r * KEYS;
                int own = position + first + r / a->group, high = smaller(here, own - start - block + 1);
                int low = a->window > 0 ? bigger(0, own - a->window + 1 - start - block) : 0;
                if (a->cap > 0)
                    for (int i = 0; i < padded; i += 16)
                        store_f(row + i, a->cap * tanh_of(load_f(row + i) * (a->scale / a->cap)));
                for (int i = 0; i < smaller(low, padded); i++) row[i] = -INFINITY;
                for (int i = bigger(high, 0); i < padded; i++) row[i] = -INFINITY;
                top[r] = load_f(row);
                for (int i = 16; i < padded; i += 16) top[r] = larger(top[r], load_f(row + i));
            }
            float safe[ROWS];
            for (int r = 0; r < ROWS; r += 16) {
                /* Sixteen rows at once: finding the largest number inside a vector takes as long as a block of it. */
                transpose(top + r);
                f16v found = top[r];
                for (int i = 1; i < 16; i++) found = larger(found, top[r + i]);
                f16v now = larger(load_f(most + r), found * scale), none = all(-INFINITY);
                store_f(most + r, now);
                now = pick(now == none, all(0), now);
                store_f(safe + r, now);
                store_f(shrink + r, exp2_of(0, load_f(before + r) - now));
            }
            for (int r = 0; r < rows; r++) {
                float *row = score + r * KEYS;
                f16v added = total[r] * shrink[r];
                for (int i = 0; i < padded; i += 16) {
                    f16v e = exp2_of(bf16, load_f(row + i) * scale - safe[r]);
                    added += e;
                    if (bf16) store_h(weight + r * KEYS + i, e); else store_f(row + i, e);
                }
                total[r] = added;
            }
            const uint32_t *left = bf16 ? (const uint32_t *)weight : (const uint32_t *)score;
            long stride = bf16 ? KEYS / 2 : KEYS, steps = bf16 ? padded / 2 : padded;
            blocked_product(bf16, rows, wide, left, stride, values + (long)block * wide / (bf16 ? 2 : 1), wide, 16,
                            steps, sum, wide, shrink);
        }
    }
    for (int r = 0; r < rows; r++) {
        long token = a->query_start[span] + first + r / a->group;
        long at = token * a->out_stride + (head * a->group + r % a->group) * (long)dim;
        float *row = sum + r * wide, share = 1.0f / sum_of(total[r]);
        for (int i = 0; i < wide; i += 16) store_f(row + i, load_f(row + i) * share);
        int i = 0;
        for (; i + 16 <= dim; i += 16) store(bf16, a->out, at + i, load_f(row + i));
        for (; i < dim; i++) store_one(bf16, a->out, at + i, row[i]);
    }
}

#define TILE(NAME, BF16)                                                                                           \
    static __attribute__((noinline)) void NAME(const Attention *a, Scratch *scratch, int span, int first, int stop,  \
                                               int head) {                                                         \
        tile(BF16, a, scratch, span, first, stop, head);                                                           \
    }
TILE(tile_f, 0)
TILE(tile_h, 1)

/* Bytes that polar_attention needs to work in. */
long polar_attention_workspace(int bf16, int kv_heads, int dim, int pieces, const int *piece_length, int threads) {
    long keys = 0;
    for (int piece = 0; piece < pieces; piece++) keys += up_to(piece_length[piece], 16);
    return kv_heads * keys * (words_of(bf16, dim) * 4L + up_to(dim, 16) * (bf16 ? 2L : 4L)) + threads * sizeof(Scratch);
}

/* Causal attention of spans of queries over chains of pieces of keys.
 *
 * Strides are elements from one token to the next. Positions count from the sequence's start. A query at position p of
 * a span attends to the keys at positions up to p in the span's chain, and not to those at p - window or before where
 * there is a window. cap > 0 caps scores at cap * tanh(score / cap). Returns 0, or 1 without memory.
 */
int polar_attention(int bf16, const void *query, long query_stride, const void *key, long key_stride,
                    const void *value, long value_stride, void *out, long out_stride, int kv_heads, int group, int dim,
                    int pieces, const int *piece_start, const int *piece_length, const int *piece_position, int spans,
                    const int *query_start, const int *query_length, const int *query_position,
                    const int *chain_start, const int *chain, float scale, float cap, int window, void *workspace,
                    int threads) {
    int tokens = ROWS / group;
    long tiles = 0, keys = 0, next = 0;
    for (int span = 0; span < spans; span++) tiles += (query_length[span] + tokens - 1) / tokens;
    long *offset = malloc(sizeof(long) * (pieces + 1));
    int *tile_span = malloc(sizeof(int) * (tiles + 1)), *tile_first = malloc(sizeof(int) * (tiles + 1));
    if (!offset || !tile_span || !tile_first) {
        free(offset); free(tile_span); free(tile_first);
        return 1;
    }
    for (int piece = 0; piece < pieces; piece++) { offset[piece] = keys; keys += up_to(piece_length[piece], 16); }
    for (int span = 0; span < spans; span++)
        for (int first = 0; first < query_length[span]; first += tokens) {
            tile_span[next] = span;
            tile_first[next++] = first;
        }
    Attention a = {bf16, kv_heads, group, dim, query, key, value, out, query_stride, key_stride, value_stride,
                   out_stride, piece_start, piece_length, piece_position, offset, query_start, query_length,
                   query_position, chain_start, chain, scale, cap, window, workspace, NULL,
                   keys * words_of(bf16, dim), keys * up_to(dim, 16) / (bf16 ? 2 : 1)};
    a.packed_values = a.packed_keys + kv_heads * a.head_keys;
    Scratch *scratches = (Scratch *)(a.packed_values + kv_heads * a.head_values);
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        Scratch *scratch = scratches + omp_get_thread_num();
#else
        Scratch *scratch = scratches;
#endif
#pragma omp for schedule(dynamic) collapse(2)
        for (int piece = 0; piece < pieces; piece++)
            for (int head = 0; head < kv_heads; head++) pack(&a, piece, head);
#pragma omp for schedule(dynamic)
        for (long item = 0; item < tiles * kv_heads; item++) {
            /* Head by head, so that what tiles which follow each other read is in cache. */
            long t = item % tiles;
            int span = tile_span[t], first = tile_first[t];
            (bf16 ? tile_h : tile_f)(&a, scratch, span, first, smaller(query_length[span], first + tokens), item / tiles);
        }
    }
    free(offset); free(tile_span); free(tile_first);
    return 0;
}
