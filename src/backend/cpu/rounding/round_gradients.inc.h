// Rounding of gradients in loops that the compiler makes vectors of, for instruction sets without
// a form of their own: each kernels_rounding file of these includes it.

namespace quest {
namespace {

constexpr std::int64_t kGroup = 256;  // columns whose bits 16 Philox blocks hold
constexpr int kBlocks = 16;

/// The bits of 256 columns of a row: words[j / 32][j % 32 / 2] holds those of column j and its
/// neighbour.
struct RandomGroup {
  std::uint32_t words[8][kBlocks];
};

/// Philox 4x32 of the counters (first .. first + 15, row, 0, 0).
inline void philox(RandomGroup& out, const std::uint32_t* key, std::uint32_t first,
                   std::uint32_t row) {
  std::uint32_t a[kBlocks], b[kBlocks], c[kBlocks], d[kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    a[i] = first + static_cast<std::uint32_t>(i);
    b[i] = row;
    c[i] = 0;
    d[i] = 0;
  }
  std::uint32_t key0 = key[0], key1 = key[1];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const std::uint64_t p0 = std::uint64_t{kPhiloxMultiplier0} * a[i];
      const std::uint64_t p1 = std::uint64_t{kPhiloxMultiplier1} * c[i];
      a[i] = static_cast<std::uint32_t>(p1 >> 32) ^ b[i] ^ key0;
      b[i] = static_cast<std::uint32_t>(p1);
      c[i] = static_cast<std::uint32_t>(p0 >> 32) ^ d[i] ^ key1;
      d[i] = static_cast<std::uint32_t>(p0);
    }
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  for (int i = 0; i < kBlocks; ++i) {
    const std::uint32_t words[4] = {a[i], b[i], c[i], d[i]};
    for (int w = 0; w < 4; ++w) {
      out.words[2 * w][i] = words[w];
      out.words[2 * w + 1][i] = words[w] >> 8 | words[w] << 24;
    }
  }
}

inline float bits_to_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
inline std::uint32_t magnitude_bits(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffffu;
}

/// 32 values of a row from column j on, zeros after its end, in the order of paired_place.
struct Values32 {
  float v[32];
};
inline Values32 load32(const GradientRow& row, std::int64_t j) {
  const std::int64_t left = row.count - j;
  Values32 values;
  if (row.x.bf16) {
    std::uint16_t bits[32] = {};
    const auto* const from = static_cast<const std::uint16_t*>(row.x.data) + j;
    __builtin_memcpy(bits, from,
                     sizeof(std::uint16_t) * static_cast<unsigned>(left < 32 ? left : 32));
    for (int i = 0; i < 16; ++i) {
      values.v[i] = bits_to_float(static_cast<std::uint32_t>(bits[2 * i]) << 16);
      values.v[16 + i] = bits_to_float(static_cast<std::uint32_t>(bits[2 * i + 1]) << 16);
    }
  } else {
    float natural[32] = {};
    const auto* const from = static_cast<const float*>(row.x.data) + j;
    __builtin_memcpy(natural, from, sizeof(float) * static_cast<unsigned>(left < 32 ? left : 32));
    for (int i = 0; i < 16; ++i) {
      values.v[i] = natural[2 * i];
      values.v[16 + i] = natural[2 * i + 1];
    }
  }
  return values;
}

float largest_of_row(const GradientRow& row) {
  // As bits, magnitudes are in the order of integers, with NaN above all.
  std::uint32_t largest[32] = {};
  for (std::int64_t j = 0; j < row.count; j += 32) {
    const Values32 x = load32(row, j);
    for (int i = 0; i < 32; ++i) {
      const std::uint32_t bits = magnitude_bits(x.v[i] * row.column_factors[j + i]);
      largest[i] = bits > largest[i] ? bits : largest[i];
    }
  }
  std::uint32_t most = 0;
  for (int i = 0; i < 32; ++i) most = largest[i] > most ? largest[i] : most;
  return bits_to_float(most);
}

void largest_of_columns(float* largest, const GradientRow& row) {
  for (std::int64_t j = 0; j < row.count; j += 32) {
    const Values32 x = load32(row, j);
    for (int i = 0; i < 32; ++i) {
      const std::uint32_t bits = magnitude_bits(x.v[i] * row.row_factor);
      const std::uint32_t before = magnitude_bits(largest[j + i]);
      largest[j + i] = bits_to_float(bits > before ? bits : before);
    }
  }
}

/// The nearest integer, ties to even, of a value of magnitude below 2^23: with 2^23 added, no
/// fraction is left.
inline std::int32_t nearest(float value) {
  const float shifted = bits_to_float(magnitude_bits(value)) + 0x1p23f;
  std::uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  const auto magnitude = static_cast<std::int32_t>(bits - 0x4b000000u);
  return value < 0 ? -magnitude : magnitude;
}

std::int32_t round(std::int8_t* codes, const GradientRow& row, const std::uint32_t* key,
                   std::int64_t place, std::int64_t first) {
  std::int32_t sum = 0;
  RandomGroup random;
  for (std::int64_t j = 0; j < row.count; j += 32) {
    if (j % kGroup == 0) {
      philox(random, key, static_cast<std::uint32_t>((first + j) / kGroup * kBlocks),
             static_cast<std::uint32_t>(place));
    }
    const Values32 x = load32(row, j);
    const std::uint32_t* const pairs = random.words[j % kGroup / 32];
    std::int32_t rounded[32];
    for (int i = 0; i < 32; ++i) {
      const float factor = row.column_factors[j + i];
      const float value =
          row.columns_first ? x.v[i] * factor * row.row_factor : x.v[i] * row.row_factor * factor;
      const std::uint32_t u = i < 16 ? pairs[i] & 0xffffu : pairs[i - 16] >> 16;
      rounded[i] = (nearest(value) + static_cast<std::int32_t>(u)) >> 16;
    }
    std::int8_t ordered[32];
    for (int i = 0; i < 16; ++i) {
      ordered[2 * i] = static_cast<std::int8_t>(rounded[i]);
      ordered[2 * i + 1] = static_cast<std::int8_t>(rounded[16 + i]);
    }
    const std::int64_t left = row.count - j;
    if (left >= 32) {
      for (int i = 0; i < 32; ++i) sum += ordered[i];
      __builtin_memcpy(codes + j, ordered, sizeof ordered);
    } else {
      for (std::int64_t i = 0; i < left; ++i) sum += codes[j + i] = ordered[i];
    }
  }
  return sum;
}

constexpr RoundingKernels kRounding = {
    .largest_of_row = largest_of_row,
    .largest_of_columns = largest_of_columns,
    .round = round,
    .put_lines = put_lines,
    .put_tiles = nullptr,
};

}  // namespace
}  // namespace quest
