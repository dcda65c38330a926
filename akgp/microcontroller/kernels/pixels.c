/* tables: by channel and pixel value; the normalization and the quantization of the input. */
static void quantize_pixels(const uint8_t tables[][256], const uint8_t *pixels, uint8_t *out, int32_t count, int32_t channels)
{
    for (int32_t pixel = 0; pixel < count; pixel++)
        for (int32_t c = 0; c < channels; c++)
            *out++ = tables[c][*pixels++];
}
