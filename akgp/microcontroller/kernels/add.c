/* a + b of two scales. */
typedef struct {
    int64_t constant;
    int32_t a, b;
} add_t;

static inline uint8_t added(const add_t *add, uint8_t a, uint8_t b)
{
    const int64_t sum = (int64_t)(a << 4) * add->a + ((int64_t)(b << 4) * add->b + add->constant);
    return clipped((int32_t)(sum >> 32));
}
