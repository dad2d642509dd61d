#include "bench/documents.h"

#include <numeric>
#include <utility>

#include "base/prng.h"
#include "bench/payload.h"

namespace kvpool::bench {

Documents::Documents(Geometry geometry, uint64_t tokens, uint32_t count, uint64_t seed)
    : geometry_(std::move(geometry)),
      tokens_(tokens),
      count_(count),
      blocks_(static_cast<uint32_t>((tokens + geometry_.block_tokens - 1) / geometry_.block_tokens)),
      seed_(seed) {}

BlockKey Documents::key(uint32_t document, uint32_t block) const {
  const uint64_t number = uint64_t{document} << 32 | block;
  return {mix64(seed_ ^ mix64(number + 1)), mix64(seed_ + mix64(number ^ 0x6b76706f6f6cULL))};
}

uint64_t Documents::padded_block_bytes() const {
  uint64_t bytes = 0;
  for (const uint32_t segment : geometry_.segment_bytes) bytes += round_up(segment, payload_page_bytes);
  return bytes;
}

std::vector<uint32_t> question_order(uint32_t documents, uint32_t questions, uint64_t seed) {
  Prng random(seed);
  std::vector<uint32_t> order;
  std::vector<uint32_t> deck(documents);
  while (order.size() < questions) {
    std::iota(deck.begin(), deck.end(), 0U);
    for (size_t i = deck.size(); i > 1; --i) std::swap(deck[i - 1], deck[random.below(i)]);
    order.insert(order.end(), deck.begin(), deck.end());
  }
  order.resize(questions);
  return order;
}

Checker::Checker(const Documents& documents, uint32_t questions, Check check)
    : documents_(documents), check_(check), blocks_(size_t{questions} * documents.blocks()) {
  for (uint32_t s = 0; s < documents.geometry().segments(); ++s) {
    segments_inner_ += documents.geometry().is_window(s) ? 0 : 1;
  }
}

void Checker::look(uint32_t question, uint32_t document, uint32_t block, uint32_t segment,
                   std::span<const std::byte> bytes) {
  Block& seen = blocks_[size_t{question} * documents_.blocks() + block];
  ++seen.segments_seen;
  const BlockKey key = documents_.key(document, block);
  const bool right = check_ == Check::stamps ? payload_stamps_match(bytes, key, segment)
                                             : payload_equals(bytes, key, segment);
  if (!right) seen.wrong = true;
}

uint64_t Checker::wrong_blocks() const {
  uint64_t wrong = 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const bool last = (i + 1) % documents_.blocks() == 0;
    const uint32_t delivered = last ? documents_.geometry().segments() : segments_inner_;
    if (blocks_[i].wrong || blocks_[i].segments_seen != delivered) ++wrong;
  }
  return wrong;
}

}  // namespace kvpool::bench
