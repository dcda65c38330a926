static void max_pool(const window_t *w, const uint8_t *in, uint8_t *out)
{
    for (int32_t pixel = 0; pixel < w->out_height * w->out_width; pixel++, out += w->channels) {
        const int32_t y = pixel / w->out_width * w->stride_y - w->pad_top;
        const int32_t x = pixel % w->out_width * w->stride_x - w->pad_left;
        memset(out, 0, (size_t)w->channels);
        for (int32_t i = within(y, w->height); i < within(y + w->kernel_height, w->height); i++)
            for (int32_t j = within(x, w->width); j < within(x + w->kernel_width, w->width); j++) {
                const uint8_t *const from = in + (i * w->width + j) * w->channels;
                for (int32_t c = 0; c < w->channels; c++)
                    out[c] = from[c] > out[c] ? from[c] : out[c];
            }
    }
}
