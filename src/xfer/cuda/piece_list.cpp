#include "xfer/cuda/piece_list.h"

#include <algorithm>
#include <string>

namespace kvpool {
namespace {

class Writer {
 public:
  explicit Writer(std::span<CopyPiece> room) : room_(room) {}

  [[nodiscard]] bool add(uint64_t host, uint64_t device, uint64_t bytes) {
    totals_.bytes += bytes;
    if (totals_.pieces > apart_) {
      CopyPiece& last = room_[totals_.pieces - 1];
      if (last.host + last.bytes == host && last.device + last.bytes == device) {
        last.bytes += bytes;
        return true;
      }
    }
    if (totals_.pieces == room_.size()) return false;
    room_[totals_.pieces++] = {host, device, bytes};
    return true;
  }
  // What comes is not joined with what is there.
  void keep_apart() { apart_ = totals_.pieces; }
  [[nodiscard]] PieceTotals totals() const { return totals_; }

 private:
  std::span<CopyPiece> room_;
  PieceTotals totals_;
  uint32_t apart_ = 0;
};

tl::unexpected<Error> bad(size_t segment, const std::string& what) {
  return fail(Errc::invalid_argument, "segment " + std::to_string(segment) + " of the batch " + what);
}

}  // namespace

Result<PieceTotals> list_pieces(std::span<const PagedLayer> layers, std::span<const PagedSegment> segments,
                                std::span<const int32_t> pages, std::span<CopyPiece> room) {
  Writer writer(room);
  for (size_t i = 0; i < segments.size(); ++i) {
    const PagedSegment& segment = segments[i];
    if (segment.layer >= layers.size()) return bad(i, "names layer " + std::to_string(segment.layer));
    if (segment.pages_first > pages.size() || segment.pages_count > pages.size() - segment.pages_first) {
      return bad(i, "names more pages than the batch lists");
    }
    const PagedLayer& layer = layers[segment.layer];
    const std::span<const int32_t> its_pages = pages.subspan(segment.pages_first, segment.pages_count);
    if (segment.check) {
      const bool is_whole = std::ranges::none_of(its_pages, [](int32_t page) { return page < 0; });
      if (!layer.can_be_checked() || !is_whole || its_pages.empty())
        return bad(i, "cannot be checked in GPU memory");
      writer.keep_apart();
    }
    const auto base = reinterpret_cast<uint64_t>(layer.base);
    const uint64_t page_bytes = layer.page_bytes();
    auto host = reinterpret_cast<uint64_t>(segment.host);
    for (const int32_t number : its_pages) {
      if (number >= 0 && static_cast<uint32_t>(number) >= layer.pages) {
        return bad(i, "names page " + std::to_string(number));
      }
      if (number >= 0) {
        const uint64_t page = base + static_cast<uint32_t>(number) * layer.page_stride_bytes;
        uint64_t place = host;
        for (const PagedPiece& piece : layer.pieces) {
          if (!writer.add(place, page + piece.offset_bytes, piece.length_bytes)) {
            return fail(Errc::too_large, "a batch has at most " + std::to_string(room.size()) + " pieces");
          }
          place += piece.length_bytes;
        }
      }
      host += page_bytes;
    }
    if (segment.check) writer.keep_apart();
  }
  return writer.totals();
}

std::optional<uint32_t> cut_pieces(std::span<CopyPiece> room, uint32_t count, uint64_t bytes_max) {
  const auto parts_of = [&](const CopyPiece& piece) { return (piece.bytes + bytes_max - 1) / bytes_max; };
  uint64_t total = 0;
  for (const CopyPiece& piece : room.first(count)) total += parts_of(piece);
  if (total > room.size()) return {};
  // From the last one on, so that nothing is written over that is still to be cut.
  uint64_t end = total;
  for (uint32_t i = count; i > 0 && end > i; --i) {
    const CopyPiece piece = room[i - 1];
    for (uint64_t part = parts_of(piece); part > 0; --part) {
      const uint64_t offset = (part - 1) * bytes_max;
      room[--end] = {piece.host + offset, piece.device + offset, std::min(bytes_max, piece.bytes - offset)};
    }
  }
  return static_cast<uint32_t>(total);
}

uint32_t list_checks(std::span<const PagedLayer> layers, std::span<const PagedSegment> segments,
                     std::span<const int32_t> pages, std::span<const CopyPiece> pieces,
                     std::span<CheckedPieces> room) {
  uint32_t count = 0;
  uint32_t next = 0;          // piece
  uint64_t listed_bytes = 0;  // of those before it
  const auto skip_to = [&](uint64_t bytes) {
    for (; next < pieces.size() && listed_bytes < bytes; ++next) listed_bytes += pieces[next].bytes;
  };
  uint64_t begin = 0;
  for (const PagedSegment& segment : segments) {
    const auto its_pages = pages.subspan(segment.pages_first, segment.pages_count);
    const auto listed = std::ranges::count_if(its_pages, [](int32_t page) { return page >= 0; });
    const uint64_t end = begin + layers[segment.layer].page_bytes() * static_cast<uint64_t>(listed);
    if (segment.check) {
      skip_to(begin);
      const uint32_t first = next;
      skip_to(end);
      room[count++] = {segment.check->seed, segment.check->sum, first, next - first};
    }
    begin = end;
  }
  return count;
}

HostRun host_run(std::span<const CopyPiece> pieces, uint64_t bytes_max) {
  HostRun run{.host = pieces[0].host, .bytes = pieces[0].bytes, .pieces = 1};
  for (const CopyPiece& piece : pieces.subspan(1)) {
    if (piece.host != run.host + run.bytes || run.bytes + piece.bytes > bytes_max) break;
    run.bytes += piece.bytes;
    ++run.pieces;
  }
  return run;
}

}  // namespace kvpool
