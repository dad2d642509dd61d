// MeterTransfer: tells the meters of memory devices of the copies into and out of their memory. Such a device
// moves nothing itself: it hands out an address at once, and is busy while that is copied.
//
// Thread: as any Transfer; the meters' devices have the same owner thread. Failure: as the Transfer below; it
// also refuses beyond jobs_max jobs under way. Nothing allocates after construction.

#pragma once

#include <memory>
#include <vector>

#include "bench/machine.h"
#include "bench/meter_device.h"

namespace kvpool::bench {

class MeterTransfer final : public Transfer {
 public:
  static constexpr uint32_t jobs_max = 4096;

  // REQUIRES: the meters live as long as submit() and poll() are called.
  MeterTransfer(std::unique_ptr<Transfer> below, std::vector<MeterDevice*> meters);

  [[nodiscard]] bool submit(const TransferJob& job) override;
  [[nodiscard]] size_t poll(std::span<TransferCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return below_->wait_fd(); }
  void prepare_wait() override { below_->prepare_wait(); }
  void done_wait() override { below_->done_wait(); }
  [[nodiscard]] Nanos next_event_time() const override { return below_->next_event_time(); }

 private:
  struct Job {
    uint64_t tag = 0;
    MeterDevice* meter = nullptr;  // null: no device's memory
  };
  [[nodiscard]] MeterDevice* meter_of(const TransferJob& job) const;

  std::unique_ptr<Transfer> below_;
  std::vector<MeterDevice*> meters_;
  SteadyClock clock_;
  std::vector<Job> jobs_;       // [jobs_max], whose index is the tag below
  std::vector<uint32_t> free_;  // of them
};

// The meters of a system's devices.
struct Meters {
  std::vector<MeterDevice*> devices;
  InFlight storage;  // of the storage devices that the devices' owner thread drives itself

  // Of their thread; none where there are none such.
  [[nodiscard]] std::vector<pid_t> storage_drivers() const;
};

// Hooks that put a meter over every device, add it to `meters`, and one over the transfer. `workers`: threads
// behind the storage devices do their I/O, not the owner. REQUIRES: meters outlives the devices.
[[nodiscard]] DeviceHooks meter_hooks(Meters& meters, bool workers);

}  // namespace kvpool::bench
