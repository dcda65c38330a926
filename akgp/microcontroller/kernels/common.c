#ifdef __FAST_MATH__
#error "compile without -ffast-math: results are proven for the language's own arithmetic"
#endif
#if (-1 >> 1) != -1
#error "shifts of negative numbers must be arithmetic"
#endif

#if defined(__GNUC__)
#define ALIGNED __attribute__((aligned(4)))  /* words are loaded faster from their own addresses */
#define SEPARATE __attribute__((noinline)) /* all registers for a loop that needs them */
#else
#define ALIGNED
#define SEPARATE
#endif

/* Sums to 8 bits: ((sum << before) * multiplier + constant) >> 32 >> after, by output channel. */
typedef struct {
    const int32_t *multipliers;
    const int64_t *constants;
    const uint8_t *after;
    uint8_t before;
} fixed_t;

static inline uint8_t clipped(int32_t value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static inline uint8_t requantized(const fixed_t *fixed, int32_t channel, int32_t sum)
{
    const int32_t shifted = (int32_t)((uint32_t)sum << fixed->before);
    const int64_t scaled = (int64_t)shifted * fixed->multipliers[channel] + fixed->constants[channel];
    return clipped((int32_t)(scaled >> 32) >> fixed->after[channel]);
}
