#include "io/sim/sim_transfer.h"

#include <algorithm>
#include <cstring>

#include "base/checksum.h"

namespace kvpool {
namespace {

constexpr auto ends_later = [](const auto& a, const auto& b) { return a.due > b.due; };

Nanos time_for(uint32_t bytes, double rate) {
  if (rate <= 0) return Nanos(0);
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(static_cast<double>(bytes) / rate));
}

}  // namespace

SimTransfer::SimTransfer(const Clock& clock, SimTransferOptions options)
    : clock_(clock), options_(options), free_at_(options.workers, Nanos(0)) {
  flying_.reserve(options.queue_depth_max);
}

bool SimTransfer::submit(const TransferJob& job) {
  if (flying_.size() == options_.queue_depth_max) return false;
  Nanos& worker = *std::ranges::min_element(free_at_);
  worker = std::max(worker, clock_.now());
  if (job.destination != nullptr) worker += time_for(job.length_bytes, options_.copy_bytes_per_second);
  if (job.sum) worker += time_for(job.length_bytes, options_.sum_bytes_per_second);
  flying_.push_back({job, worker});
  std::ranges::push_heap(flying_, ends_later);
  return true;
}

size_t SimTransfer::poll(std::span<TransferCompletion> out) {
  size_t count = 0;
  while (count < out.size() && !flying_.empty() && flying_.front().due <= clock_.now()) {
    std::ranges::pop_heap(flying_, ends_later);
    const TransferJob job = flying_.back().job;
    flying_.pop_back();
    TransferCompletion& completion = out[count++];
    completion = {.tag = job.tag, .checksum = 0, .code = Errc::ok};
    if (!options_.moves_bytes) continue;
    if (job.sum) completion.checksum = checksum({job.source, job.length_bytes}, job.seed);
    if (job.destination == nullptr) continue;
    std::memcpy(job.destination, job.source, job.length_bytes);
    std::memset(job.destination + job.length_bytes, 0, job.pad_bytes);
  }
  return count;
}

Nanos SimTransfer::next_event_time() const { return flying_.empty() ? never : flying_.front().due; }

}  // namespace kvpool
