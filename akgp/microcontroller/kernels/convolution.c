/* A convolution, or a fully connected layer as one of 1 x 1 pixels; with an addition to each result if `add`. */
typedef struct {
    fixed_t fixed;
    const int8_t *weights; /* rows: kernel rows, kernel columns, input channels, zeros up to `row`; see ROWS */
    const add_t *add;
    int32_t row; /* a multiple of 4 */
    int32_t channels, outputs, group_channels, group_outputs;
    int16_t height, width, out_height, out_width;
    int16_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left, dilation_y, dilation_x;
    uint8_t zero;   /* the input's zero point, which it is padded with */
    uint8_t direct; /* a pixel of the input is a column as it is */
} convolution_t;

/* The activations under the kernel for one output pixel, of the group of channels that begins at `in`. */
static void gather(const convolution_t *c, const uint8_t *in, int32_t y, int32_t x, uint8_t *column)
{
    const int32_t bytes = c->group_channels, first = x * c->stride_x - c->pad_left;
    const int whole = bytes == c->channels && c->dilation_x == 1 && first >= 0 && first + c->kernel_width <= c->width;
    for (int32_t i = 0; i < c->kernel_height; i++) {
        const int32_t row = y * c->stride_y - c->pad_top + i * c->dilation_y;
        const int inside = row >= 0 && row < c->height;
        if (inside && whole) {
            memcpy(column, in + (row * c->width + first) * c->channels, (size_t)(c->kernel_width * bytes));
            column += c->kernel_width * bytes;
            continue;
        }
        for (int32_t j = 0; j < c->kernel_width; j++, column += bytes) {
            const int32_t at = first + j * c->dilation_x;
            if (inside && at >= 0 && at < c->width)
                memcpy(column, in + (row * c->width + at) * c->channels, (size_t)bytes);
            else
                memset(column, c->zero, (size_t)bytes);
        }
    }
}

static inline void put(const convolution_t *c, int32_t pixel, int32_t channel, int32_t sum, uint8_t *out,
                       const uint8_t *residual)
{
    const int32_t at = pixel * c->outputs + channel;
    const uint8_t value = requantized(&c->fixed, channel, sum);
    out[at] = c->add ? added(c->add, value, residual[at]) : value;
}

/* scratch: 4 rows of bytes for `words`, then 2 for columns if not direct. out may be residual, since each element
   is read before it is written. */
static void convolution(const convolution_t *c, const uint8_t *in, uint8_t *out, uint8_t *scratch,
                        const uint8_t *residual)
{
    uint8_t *const gathered = scratch + 4 * c->row;
    columns_t columns = {0, 0, (uint32_t *)(void *)scratch};
    const int32_t pixels = c->out_height * c->out_width;
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t next = p + 1 < pixels ? p + 1 : p; /* the last one may be alone */
        for (int32_t group = 0; group * c->group_outputs < c->outputs; group++) {
            const uint8_t *const from = in + group * c->group_channels;
            columns.first = from + p * c->channels, columns.second = from + next * c->channels;
            if (!c->direct) {
                columns.first = gathered, columns.second = next != p ? gathered + c->row : gathered;
                gather(c, from, p / c->out_width, p % c->out_width, gathered);
                if (next != p)
                    gather(c, from, next / c->out_width, next % c->out_width, gathered + c->row);
            }
            prepare(&columns, c->row);
            const int32_t end = (group + 1) * c->group_outputs;
            int32_t pair = group * ((c->group_outputs + 1) / 2);
            for (int32_t o = end - c->group_outputs; o < end; o += 2, pair++) {
                const int32_t other = o + 1 < end ? o + 1 : o;
                int32_t sums[4];
                dots(&columns, ROWS(c->weights, c->row, o, pair), c->row, other == o, sums);
                put(c, p, o, sums[0], out, residual);
                if (other != o)
                    put(c, p, other, sums[1], out, residual);
                if (next != p)
                    put(c, next, o, sums[2], out, residual);
                if (next != p && other != o)
                    put(c, next, other, sums[3], out, residual);
            }
        }
    }
}
