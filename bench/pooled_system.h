// PooledSystem: kvpool itself, through its C API, as a serving engine's connector uses it: match and pin a
// document once, then retrieve it layer by layer into a ring of recycled buffers, several tickets in flight.
//
//   pooled-direct       the configuration's devices, shares by bandwidth
//   striped-direct      the same with equal shares: what RAID 0 gives
//   pooled-files        the storage devices replaced by buffered chunk files
//   pooled-passthrough  as pooled-direct, over the passthrough devices
//
// Thread and failure: as System. Blocks that the pool does not bring back count as wrong.

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "bench/client.h"
#include "bench/files_storage.h"
#include "bench/longdoc_system.h"

namespace kvpool::bench {

// What one ticket brings: some segments of all blocks, or of a segment too large for that, some blocks.
struct LayerUnit {
  uint32_t segment_first = 0;
  uint32_t segment_count = 0;
  uint32_t block_first = 0;
  uint32_t blocks = 0;
};
// A document in units whose delivered bytes, each segment padded to whole pages, are at most unit_bytes_max,
// in layer order. REQUIRES: every segment fits one unit.
[[nodiscard]] std::vector<LayerUnit> layer_units(const Documents& documents, uint64_t unit_bytes_max);

class PooledSystem final : public System {
 public:
  [[nodiscard]] static Result<std::unique_ptr<System>> open(Machine& machine, Config config,
                                                            const Profile& profile,
                                                            const Documents& documents, StoragePath path);

  [[nodiscard]] Status store() override;
  [[nodiscard]] Status make_cold(bool again) override;
  [[nodiscard]] Result<Asked> ask(std::span<const uint32_t> order, uint32_t concurrency,
                                  Check check) override;
  [[nodiscard]] SystemUse use() const override;
  [[nodiscard]] const Meters& meters() const override { return *meters_; }
  [[nodiscard]] std::vector<double> planned_shares() const override;
  [[nodiscard]] uint64_t spilled_bytes() const override { return pool_->settled_stats().spilled_bytes; }

 private:
  class Session;

  explicit PooledSystem(const Documents& documents) : documents_(documents) {}
  [[nodiscard]] Status take_region(uint64_t data_bytes);
  [[nodiscard]] Status store_document(uint32_t document);
  [[nodiscard]] Status wait_for_store(Ticket ticket, uint32_t blocks);

  const Documents& documents_;
  std::unique_ptr<FilesStorage> files_;                          // null: the configuration's own devices
  std::unique_ptr<Meters> meters_ = std::make_unique<Meters>();  // of the pool's devices
  std::optional<Pool> pool_;
  std::optional<Consumer> consumer_;  // after the pool: closed first
  NamespaceId namespace_;
  std::span<std::byte> data_;
  std::span<kvpool_key> keys_;     // [questions under way][blocks]
  std::span<uint64_t> addresses_;  // [slots of the ring][blocks x segments], or a store's in two halves
};

}  // namespace kvpool::bench
