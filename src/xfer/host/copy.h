// One pass over a range: its checksum, its copy, both or neither. Any thread; cannot fail.
//
// Which bytes are summed: those of the source, piece by piece, right before the piece is copied out of the
// cache that the sum has filled. A source that somebody changes meanwhile breaks the contract and is
// harmless to others: a store then keeps a checksum that does not match its bytes, so every later read of it
// is a miss. A retrieve's source is a pinned extent or a staging slot, which nobody writes; its destination
// is never read. A drive may read into the consumer's buffer itself, and what is summed there is what the
// consumer has; where that does not fit, the engine reads once more into staging before it gives the block
// up.

#pragma once

#include <cstddef>
#include <cstdint>

namespace kvpool {

// Plain copy, past the cache where the range is too large for it to be found there later.
// REQUIRES: the ranges do not overlap.
void copy_bytes(std::byte* destination, const std::byte* source, size_t bytes);

// Copies, and returns the source's checksum (that of base/checksum.h).
[[nodiscard]] uint64_t copy_and_checksum(std::byte* destination, const std::byte* source, size_t bytes,
                                         uint64_t seed);

}  // namespace kvpool
