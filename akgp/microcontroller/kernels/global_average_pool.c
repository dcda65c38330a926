static void global_average_pool(const fixed_t *fixed, const uint8_t *in, uint8_t *out, int32_t pixels, int32_t channels)
{
    for (int32_t c = 0; c < channels; c++) {
        int32_t sum = 0;
        for (int32_t pixel = 0; pixel < pixels; pixel++)
            sum += in[pixel * channels + c];
        out[c] = requantized(fixed, 0, sum);
    }
}
