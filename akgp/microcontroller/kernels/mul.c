/* a * b; b has one element a channel if `broadcast`, else as many as a. */
typedef struct {
    fixed_t fixed;
    uint8_t zero_a, zero_b, broadcast;
} mul_t;

static void mul_layer(const mul_t *m, const uint8_t *a, const uint8_t *b, uint8_t *out, int32_t pixels, int32_t channels)
{
    for (int32_t pixel = 0; pixel < pixels; pixel++)
        for (int32_t channel = 0; channel < channels; channel++) {
            const int32_t other = b[m->broadcast ? channel : pixel * channels + channel];
            *out++ = requantized(&m->fixed, 0, (*a++ - m->zero_a) * (other - m->zero_b));
        }
}
