#include "connectors/pages/page_layout.h"

#include <algorithm>
#include <cstring>

namespace kvpool::pages {
namespace {

constexpr uint64_t bytes_max = uint64_t{1} << 48;

struct Dimension {
  uint64_t size = 0;
  uint64_t stride_bytes = 0;
};

}  // namespace

std::optional<std::vector<Piece>> page_pieces(std::span<const uint64_t> shape,
                                              std::span<const uint64_t> strides_bytes,
                                              uint64_t element_bytes) {
  if (shape.size() != strides_bytes.size() || element_bytes == 0) return {};
  std::vector<Dimension> dimensions;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 0 || shape[i] > bytes_max || strides_bytes[i] > bytes_max) return {};
    if (shape[i] > 1) dimensions.push_back({shape[i], strides_bytes[i]});
  }
  std::ranges::sort(dimensions, {}, &Dimension::stride_bytes);
  // From the innermost dimension on: what follows without a gap is one run; the others repeat it.
  uint64_t run_bytes = element_bytes;
  uint64_t extent_bytes = element_bytes;
  std::vector<uint64_t> starts = {0};
  for (const Dimension& dimension : dimensions) {
    if (dimension.stride_bytes < extent_bytes) return {};
    if (starts.size() == 1 && dimension.stride_bytes == run_bytes) {
      run_bytes *= dimension.size;
    } else {
      const std::vector<uint64_t> inner = std::move(starts);
      starts.clear();
      for (uint64_t i = 0; i < dimension.size; ++i) {
        for (const uint64_t start : inner) starts.push_back(i * dimension.stride_bytes + start);
      }
    }
    extent_bytes += (dimension.size - 1) * dimension.stride_bytes;
    if (extent_bytes > bytes_max) return {};
  }
  std::vector<Piece> pieces;
  for (const uint64_t start : starts) pieces.push_back({start, run_bytes});
  return pieces;
}

void gather(const Layer& layer, std::span<const int32_t> pages, std::byte* segment) {
  for (const int32_t number : pages) {
    const std::byte* const page = number < 0 ? nullptr : layer.page(static_cast<uint32_t>(number));
    for (const Piece& piece : layer.pieces) {
      if (page != nullptr) std::memcpy(segment, page + piece.offset_bytes, piece.length_bytes);
      segment += piece.length_bytes;
    }
  }
}

void scatter(const Layer& layer, std::span<const int32_t> pages, const std::byte* segment) {
  for (const int32_t number : pages) {
    std::byte* const page = number < 0 ? nullptr : layer.page(static_cast<uint32_t>(number));
    for (const Piece& piece : layer.pieces) {
      if (page != nullptr) std::memcpy(page + piece.offset_bytes, segment, piece.length_bytes);
      segment += piece.length_bytes;
    }
  }
}

}  // namespace kvpool::pages
