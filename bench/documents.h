// Documents: the contexts of a Long Document QA run, and the check of what comes back of them. A document is
// a chain of blocks whose payload is generated from its keys.
//
// Thread: Documents is constant; a Checker belongs to one thread.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "layout/geometry.h"

namespace kvpool::bench {

class Documents {
 public:
  // REQUIRES: a valid geometry; tokens, count > 0. tokens are rounded up to whole blocks.
  Documents(Geometry geometry, uint64_t tokens, uint32_t count, uint64_t seed);

  [[nodiscard]] const Geometry& geometry() const { return geometry_; }
  [[nodiscard]] uint64_t tokens() const { return tokens_; }
  [[nodiscard]] uint32_t count() const { return count_; }
  [[nodiscard]] uint32_t blocks() const { return blocks_; }  // of one document
  [[nodiscard]] BlockKey key(uint32_t document, uint32_t block) const;
  // What a retrieve of one document delivers: of a sliding-window layer, the last block alone.
  [[nodiscard]] uint64_t delivered_bytes() const { return geometry_.run_bytes(blocks_); }
  [[nodiscard]] bool is_delivered(uint32_t block, uint32_t segment) const {
    return block + 1 == blocks_ || !geometry_.is_window(segment);
  }
  // What storing one document takes, each segment rounded up to whole pages.
  [[nodiscard]] uint64_t stored_bytes() const { return blocks_ * padded_block_bytes(); }
  [[nodiscard]] uint64_t padded_block_bytes() const;

 private:
  Geometry geometry_;
  uint64_t tokens_;
  uint32_t count_;
  uint32_t blocks_;
  uint64_t seed_;
};

[[nodiscard]] constexpr uint64_t round_up(uint64_t bytes, uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// Which document each question is about: every document once, in an order drawn from the seed, and again
// where there are more questions than documents.
[[nodiscard]] std::vector<uint32_t> question_order(uint32_t documents, uint32_t questions, uint64_t seed);

enum class Check : uint8_t { stamps, every_byte };

// Counts the blocks of which anything came back wrong or not at all, once a question.
class Checker {
 public:
  Checker(const Documents& documents, uint32_t questions, Check check);
  // `bytes` is the whole segment.
  void look(uint32_t question, uint32_t document, uint32_t block, uint32_t segment,
            std::span<const std::byte> bytes);
  // The wrong blocks so far, and those of which a segment that is delivered was never looked at.
  [[nodiscard]] uint64_t wrong_blocks() const;

 private:
  struct Block {
    uint32_t segments_seen = 0;
    bool wrong = false;
  };
  const Documents& documents_;
  Check check_;
  std::vector<Block> blocks_;    // [questions][blocks]
  uint32_t segments_inner_ = 0;  // delivered of a block that is not the last
};

}  // namespace kvpool::bench
