// TieredSystem: offloading as it is done today. A block lives whole in one tier: in memory while there is
// room, then in the first storage device, then in the next. A document is read one tier after the other, in
// blocks, into recycled block buffers.
//
//   tiered-files        the storage tiers are chunk files, one a block, read whole by four workers
//   tiered-direct       the storage tiers are the configuration's own devices, with their queues kept full
//   tiered-passthrough  as tiered-direct, over the passthrough devices
//
// Thread and failure: as System.

#pragma once

#include <memory>
#include <vector>

#include "bench/block_mover.h"
#include "bench/files_storage.h"
#include "bench/longdoc_system.h"

namespace kvpool::bench {

// The reads that fetch what is delivered of a block: neighbouring segments together, in parts of at most
// part_bytes_max. `all`: whatever is stored (for a write, and for a run's last block).
[[nodiscard]] std::vector<BlockPart> block_parts(const Geometry& geometry, bool all, uint64_t part_bytes_max);

class TieredSystem final : public System {
 public:
  [[nodiscard]] static Result<std::unique_ptr<System>> open(Machine& machine, const Config& config,
                                                            const Documents& documents, StoragePath path);
  ~TieredSystem() override;

  [[nodiscard]] Status store() override;
  [[nodiscard]] Status make_cold(bool again) override;
  [[nodiscard]] Result<Asked> ask(std::span<const uint32_t> order, uint32_t concurrency,
                                  Check check) override;
  [[nodiscard]] SystemUse use() const override;
  [[nodiscard]] const Meters& meters() const override { return *meters_; }
  [[nodiscard]] std::vector<double> planned_shares() const override { return {}; }
  [[nodiscard]] uint64_t spilled_bytes() const override { return 0; }  // nothing is planned elsewhere

 private:
  struct Place {
    uint32_t tier = 0;
    ByteOffset offset;
  };
  struct Tier {
    MeterDevice* device = nullptr;
    std::vector<BlockPart> inner, last;  // reads of a block, and of a run's last one
    std::vector<BlockPart> all;          // writes
  };
  class Session;

  TieredSystem(const Documents& documents, std::unique_ptr<FilesStorage> files, OpenedDevices opened,
               std::unique_ptr<Meters> meters);
  [[nodiscard]] Status place_blocks();
  [[nodiscard]] Place place(uint32_t document, uint32_t block) const {
    return places_[size_t{document} * documents_.blocks() + block];
  }

  const Documents& documents_;
  std::unique_ptr<FilesStorage> files_;  // null: the configuration's own devices
  std::unique_ptr<Meters> meters_;
  OpenedDevices opened_;
  std::vector<Tier> tiers_;    // memory first; the mover's devices in this order
  std::vector<Place> places_;  // [documents][blocks]
  std::vector<uint64_t> segment_offsets_;
  std::unique_ptr<BlockMover> mover_;
};

}  // namespace kvpool::bench
