/* Sums of products of two columns of activations with two rows of weights; count is a multiple of 4.
   sums: column 0 by row 0, column 0 by row 1, column 1 by row 0, column 1 by row 1. */
#if defined(__ARM_FEATURE_MVE)
SEPARATE static void dots(const uint8_t *x0, const uint8_t *x1, const int8_t *w0, const int8_t *w1, int32_t count,
                        int32_t sums[4])
{
    const uint8x16_t middle = vdupq_n_u8(128); /* activations less 128 are signed; the constants make up for it */
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
#elif defined(__ARM_FEATURE_SIMD32)
static inline uint32_t word(const void *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

/* Bytes 0 and 2, or 1 and 3, of a word as two halfwords. */
#define EXTENDED(instruction, name)                                     \
    static inline uint32_t name(uint32_t value)                         \
    {                                                                   \
        uint32_t result;                                                \
        __asm__(instruction : "=r"(result) : "r"(value));               \
        return result;                                                  \
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

SEPARATE static void dots(const uint8_t *x0, const uint8_t *x1, const int8_t *w0, const int8_t *w1, int32_t count,
                          int32_t sums[4])
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    const uint8_t *const end = x0 + count;
    while (x0 != end) {
        const uint32_t x = word(x0), y = word(x1);
        const uint32_t x_even = unsigned_even(x), x_odd = unsigned_odd(x);
        const uint32_t y_even = unsigned_even(y), y_odd = unsigned_odd(y);
        const uint32_t u = word(w0), u_even = signed_even(u), u_odd = signed_odd(u);
        a = smlad(x_even, u_even, a);
        c = smlad(y_even, u_even, c);
        a = smlad(x_odd, u_odd, a);
        c = smlad(y_odd, u_odd, c);
        const uint32_t v = word(w1), v_even = signed_even(v), v_odd = signed_odd(v);
        b = smlad(x_even, v_even, b);
        d = smlad(y_even, v_even, d);
        b = smlad(x_odd, v_odd, b);
        d = smlad(y_odd, v_odd, d);
        x0 += 4, x1 += 4, w0 += 4, w1 += 4;
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#else
SEPARATE static void dots(const uint8_t *x0, const uint8_t *x1, const int8_t *w0, const int8_t *w1, int32_t count,
                        int32_t sums[4])
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t x = x0[i], y = x1[i], u = w0[i], v = w1[i];
        a += x * u, b += x * v, c += y * u, d += y * v;
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif
