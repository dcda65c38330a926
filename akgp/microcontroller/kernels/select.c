#define ZEROS 65535 /* the index of a channel of zeros */

/* Of each pixel's `all` channels those of `index`, `channels` of them. */
static void select_channels(const uint16_t *index, const uint8_t *in, uint8_t *out, int32_t pixels, int32_t all, int32_t channels, uint8_t zero)
{
    for (int32_t pixel = 0; pixel < pixels; pixel++, in += all)
        for (int32_t c = 0; c < channels; c++)
            *out++ = index[c] == ZEROS ? zero : in[index[c]];
}
