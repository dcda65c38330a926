/* A convolution of each channel by itself. */
#define LARGEST_KERNEL 49
typedef struct {
    fixed_t fixed;
    const int8_t *weights; /* [kernel rows][kernel columns][channels] */
    const add_t *add;
    int16_t height, width, channels, out_height, out_width;
    int16_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left, dilation_y, dilation_x;
    uint8_t zero;
} depthwise_t;

/* padding: a pixel of zero points: channels bytes. */
static void depthwise(const depthwise_t *d, const uint8_t *in, uint8_t *out, uint8_t *padding, const uint8_t *residual)
{
    const uint8_t *taps[LARGEST_KERNEL];
    const int32_t count = d->kernel_height * d->kernel_width;
    memset(padding, d->zero, (size_t)d->channels);
    for (int32_t pixel = 0; pixel < d->out_height * d->out_width; pixel++) {
        const int32_t top = pixel / d->out_width * d->stride_y - d->pad_top;
        const int32_t left = pixel % d->out_width * d->stride_x - d->pad_left;
        for (int32_t tap = 0; tap < count; tap++) {
            const int32_t y = top + tap / d->kernel_width * d->dilation_y;
            const int32_t x = left + tap % d->kernel_width * d->dilation_x;
            const int inside = y >= 0 && y < d->height && x >= 0 && x < d->width;
            taps[tap] = inside ? in + (y * d->width + x) * d->channels : padding;
        }
        for (int32_t channel = 0; channel < d->channels; channel++) {
            const int8_t *weight = d->weights + channel;
            int32_t sum = 0;
            for (int32_t tap = 0; tap < count; tap++, weight += d->channels)
                sum += taps[tap][channel] * *weight;
            const uint8_t value = requantized(&d->fixed, channel, sum);
            *out++ = d->add ? added(d->add, value, *residual++) : value;
        }
    }
}
