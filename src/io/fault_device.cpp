#include "io/fault_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"

namespace kvpool {

FaultDevice::FaultDevice(std::unique_ptr<Device> lower, const FaultOptions& options, const Clock& clock)
    : lower_(std::move(lower)),
      options_(options),
      clock_(clock),
      limits_(lower_->limits()),
      prng_(options.seed),
      slots_(limits_.queue_depth_max),
      free_slots_(limits_.queue_depth_max),
      late_(limits_.queue_depth_max),
      stuck_(limits_.queue_depth_max),
      unstuck_(limits_.queue_depth_max) {
  KVPOOL_ASSERT(options.corrupt_bytes > 0);
  for (uint32_t slot = 0; slot < limits_.queue_depth_max; ++slot) {
    const bool pushed = free_slots_.push(slot);
    KVPOOL_ASSERT(pushed);
  }
}

void FaultDevice::script(IoKind kind, uint64_t count, Fault fault) {
  KVPOOL_ASSERT(count > 0);
  script_.push_back({kind, submitted_[static_cast<size_t>(kind)] + count, fault});
}

void FaultDevice::stop_faults() {
  options_ = {};
  script_.clear();
  come_back();
}

void FaultDevice::release_stuck() {
  while (!stuck_.empty()) {
    const bool pushed = unstuck_.push(stuck_.pop());
    KVPOOL_ASSERT(pushed);
  }
}

// One number is drawn for every request, scripted or not, so that a script does not shift the later ones.
Fault FaultDevice::draw(IoKind kind) {
  const uint64_t number = ++submitted_[static_cast<size_t>(kind)];
  double left = prng_.unit();
  if (away_) return Fault::fail;
  const auto scripted = std::find_if(script_.begin(), script_.end(), [&](const Scripted& step) {
    return step.kind == kind && step.number == number;
  });
  if (scripted != script_.end()) {
    const Fault fault = scripted->fault;
    script_.erase(scripted);
    return fault;
  }
  const std::array<std::pair<double, Fault>, 5> chances = {{{options_.fail, Fault::fail},
                                                            {options_.short_io, Fault::short_io},
                                                            {options_.corrupt, Fault::corrupt},
                                                            {options_.late, Fault::late},
                                                            {options_.stuck, Fault::stuck}}};
  for (const auto& [chance, fault] : chances) {
    if (left < chance) return fault;
    left -= chance;
  }
  return Fault::none;
}

bool FaultDevice::send(uint32_t slot) {
  IoRequest request = slots_[slot].request;
  request.tag = slot;
  return lower_->submit(request);
}

bool FaultDevice::submit(const IoRequest& request) {
  if (free_slots_.empty()) return false;
  const uint32_t slot = free_slots_.front();
  Fault fault = pending_ ? *pending_ : draw(request.kind);
  pending_.reset();
  if (fault == Fault::corrupt && request.kind == IoKind::write) fault = Fault::none;
  slots_[slot] = {request, fault};
  bool accepted = false;
  if (fault == Fault::late) {
    accepted = late_.push({clock_.now() + options_.late_by, slot});
  } else if (fault == Fault::stuck) {
    accepted = stuck_.push(slot);
  } else {
    accepted = send(slot);
  }
  // There are as many slots as the lower device takes requests, but it refuses a write to what it discards.
  if (!accepted) {
    pending_ = fault;
    return false;
  }
  (void)free_slots_.pop();
  ++counts_[static_cast<size_t>(fault)];
  return true;
}

void FaultDevice::send_delayed(Nanos now) {
  refused_ = false;
  while (!late_.empty() && late_.front().at <= now && !refused_) {
    refused_ = !send(late_.front().slot);
    if (!refused_) (void)late_.pop();
  }
  while (!unstuck_.empty() && !refused_) {
    refused_ = !send(unstuck_.front());
    if (!refused_) (void)unstuck_.pop();
  }
}

size_t FaultDevice::poll(std::span<IoCompletion> out) {
  send_delayed(clock_.now());
  const size_t count = lower_->poll(out);
  if (refused_) send_delayed(clock_.now());
  for (size_t i = 0; i < count; ++i) out[i] = finish(out[i]);
  return count;
}

IoCompletion FaultDevice::finish(IoCompletion completion) {
  const auto number = static_cast<uint32_t>(completion.tag);
  const Slot& slot = slots_[number];
  completion.tag = slot.request.tag;
  const bool freed = free_slots_.push(number);
  KVPOOL_ASSERT(freed);
  if (completion.code != Errc::ok) return completion;
  if (slot.fault == Fault::fail) {
    completion.code = Errc::io_error;
    completion.bytes = 0;
    completion.in_place = nullptr;
  } else if (slot.fault == Fault::short_io) {
    completion.code = Errc::short_io;
    completion.bytes = slot.request.length_bytes / 2;
  } else if (slot.fault == Fault::corrupt) {
    corrupt(slot, completion);
  }
  return completion;
}

void FaultDevice::corrupt(const Slot& slot, IoCompletion& completion) {
  std::byte* bytes = slot.request.buffer;
  if (limits_.in_place) {
    bytes = completion.in_place;
    if (!options_.corrupt_media) {
      copies_.push_back(std::make_unique<std::byte[]>(completion.bytes));
      std::memcpy(copies_.back().get(), bytes, completion.bytes);
      bytes = copies_.back().get();
      completion.in_place = bytes;
    }
  }
  const uint64_t bit = prng_.below(8ULL * std::min(options_.corrupt_bytes, completion.bytes));
  bytes[bit / 8] ^= std::byte{1} << (bit % 8);
}

Nanos FaultDevice::next_event_time() const {
  Nanos next = lower_->next_event_time();
  if (refused_) return next;
  if (!late_.empty()) next = std::min(next, late_.front().at);
  if (!unstuck_.empty()) next = std::min(next, clock_.now());
  return next;
}

}  // namespace kvpool
