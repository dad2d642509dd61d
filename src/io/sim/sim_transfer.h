// SimTransfer: a Transfer in virtual time. `workers` of them copy and sum at the given rates; a job's bytes
// move when it is done, not before. Rates of 0 mean that the work takes no time.
// Thread: the engine's.

#pragma once

#include <vector>

#include "base/clock.h"
#include "xfer/transfer.h"

namespace kvpool {

struct SimTransferOptions {
  uint32_t workers = 4;
  double copy_bytes_per_second = 0;
  double sum_bytes_per_second = 0;
  uint32_t queue_depth_max = 64;
  bool moves_bytes = true;
};

class SimTransfer final : public Transfer {
 public:
  SimTransfer(const Clock& clock, SimTransferOptions options);

  [[nodiscard]] bool submit(const TransferJob& job) override;
  [[nodiscard]] size_t poll(std::span<TransferCompletion> out) override;
  [[nodiscard]] Nanos next_event_time() const override;

 private:
  struct Flying {
    TransferJob job;
    Nanos due{0};
  };

  const Clock& clock_;
  SimTransferOptions options_;
  std::vector<Nanos> free_at_;  // per worker
  std::vector<Flying> flying_;  // a heap, the earliest due first
};

}  // namespace kvpool
