/* The channels of one input, `channels` of `all` in a pixel of the output. */
static void concat_part(const uint8_t *table, const uint8_t *in, uint8_t *out, int32_t pixels, int32_t channels, int32_t all)
{
    for (int32_t pixel = 0; pixel < pixels; pixel++, out += all)
        for (int32_t c = 0; c < channels; c++)
            out[c] = table[*in++];
}
