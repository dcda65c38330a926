typedef struct {
    int16_t height, width, channels, out_height, out_width;
    int16_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
} window_t;

/* Where a window begins, or ends, within `size` pixels. */
static inline int32_t within(int32_t at, int32_t size)
{
    return at < 0 ? 0 : at > size ? size : at;
}
