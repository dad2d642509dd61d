#include "xfer/cuda/paged_layout.h"

#include <algorithm>
#include <string>

#include "xfer/cuda/xxh3_blocks.h"

namespace kvpool {
namespace {

constexpr uint64_t bytes_max = uint64_t{1} << 48;

// What is wrong with a layer; null: nothing.
const char* fault_of(const PagedLayer& layer) {
  if (layer.base == nullptr) return "has no memory";
  if (layer.pages == 0) return "has no pages";
  if (layer.pieces.empty()) return "has pages without pieces";
  if (layer.page_stride_bytes > bytes_max / layer.pages) return "is larger than 2^48 bytes";
  for (const PagedPiece& piece : layer.pieces) {
    if (piece.length_bytes == 0) return "has a piece of no bytes";
    if (piece.offset_bytes > bytes_max || piece.length_bytes > bytes_max) return "is larger than 2^48 bytes";
  }
  return layer.page_bytes() > bytes_max ? "is larger than 2^48 bytes" : nullptr;
}

}  // namespace

uint64_t PagedLayer::extent_bytes() const {
  uint64_t page_end = 0;
  for (const PagedPiece& piece : pieces) {
    page_end = std::max(page_end, piece.offset_bytes + piece.length_bytes);
  }
  return (pages - uint64_t{1}) * page_stride_bytes + page_end;
}

bool PagedLayer::can_be_checked() const {
  constexpr uint64_t word_bytes = 16;
  const bool pages_fit = (reinterpret_cast<uint64_t>(base) | page_stride_bytes) % word_bytes == 0;
  return pages_fit && std::ranges::all_of(pieces, [](const PagedPiece& piece) {
           return piece.offset_bytes % word_bytes == 0 && piece.length_bytes % xxh3::block_bytes == 0;
         });
}

Status check_layers(std::span<const PagedLayer> layers) {
  if (layers.empty()) return fail(Errc::invalid_argument, "a paged cache has at least one layer");
  for (size_t i = 0; i < layers.size(); ++i) {
    if (const char* const fault = fault_of(layers[i]); fault != nullptr) {
      return fail(Errc::invalid_argument, "layer " + std::to_string(i) + " of the paged cache " + fault);
    }
  }
  return {};
}

}  // namespace kvpool
