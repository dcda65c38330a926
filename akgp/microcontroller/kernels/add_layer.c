static void add_layer(const add_t *add, const uint8_t *a, const uint8_t *b, uint8_t *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = added(add, a[i], b[i]);
}
