// The table of the packed kernels with AVX-512: what the other packed_*_avx512 texts define.

namespace quest {
namespace {

constexpr PackedKernels kVnniPacked = {
    .unpack_row = unpack_row,
    .x_row_bytes = x_row_bytes,
    .pack_x = pack_x,
    .dot = dot,
    .pack_signs = pack_signs,
    .pack_place = pack_place,
    .xor_dot = xor_dot,
    .pack_bit_pairs = pack_bit_pairs,
    .xor_pairs_dot = kCountsBits ? xor_pairs_dot<kHeldPairs> : nullptr,
    .xor_tile = xor_tile<kXorRows>,
    .pack_sign_panel = pack_sign_panel,
    .counts_bits = kCountsBits,
    .xor_rows = kXorRows,
    .xor_columns = kXorColumns,
    .finish_row = finish_row,
    .finish_digits = finish_digits,
};

}  // namespace
}  // namespace quest
