// The list of copies that a batch of segments comes to: what the copy engine and the kernel are given.
//
// Plain arithmetic into memory of the caller; nothing allocates but a message. No thread.
// Failure: list_pieces() refuses what lies outside of a layer, and a list that does not fit.

#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "xfer/cuda/copy_piece.h"
#include "xfer/cuda/paged_layout.h"

namespace kvpool {

struct PieceTotals {
  uint32_t pieces = 0;
  uint64_t bytes = 0;
};

// The pieces of all segments in their order, those that are neighbours on both sides joined, but for those of
// a segment with a check and others'. A page number below 0 is a page that is not there: its place in the
// segment is passed over. Refuses a check of what cannot be checked: a layer (can_be_checked()), or a segment
// without all of its pages.
// REQUIRES: layers that check_layers() accepts.
[[nodiscard]] Result<PieceTotals> list_pieces(std::span<const PagedLayer> layers,
                                              std::span<const PagedSegment> segments,
                                              std::span<const int32_t> pages, std::span<CopyPiece> room);

// Cuts the first `count` pieces so that none has more than bytes_max, in their order; how many there are
// then. None: the room is too small, and the list is as it was.
[[nodiscard]] std::optional<uint32_t> cut_pieces(std::span<CopyPiece> room, uint32_t count,
                                                 uint64_t bytes_max);

// What is to be checked of these segments, of which `pieces` are listed and cut; how many there are.
// REQUIRES: room for all segments with a check, of which each has a piece of its own.
[[nodiscard]] uint32_t list_checks(std::span<const PagedLayer> layers, std::span<const PagedSegment> segments,
                                   std::span<const int32_t> pages, std::span<const CopyPiece> pieces,
                                   std::span<CheckedPieces> room);

// Joins what are neighbours in host memory alone: one copy each, to or from packed memory.
struct HostRun {
  uint64_t host = 0;
  uint64_t bytes = 0;
  uint32_t pieces = 0;
};
// The run that begins with the first of these pieces and has at most bytes_max, but one piece at least.
// REQUIRES: pieces is not empty.
[[nodiscard]] HostRun host_run(std::span<const CopyPiece> pieces, uint64_t bytes_max);

}  // namespace kvpool
