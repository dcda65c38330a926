/* fixed: by the number of pixels of a window that lie within the feature map. */
static void average_pool(const window_t *w, const fixed_t *fixed, const uint8_t *in, uint8_t *out)
{
    for (int32_t pixel = 0; pixel < w->out_height * w->out_width; pixel++) {
        const int32_t y = pixel / w->out_width * w->stride_y - w->pad_top;
        const int32_t x = pixel % w->out_width * w->stride_x - w->pad_left;
        const int32_t top = within(y, w->height), bottom = within(y + w->kernel_height, w->height);
        const int32_t left = within(x, w->width), right = within(x + w->kernel_width, w->width);
        for (int32_t c = 0; c < w->channels; c++) {
            int32_t sum = 0;
            for (int32_t i = top; i < bottom; i++)
                for (int32_t j = left; j < right; j++)
                    sum += in[(i * w->width + j) * w->channels + c];
            *out++ = requantized(fixed, (bottom - top) * (right - left), sum);
        }
    }
}
