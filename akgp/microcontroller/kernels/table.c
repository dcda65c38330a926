static void table_layer(const uint8_t *table, const uint8_t *in, uint8_t *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = table[in[i]];
}
