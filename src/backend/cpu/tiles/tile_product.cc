// Packing, blocking and threads of products in tiles.
#include "backend/cpu/tiles/tile_product.h"

#include <algorithm>
#include <cassert>
#include <vector>

#include "backend/cpu/parallel.h"
#include "backend/cpu/quantized/quant_kernels.h"
#include "core/division.h"

namespace quest {
namespace {

/// Groups of a packed bundle of rows. Sums between passes cost up to 10 ns a step of 25; where more
/// groups than these are one pass, too few columns fit beside each other, and rows are packed too
/// often. More are cut into passes that leave room for the sums. Measured on AMX.
constexpr std::int64_t kMostGroupsInOnePass = 34;
constexpr std::int64_t kMostGroups = 16;
/// The same in vectors, for which columns may come from the third level; measured on a Zen 4.
constexpr std::int64_t kMostGroupsInVectors = 64;
/// Bytes of packed columns, in one pass and in several, and of these with the sums between passes.
/// Of 2 MiB of second-level cache 1.25 MiB are read at full speed, and what streams through takes a
/// part of them.
constexpr std::int64_t kColumnBytesOnePass = 1024 << 10;
constexpr std::int64_t kColumnBytes = 640 << 10;
constexpr std::int64_t kCacheBytes = 1280 << 10;
constexpr std::int64_t kBlockBytes = 4 * kTileLanes * kTileLanes;
/// Bundles of rows that are packed together where they are columns in memory, so that whole lines
/// are read; in vectors, whose passes are longer, only as many as fill a line.
constexpr std::int64_t kRowsAtOnce = 4;
constexpr std::int64_t kRowsAtOnceInVectors = 1;
/// Bytes of an output that is larger than what caches keep for its reader: written past them, so
/// that its lines are not read first.
constexpr std::int64_t kStreamedBytes = 32 << 20;
/// Rows whose distance is a multiple of this meet in one or two sets of the first-level cache.
constexpr std::int64_t kCrowdedBytes = 2048;
constexpr std::int64_t kValuesInGroup = kTileDepthBytes / 2;  // of bf16
constexpr std::int64_t kPageBytes = 4096;
constexpr std::int64_t kLargePageBytes = 2 << 20;
/// Multiplications below which a thread of its own does not pay.
constexpr std::int64_t kProductsPerThread = 1 << 21;

/// The largest part when `count` is cut evenly into as few parts as `most` allows.
std::int64_t even_part(std::int64_t count, std::int64_t most) {
  return divide_up(count, divide_up(count, most));
}

FloatRow element_address(Tensor x, std::int64_t i, std::int64_t j) {
  if (x.dtype == DType::kBF16) return {x.row<BFloat16>(i) + j, true};
  return {x.row<float>(i) + j, false};
}

/// Bundles of rows and columns, and the groups of summed values over which sums are taken at once.
struct Block {
  IndexRange rows, columns, groups;
};

/// How a product is cut: bundles of rows or columns go to threads, and each thread takes blocks of
/// its part, which share the cache.
struct Cut {
  std::int64_t rows, columns, groups;  ///< of the whole
  bool splits_rows;                    ///< among threads, else columns
  std::int64_t grain;                  ///< bundles of that side that are worth a thread
  bool one_pass;
  std::int64_t rows_at_once;  ///< bundles that are packed together where they are columns
  std::int64_t groups_in_pass, columns_in_block, rows_in_block;
  bool packs_ahead;  ///< all columns, which several blocks of rows would otherwise pack again

  Cut(const TileShape& shape, int threads)
      : rows(divide_up(shape.rows, kTileLanes)),
        columns(divide_up(shape.columns, kTileLanes)),
        groups(divide_up(shape.summed * shape.value_bytes, kTileDepthBytes)),
        // The shorter side is packed by every thread, so the longer one is split.
        splits_rows(rows >= columns),
        one_pass(groups <= (shape.in_vectors ? kMostGroupsInVectors : kMostGroupsInOnePass)),
        rows_at_once(shape.in_vectors ? kRowsAtOnceInVectors : kRowsAtOnce),
        groups_in_pass(
            one_pass ? groups
                     : even_part(groups, shape.in_vectors ? kMostGroupsInVectors : kMostGroups)) {
    const std::int64_t side = splits_rows ? rows : columns;
    grain = divide_up(kProductsPerThread * side, shape.rows * shape.columns * shape.summed);
    const std::int64_t part = divide_up(side, parallel_parts(threads, side, grain));
    const std::int64_t part_rows = splits_rows ? part : rows;
    const std::int64_t part_columns = splits_rows ? columns : part;
    const std::int64_t column_bytes = one_pass ? kColumnBytesOnePass : kColumnBytes;
    columns_in_block =
        even_part(part_columns, std::max<std::int64_t>(1, column_bytes / pass_bytes()));
    rows_in_block = part_rows;
    if (!one_pass) {
      const std::int64_t left = kCacheBytes - columns_in_block * pass_bytes();
      rows_in_block =
          even_part(part_rows, std::max<std::int64_t>(1, left / (columns_in_block * kBlockBytes)));
    }
    packs_ahead = part_rows > 2 * rows_in_block;
  }

  /// Of a packed bundle in a pass.
  std::int64_t pass_bytes() const { return groups_in_pass * kTileGroupBytes; }
  /// Of all columns, packed.
  std::int64_t all_columns_bytes() const { return columns * groups * kTileGroupBytes; }
  /// What a thread needs, in large pages where it is large.
  std::int64_t thread_bytes() const {
    const std::int64_t partial = one_pass ? 0 : rows_in_block * columns_in_block * kBlockBytes;
    const std::int64_t bytes =
        (rows_at_once + (packs_ahead ? 0 : columns_in_block)) * pass_bytes() + partial;
    const std::int64_t page = bytes > kLargePageBytes / 2 ? kLargePageBytes : kPageBytes;
    return divide_up(bytes, page) * page;
  }
  IndexRange pass_from(std::int64_t group) const {
    return {group, std::min(group + groups_in_pass, groups)};
  }
  /// Where a pass over the columns from `column` on lies among all of them, packed.
  std::int64_t packed_offset(std::int64_t column, IndexRange pass) const {
    return (pass.begin * columns + column * pass.count()) * kTileGroupBytes;
  }
  /// The blocks of a part, in the order in which its thread takes them.
  std::vector<Block> blocks(IndexRange part) const {
    const IndexRange part_rows = splits_rows ? part : IndexRange{0, rows};
    const IndexRange part_columns = splits_rows ? IndexRange{0, columns} : part;
    std::vector<Block> all;
    for (std::int64_t c = part_columns.begin; c < part_columns.end; c += columns_in_block) {
      for (std::int64_t r = part_rows.begin; r < part_rows.end; r += rows_in_block) {
        for (std::int64_t g = 0; g < groups; g += groups_in_pass) {
          all.push_back({{r, std::min(r + rows_in_block, part_rows.end)},
                         {c, std::min(c + columns_in_block, part_columns.end)},
                         pass_from(g)});
        }
      }
    }
    return all;
  }
};

void pack(std::uint8_t* out, const TileSource& source, IndexRange bundles, IndexRange groups) {
  source.pack(out, source,
              {bundles.begin * kTileLanes, bundles.count(), groups.begin, groups.count()});
}

/// The memory of bundles of a source whose values have `bytes` bytes.
LinesAhead lines_of(const TileSource& s, std::int64_t bytes, IndexRange bundles,
                    IndexRange groups) {
  const std::int64_t lane = bundles.begin * kTileLanes;
  const std::int64_t lanes = std::min(bundles.end * kTileLanes, s.lanes) - lane;
  if (lanes <= 0 || s.stride == 0) return {};
  const std::int64_t first = groups.begin * kTileDepthBytes / bytes;
  const std::int64_t count = std::min(groups.end * kTileDepthBytes / bytes, s.summed) - first;
  const auto* const data = static_cast<const std::uint8_t*>(s.data);
  const std::int64_t stride = s.stride * bytes;
  if (s.lanes_are_rows) {
    return {data + lane * stride + first * bytes, stride, divide_up(count * bytes, 64), lanes};
  }
  return {data + first * stride + lane * bytes, stride, divide_up(lanes * bytes, 64), count};
}

bool may_stream(const TileProduct& product) {
  const Tensor& out = product.out.y;
  // A rotary end reads what has been written.
  return product.out.write == Write::kSet && product.out.rotary == nullptr &&
         out.dtype == DType::kF32 && out.bytes() >= std::size_t{kStreamedBytes} &&
         out.row_stride % 16 == 0 && reinterpret_cast<std::uintptr_t>(out.data) % 64 == 0;
}

/// The part of a product that one thread computes.
class ThreadProduct {
 public:
  /// `packed` are all columns, or null where the thread packs its own.
  ThreadProduct(void (*multiply)(const TileStrip&), const TileProduct& product, const Cut& cut,
                std::uint8_t* scratch, const std::uint8_t* packed)
      : product_(product),
        cut_(cut),
        packed_(packed),
        multiply_(multiply),
        streams_(may_stream(product)),
        a_(scratch),
        b_(a_ + cut.rows_at_once * cut.pass_bytes()),
        partial_(b_ + (packed != nullptr ? 0 : cut.columns_in_block * cut.pass_bytes())) {}

  void compute(const std::vector<Block>& blocks) {
    const std::int64_t at_once = product_.a.lanes_are_rows ? 1 : cut_.rows_at_once;
    const auto rows_from = [&](const Block& block, std::int64_t row) {
      return IndexRange{row, std::min(row + at_once, block.rows.end)};
    };
    const Block* before = nullptr;
    for (const Block& block : blocks) {
      const Block* const after = &block + 1 == blocks.data() + blocks.size() ? &block : &block + 1;
      if (packed_ == nullptr && (before == nullptr || !same_columns(*before, block))) {
        pack(b_, product_.b, block.columns, block.groups);
      }
      for (std::int64_t row = block.rows.begin; row < block.rows.end; row += at_once) {
        const IndexRange rows = rows_from(block, row);
        if (product_.a.pack != nullptr) pack(a_, product_.a, rows, block.groups);
        LinesAhead ahead =
            rows.end < block.rows.end
                ? lines_of(product_.a, value_bytes(), rows_from(block, rows.end), block.groups)
                : lines_of(product_.a, value_bytes(), rows_from(*after, after->rows.begin),
                           after->groups);
        const std::int64_t share = divide_up(ahead.rows, rows.count());
        for (std::int64_t i = rows.begin; i < rows.end; ++i) {
          LinesAhead part = ahead;
          part.rows = std::min(share, ahead.rows);
          multiply_strip(block, i, a_ + (i - row) * block.groups.count() * kTileGroupBytes, part);
          ahead.data += share * ahead.stride;
          ahead.rows -= part.rows;
        }
      }
      before = &block;
    }
  }

 private:
  static bool same_columns(const Block& a, const Block& b) {
    return a.columns == b.columns && a.groups == b.groups;
  }

  std::int64_t value_bytes() const { return product_.scales != nullptr ? 1 : 2; }

  void multiply_strip(const Block& block, std::int64_t row, const std::uint8_t* a,
                      const LinesAhead& ahead) {
    const std::int64_t i = row * kTileLanes;
    const std::int64_t j = block.columns.begin * kTileLanes;
    TileStrip strip{};
    strip.a = a;
    strip.a_lanes_are_rows = product_.a.lanes_are_rows;
    if (product_.a.pack == nullptr) {
      strip.a_row_bytes = product_.a.stride * value_bytes();
      strip.a = static_cast<const std::uint8_t*>(product_.a.data) + i * strip.a_row_bytes +
                block.groups.begin * kTileDepthBytes;
    }
    strip.b =
        packed_ == nullptr ? b_ : packed_ + cut_.packed_offset(block.columns.begin, block.groups);
    strip.groups = block.groups.count();
    strip.rows = static_cast<std::int32_t>(std::min(kTileLanes, product_.a.lanes - i));
    strip.columns = std::min(block.columns.end * kTileLanes, product_.b.lanes) - j;
    strip.partial = partial_ + (row - block.rows.begin) * block.columns.count() * kBlockBytes;
    strip.reads_partial = block.groups.begin > 0;
    strip.writes_partial = block.groups.end < cut_.groups;
    strip.out = element_address(product_.out.y, i, j);
    strip.out_stride = product_.out.y.row_stride;
    strip.add = product_.out.write == Write::kAdd;
    strip.streams = streams_;
    strip.ahead = ahead;
    if (product_.scales != nullptr) {
      const TileScales& s = *product_.scales;
      strip.scales = {s.shift, s.row_biases + i, s.column_biases + j, s.row_scales + i,
                      s.column_scales + j};
    }
    multiply_(strip);
    if (cut_.splits_rows && !strip.writes_partial) {
      product_.out.wrote({i, i + strip.rows}, {j, j + strip.columns});
    }
  }

  const TileProduct& product_;
  const Cut& cut_;
  const std::uint8_t* packed_;
  void (*multiply_)(const TileStrip&);
  bool streams_;
  std::uint8_t* a_;        ///< packed bundles of rows
  std::uint8_t* b_;        ///< packed bundles of columns
  std::uint8_t* partial_;  ///< sums of a block between its passes
};

void pack_all_columns(std::uint8_t* packed, int threads, const TileSource& b, const Cut& cut) {
  const std::int64_t grain = divide_up(64, cut.groups);
  parallel_for(threads, cut.columns, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t g = 0; g < cut.groups; g += cut.groups_in_pass) {
      const IndexRange pass = cut.pass_from(g);
      pack(packed + cut.packed_offset(begin, pass), b, {begin, end}, pass);
    }
  });
}

}  // namespace

TileScratch tile_scratch(const TileShape& shape, int threads) {
  const Cut cut(shape, threads);
  return {threads * cut.thread_bytes(), cut.packs_ahead ? cut.all_columns_bytes() : 0};
}

TileBlocks tile_blocks(const TileShape& shape, int threads) {
  const Cut cut(shape, threads);
  return {divide_up(cut.groups, cut.groups_in_pass), cut.columns_in_block * kTileLanes};
}

void multiply_tiles(const TileContext& context, const TileProduct& product) {
  assert(product.a.summed == product.b.summed);
  const Tensor& y = product.out.y;
  assert(y.rows() == product.a.lanes && y.cols() == product.b.lanes);
  if (y.numel() == 0) return;
  const TileShape shape{product.a.lanes, product.b.lanes, product.a.summed,
                        product.scales != nullptr ? 1 : 2, context.in_vectors};
  const Cut cut(shape, context.threads);
  const TileScratch bytes = tile_scratch(shape, context.threads);
  const auto scratch = [&](Workspace::Slot slot, std::int64_t size) {
    return reinterpret_cast<std::uint8_t*>(
        context.workspace.bytes(slot, static_cast<std::size_t>(size)));
  };
  std::uint8_t* const own = scratch(Workspace::Slot::kTiles, bytes.blocks);
  std::uint8_t* packed = nullptr;
  if (cut.packs_ahead) {
    packed = scratch(Workspace::Slot::kTileColumns, bytes.columns);
    pack_all_columns(packed, context.threads, product.b, cut);
  }
  parallel_for(context.threads, cut.splits_rows ? cut.rows : cut.columns, cut.grain,
               [&](std::int64_t begin, std::int64_t end, int thread) {
                 ThreadProduct part(context.multiply, product, cut,
                                    own + thread * cut.thread_bytes(), packed);
                 part.compute(cut.blocks({begin, end}));
               });
  if (!cut.splits_rows) product.out.wrote_all(context.threads);
}

const Bf16TileKernels* bf16_tiles(Isa isa, DType type, std::int64_t rows) {
  const Bf16TileKernels* const tiles = quant_kernels(isa).bf16_tiles;
  return type == DType::kBF16 && tiles != nullptr && rows >= tiles->least_rows ? tiles : nullptr;
}

TileSource rows_source(Tensor x, PackTiles pack) {
  return {x.data, x.row_stride, x.rows(), x.cols(), true, nullptr, pack};
}

TileSource first_rows_source(const Bf16TileKernels& tiles, Tensor x) {
  const bool in_place =
      tiles.in_vectors && x.cols() % kValuesInGroup == 0 && x.row_stride * 2 % kCrowdedBytes != 0;
  return rows_source(x, in_place ? nullptr : tiles.pack_rows);
}

TileSource columns_source(Tensor x, PackTiles pack) {
  return {x.data, x.row_stride, x.cols(), x.rows(), false, nullptr, pack};
}

}  // namespace quest
