#include "bench/tiered_system.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>

#include "base/units.h"
#include "bench/payload.h"

namespace kvpool::bench {
namespace {

// A part for a device with a deep queue, and for a copy that several threads share.
constexpr uint64_t part_bytes_deep = 1ULL << 20;

}  // namespace

std::vector<BlockPart> block_parts(const Geometry& geometry, bool all, uint64_t part_bytes_max) {
  std::vector<BlockPart> parts;
  uint64_t offset = 0;
  bool joined = false;  // the last part ends where this segment starts
  for (uint32_t s = 0; s < geometry.segments(); ++s) {
    uint64_t left = round_up(geometry.segment_bytes[s], payload_page_bytes);
    if (!all && geometry.is_window(s)) {
      offset += left;
      joined = false;
      continue;
    }
    while (left > 0) {
      if (!joined || parts.back().bytes == part_bytes_max) parts.push_back({offset, 0});
      const uint64_t bytes = std::min(left, part_bytes_max - parts.back().bytes);
      parts.back().bytes += static_cast<uint32_t>(bytes);
      offset += bytes;
      left -= bytes;
      joined = true;
    }
  }
  return parts;
}

Result<std::unique_ptr<System>> TieredSystem::open(Machine& machine, const Config& config,
                                                   const Documents& documents, StoragePath path) {
  auto storage = path == StoragePath::files ? std::make_unique<FilesStorage>() : nullptr;
  auto meters = std::make_unique<Meters>();
  DeviceHooks hooks = meter_hooks(*meters, storage != nullptr);
  if (storage) {
    hooks.make_storage = [&](const DeviceConfig& device) {
      return storage->make(device, documents.padded_block_bytes());
    };
  }
  auto opened = machine.open_devices(config, hooks);
  if (!opened) return tl::unexpected(opened.error());
  std::unique_ptr<TieredSystem> system(
      new TieredSystem(documents, std::move(storage), std::move(*opened), std::move(meters)));
  if (auto placed = system->place_blocks(); !placed) return tl::unexpected(placed.error());
  std::vector<Device*> devices;
  for (const Tier& tier : system->tiers_) {
    if (auto started = tier.device->start(system->opened_.regions); !started) {
      return tl::unexpected(started.error());
    }
    devices.push_back(tier.device);
  }
  system->mover_ = std::make_unique<BlockMover>(std::move(devices), *system->opened_.transfer,
                                                system->opened_.buffers, documents.padded_block_bytes());
  return system;
}

TieredSystem::TieredSystem(const Documents& documents, std::unique_ptr<FilesStorage> files,
                           OpenedDevices opened, std::unique_ptr<Meters> meters)
    : documents_(documents),
      files_(std::move(files)),
      meters_(std::move(meters)),
      opened_(std::move(opened)) {
  const Geometry& geometry = documents_.geometry();
  uint64_t offset = 0;
  for (const uint32_t segment : geometry.segment_bytes) {
    segment_offsets_.push_back(offset);
    offset += round_up(segment, payload_page_bytes);
  }
  for (const bool memory : {true, false}) {
    for (MeterDevice* device : meters_->devices) {
      const DeviceLimits limits = device->limits();
      if (limits.in_place != memory) continue;
      const bool chunk_at_once = !memory && files_ != nullptr;
      const uint64_t bytes_max =
          std::min<uint64_t>(limits.transfer_bytes_max, chunk_at_once ? UINT32_MAX : part_bytes_deep);
      tiers_.push_back({.device = device,
                        .inner = block_parts(geometry, false, bytes_max),
                        .last = block_parts(geometry, true, bytes_max),
                        .all = block_parts(geometry, true, bytes_max)});
    }
  }
}

TieredSystem::~TieredSystem() {
  if (mover_) mover_->drain();
}

Status TieredSystem::place_blocks() {
  const uint64_t block_bytes = documents_.padded_block_bytes();
  const size_t blocks = size_t{documents_.count()} * documents_.blocks();
  for (uint32_t t = 0; t < tiers_.size(); ++t) {
    const uint64_t room = tiers_[t].device->limits().size_bytes / block_bytes;
    for (uint64_t i = 0; i < room && places_.size() < blocks; ++i) {
      places_.push_back({t, ByteOffset(i * block_bytes)});
    }
  }
  if (places_.size() == blocks) return {};
  return fail(Errc::too_large, fmt::format("the documents take {}, but only {} of their {} blocks fit the "
                                           "devices; give them larger ones, or fewer --documents or --tokens",
                                           format_bytes(blocks * block_bytes), places_.size(), blocks));
}

Status TieredSystem::store() {
  const Geometry& geometry = documents_.geometry();
  const uint32_t blocks = documents_.count() * documents_.blocks();
  uint32_t next = 0;
  uint32_t done = 0;
  while (done < blocks) {
    while (next < blocks) {
      const auto slot = mover_->take();
      if (!slot) break;
      const uint32_t document = next / documents_.blocks();
      const uint32_t block = next % documents_.blocks();
      for (uint32_t s = 0; s < geometry.segments(); ++s) {
        fill_payload(mover_->memory(*slot).subspan(segment_offsets_[s], geometry.segment_bytes[s]),
                     documents_.key(document, block), s);
      }
      const Place to = place(document, block);
      mover_->begin(*slot, IoKind::write, to.tier, to.offset, tiers_[to.tier].all);
      ++next;
      // What was begun goes on while the next block is made.
      if (auto moved = mover_->advance(); !moved) return moved;
    }
    if (auto moved = mover_->advance(); !moved) return moved;
    while (const auto slot = mover_->finished()) {
      mover_->release(*slot);
      ++done;
    }
  }
  return {};
}

Status TieredSystem::make_cold(bool again) { return files_ ? files_->make_cold(again) : Status{}; }

// The questions of one ask(): which are under way, and how far each is.
class TieredSystem::Session {
 public:
  Session(TieredSystem& system, std::span<const uint32_t> order, uint32_t concurrency, Check check)
      : system_(system),
        order_(order),
        concurrency_(concurrency),
        checker_(system.documents_, static_cast<uint32_t>(order.size()), check),
        slot_users_(system.mover_->slots()) {
    asked_.latencies.resize(order.size());
  }

  [[nodiscard]] Result<Asked> run() {
    asked_.begin = clock_.now();
    while (answered_ < order_.size()) {
      while (active_.size() < concurrency_ && next_question_ < order_.size()) start();
      begin_reads();
      if (auto moved = system_.mover_->advance(); !moved) return tl::unexpected(moved.error());
      while (const auto slot = system_.mover_->finished()) take_block(*slot);
    }
    asked_.wall = clock_.now() - asked_.begin;
    asked_.bytes = order_.size() * system_.documents_.delivered_bytes();
    asked_.wrong_blocks = checker_.wrong_blocks();
    return asked_;
  }

 private:
  struct Question {
    uint32_t number = 0;
    Nanos begin{0};
    uint32_t tier = 0;
    uint32_t next_block = 0;  // of those in `tier`, in order
    uint32_t reading = 0;     // blocks
    uint32_t done = 0;        // blocks
  };

  void start() { active_.push_back({.number = next_question_++, .begin = clock_.now()}); }

  // Gives free slots to the questions in turn.
  void begin_reads() {
    const uint32_t share = std::max<uint32_t>(1, system_.mover_->slots() / concurrency_);
    bool begun = true;
    while (begun) {
      begun = false;
      for (Question& question : active_) {
        if (question.reading >= share || !find_block(question)) continue;
        const auto slot = system_.mover_->take();
        if (!slot) return;
        begin_read(question, *slot);
        begun = true;
      }
    }
  }

  // Moves next_block to the next one that lies in the question's tier; and to the next tier once nothing of
  // this one is under way.
  [[nodiscard]] bool find_block(Question& question) const {
    const uint32_t document = order_[question.number];
    while (question.tier < system_.tiers_.size()) {
      for (; question.next_block < system_.documents_.blocks(); ++question.next_block) {
        if (system_.place(document, question.next_block).tier == question.tier) return true;
      }
      if (question.reading > 0) return false;
      ++question.tier;
      question.next_block = 0;
    }
    return false;
  }

  void begin_read(Question& question, uint32_t slot) {
    const uint32_t block = question.next_block++;
    const Place from = system_.place(order_[question.number], block);
    const Tier& tier = system_.tiers_[from.tier];
    slot_users_[slot] = {question.number, block};
    ++question.reading;
    system_.mover_->begin(slot, IoKind::read, from.tier, from.offset,
                          block + 1 == system_.documents_.blocks() ? tier.last : tier.inner);
  }

  void take_block(uint32_t slot) {
    const auto [number, block] = slot_users_[slot];
    const Documents& documents = system_.documents_;
    const uint32_t document = order_[number];
    for (uint32_t s = 0; s < documents.geometry().segments(); ++s) {
      if (!documents.is_delivered(block, s)) continue;
      const auto bytes = system_.mover_->memory(slot).subspan(system_.segment_offsets_[s],
                                                              documents.geometry().segment_bytes[s]);
      checker_.look(number, document, block, s, bytes);
    }
    system_.mover_->release(slot);
    const auto question = std::find_if(active_.begin(), active_.end(),
                                       [n = number](const Question& q) { return q.number == n; });
    --question->reading;
    if (++question->done < documents.blocks()) return;
    asked_.latencies[number] = clock_.now() - question->begin;
    active_.erase(question);
    ++answered_;
  }

  struct SlotUser {
    uint32_t question = 0;
    uint32_t block = 0;
  };

  TieredSystem& system_;
  std::span<const uint32_t> order_;
  uint32_t concurrency_;
  Checker checker_;
  SteadyClock clock_;
  std::vector<SlotUser> slot_users_;
  std::vector<Question> active_;
  uint32_t next_question_ = 0;
  uint32_t answered_ = 0;
  Asked asked_;
};

Result<Asked> TieredSystem::ask(std::span<const uint32_t> order, uint32_t concurrency, Check check) {
  return Session(*this, order, concurrency, check).run();
}

SystemUse TieredSystem::use() const { return use_of(*meters_, files_.get()); }

}  // namespace kvpool::bench
