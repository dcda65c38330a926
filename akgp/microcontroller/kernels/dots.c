/* Sums of products of two columns of activations with two rows of weights; count is a multiple of 4.
   sums: column 0 by row 0, column 0 by row 1, column 1 by row 0, column 1 by row 1. */
typedef struct {
    const uint8_t *first, *second;
    uint32_t *words; /* SMLAD: both columns as halfwords */
} columns_t;

#if defined(__ARM_FEATURE_MVE)
/* Two rows of weights one after the other. */
#define ROWS(weights, row, output, pair) ((weights) + (output) * (row))

static inline void prepare(const columns_t *columns, int32_t count)
{
    (void)columns, (void)count;
}

static void dots(const columns_t *columns, const int8_t *w0, int32_t count, int alone, int32_t sums[4])
{
    const uint8x16_t middle = vdupq_n_u8(128); /* activations less 128 are signed; the constants make up for it */
    const uint8_t *x0 = columns->first, *x1 = columns->second;
    const int8_t *w1 = alone ? w0 : w0 + count;
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (; count > 0; count -= 16, x0 += 16, x1 += 16, w0 += 16, w1 += 16) {
        const mve_pred16_t valid = vctp8q((uint32_t)count);
        const int8x16_t p = vreinterpretq_s8_u8(veorq_u8(vldrbq_z_u8(x0, valid), middle));
        const int8x16_t q = vreinterpretq_s8_u8(veorq_u8(vldrbq_z_u8(x1, valid), middle));
        const int8x16_t u = vldrbq_z_s8(w0, valid); /* zeros beyond the end */
        const int8x16_t v = vldrbq_z_s8(w1, valid);
        a = vmladavaq_s8(a, p, u);
        b = vmladavaq_s8(b, p, v);
        c = vmladavaq_s8(c, q, u);
        d = vmladavaq_s8(d, q, v);
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#else
/* Two rows of weights in turn, 4 of each; a row that is alone beside zeros. */
#define ROWS(weights, row, output, pair) ((weights) + 2 * (pair) * (row))

#if defined(__ARM_FEATURE_SIMD32)
static inline uint32_t word(const void *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

/* Bytes 0 and 2, or 1 and 3, of a word as two halfwords. */
#define EXTENDED(instruction, name)                       \
    static inline uint32_t name(uint32_t value)           \
    {                                                     \
        uint32_t result;                                  \
        __asm__(instruction : "=r"(result) : "r"(value)); \
        return result;                                    \
    }
EXTENDED("uxtb16 %0, %1", unsigned_even)
EXTENDED("uxtb16 %0, %1, ror #8", unsigned_odd)
EXTENDED("sxtb16 %0, %1", signed_even)
EXTENDED("sxtb16 %0, %1, ror #8", signed_odd)

static inline int32_t smlad(uint32_t x, uint32_t y, int32_t sum)
{
    int32_t result;
    __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
    return result;
}

/* The next two words. */
static inline void load(const uint8_t **at, uint32_t *first, uint32_t *second)
{
    __asm__ volatile("ldrd %0, %1, [%2], #8" : "=&r"(*first), "=&r"(*second), "+r"(*at) : : "memory");
}

/* Once for all rows of weights. */
SEPARATE static void prepare(const columns_t *columns, int32_t count)
{
    uint32_t *to = columns->words;
    for (int32_t i = 0; i < count; i += 4, to += 4) {
        const uint32_t x = word(columns->first + i), y = word(columns->second + i);
        to[0] = unsigned_even(x), to[1] = unsigned_odd(x);
        to[2] = unsigned_even(y), to[3] = unsigned_odd(y);
    }
}

SEPARATE static void dots(const columns_t *columns, const int8_t *weights, int32_t count, int alone, int32_t sums[4])
{
    const uint8_t *at = (const uint8_t *)columns->words, *w = (const uint8_t *)weights;
    const uint8_t *const end = at + 4 * count;
    int32_t a = 0, b = 0, c = 0, d = 0;
    (void)alone;
    while (at != end) {
        uint32_t x_even, x_odd, y_even, y_odd, u, v;
        load(&at, &x_even, &x_odd);
        load(&at, &y_even, &y_odd);
        load(&w, &u, &v);
        const uint32_t u_even = signed_even(u), u_odd = signed_odd(u);
        a = smlad(x_odd, u_odd, smlad(x_even, u_even, a));
        c = smlad(y_odd, u_odd, smlad(y_even, u_even, c));
        const uint32_t v_even = signed_even(v), v_odd = signed_odd(v);
        b = smlad(x_odd, v_odd, smlad(x_even, v_even, b));
        d = smlad(y_odd, v_odd, smlad(y_even, v_even, d));
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#else
static inline void prepare(const columns_t *columns, int32_t count)
{
    (void)columns, (void)count;
}

SEPARATE static void dots(const columns_t *columns, const int8_t *weights, int32_t count, int alone, int32_t sums[4])
{
    const uint8_t *x0 = columns->first, *x1 = columns->second, *const end = x0 + count;
    int32_t a = 0, b = 0, c = 0, d = 0;
    (void)alone;
#define STEP(i)                                                              \
    do {                                                                     \
        const int32_t x = x0[i], y = x1[i], u = weights[i], v = weights[i + 4]; \
        a += x * u, b += x * v, c += y * u, d += y * v;                      \
    } while (0)
    for (; x0 != end; x0 += 4, x1 += 4, weights += 8) {
        STEP(0);
        STEP(1);
        STEP(2);
        STEP(3);
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif
#endif
