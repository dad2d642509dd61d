// What tests of PageMover with a LateCopier share.
//
// Thread: the test's. Failure: the test fails.

#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "connectors/pages/late_copier.h"
#include "connectors/pages/mover_fixture.h"

namespace kvpool::pages {

inline constexpr uint64_t moment_us = 20'000;

class LateMoverTest : public PageMoverTest {
 protected:
  void start_late(const std::string& text, bool windows = false, uint64_t seed = 1) {
    start(text, windows);
    use_late(2 << 20, seed);
  }
  void use_late(uint64_t staging_bytes, uint64_t seed = 1) {
    ASSERT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK) << error_.message;
    late_ = std::make_shared<Late>();
    mover_ = open_mover(staging_bytes, std::make_unique<LateCopier>(late_, seed));
    ASSERT_NE(mover_, nullptr);
  }
  // A test that fails must not leave the mover waiting.
  void TearDown() override {
    if (late_ != nullptr) {
      late_->hold(Late::to_pages, false);
      late_->hold(Late::to_segments, false);
    }
    PageMoverTest::TearDown();
  }
  // Events 11, 12 and 13.
  static std::vector<LoadPart> in_parts() { return {{1, 11}, {4, 12}, {layers, 13}}; }
  // Of the only load so far, which has ended: each part's event came once, in order, and behind all segments
  // of the layers before its end; none of those came twice. Where it was over before the last came, nobody
  // was told to wait for them.
  void expect_events(uint64_t id, const std::vector<LoadPart>& parts, uint32_t blocks) {
    const bool told = std::ranges::any_of(
        events_, [&](const Event& event) { return event.id == id && event.kind == EventKind::ordered; });
    const std::lock_guard lock(late_->mutex);
    ASSERT_LE(late_->recorded.size(), parts.size());
    EXPECT_EQ(late_->recorded.size() == parts.size(), told);
    for (size_t i = 0; i < late_->recorded.size(); ++i) {
      EXPECT_EQ(late_->recorded[i].event, parts[i].event);
      for (uint32_t layer = 0; layer < parts[i].layers_end; ++layer) {
        EXPECT_EQ(late_->recorded[i].loaded[layer], blocks) << "layer " << layer << ", part " << i;
      }
    }
    for (uint32_t layer = 0; layer < layers; ++layer) {
      EXPECT_EQ(late_->loaded[layer], blocks) << "layer " << layer << ", in the end";
    }
  }

  std::shared_ptr<Late> late_;
};

}  // namespace kvpool::pages
