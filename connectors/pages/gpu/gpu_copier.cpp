#include "connectors/pages/gpu/gpu_copier.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "xfer/cuda/cuda_plugin.h"

namespace kvpool::pages {
namespace {

uint64_t pieces_of_page(const Layer& layer) {
  constexpr uint64_t most = GpuOptions::piece_bytes_max;
  uint64_t count = 0;
  for (const Piece& piece : layer.pieces) {
    count += (piece.length_bytes + most - 1) / most;
  }
  return count;
}

PagedLayer paged(const Layer& layer) {
  PagedLayer made{
      .base = layer.base, .page_stride_bytes = layer.page_stride_bytes, .pages = layer.pages, .pieces = {}};
  for (const Piece& piece : layer.pieces) made.pieces.push_back({piece.offset_bytes, piece.length_bytes});
  return made;
}

CopyCode code_of(Errc code) {
  if (code == Errc::ok) return CopyCode::good;
  return code == Errc::corrupt ? CopyCode::wrong_bytes : CopyCode::failed;
}

class GpuCopier final : public PageCopier {
 public:
  GpuCopier(int device, OpenTransfer open_transfer)
      : device_(device), open_transfer_(std::move(open_transfer)) {}

  [[nodiscard]] kvpool_status open(kvpool_pool* pool, std::span<const Layer> layers, const BlockPages& pages,
                                   kvpool_error* error) override {
    const Status opened = prepare(pool, layers, pages);
    if (opened) return KVPOOL_OK;
    if (error != nullptr) {
      std::snprintf(error->message, sizeof error->message, "%s", opened.error().message.c_str());
    }
    return static_cast<kvpool_status>(opened.error().code);
  }
  [[nodiscard]] bool knows_events() const override { return true; }
  [[nodiscard]] bool can_check(uint32_t layer) const override { return can_check_[layer]; }
  [[nodiscard]] std::optional<size_t> submit(const CopyBatch& batch) override;
  [[nodiscard]] bool record(uint64_t event) override {
    return transfer_->record(GpuDirection::load, {static_cast<uintptr_t>(event)}).has_value();
  }
  [[nodiscard]] size_t poll(std::span<CopyEnd> out) override;
  [[nodiscard]] int wait_fd() const override { return transfer_->event_fd(); }
  void prepare_wait() override { transfer_->prepare_wait(); }
  void done_wait() override { transfer_->done_wait(); }

 private:
  [[nodiscard]] Status prepare(kvpool_pool* pool, std::span<const Layer> layers, const BlockPages& pages);
  void tell_unchecked() const;
  void tell_failure();

  int device_;
  OpenTransfer open_transfer_;
  GpuOptions options_;
  std::unique_ptr<GpuTransfer> transfer_;
  std::vector<uint64_t> pieces_;               // [layers] of a page
  std::vector<PagedSegment> segments_;         // of the batch that is submitted
  std::array<std::vector<uint64_t>, 2> tags_;  // of the batches under way, by direction and number
  std::vector<bool> can_check_;                // [layers]
  bool told_ = false;
};

Status GpuCopier::prepare(kvpool_pool* pool, std::span<const Layer> layers, const BlockPages& pages) {
  options_.device = device_;
  std::vector<PagedLayer> cache;
  for (const Layer& layer : layers) {
    pieces_.push_back(pieces_of_page(layer));
    const uint64_t of_segment = pieces_.back() * pages.of_group[layer.group];
    if (of_segment > GpuOptions::pieces_most) {
      return fail(Errc::too_large, "a layer's part of a block has " + std::to_string(of_segment) +
                                       " pieces of memory; a GPU is given " +
                                       std::to_string(GpuOptions::pieces_most) + " at most");
    }
    options_.pieces_max = std::max(options_.pieces_max, static_cast<uint32_t>(of_segment));
    cache.push_back(paged(layer));
  }
  for (const PagedLayer& layer : cache) can_check_.push_back(layer.can_be_checked());
  segments_.reserve(options_.pieces_max);
  for (std::vector<uint64_t>& tags : tags_) tags.resize(options_.batches_max);
  auto opened = open_transfer_(options_);
  if (!opened) return tl::unexpected(opened.error());
  transfer_ = std::move(*opened);
  if (Status set = transfer_->set_layers(std::move(cache)); !set) return set;
  std::vector<kvpool_memory> ranges(kvpool_memory_ranges(pool, nullptr, 0));
  ranges.resize(std::min<size_t>(
      ranges.size(), kvpool_memory_ranges(pool, ranges.data(), static_cast<uint32_t>(ranges.size()))));
  for (const kvpool_memory& range : ranges) {
    const Status registered = transfer_->register_host({static_cast<std::byte*>(range.base), range.bytes});
    if (!registered) return registered;
  }
  tell_unchecked();
  return {};
}

void GpuCopier::tell_unchecked() const {
  const auto unchecked = std::ranges::count(can_check_, false);
  if (unchecked == 0) return;
  log_info(
      "GPU {}: it cannot sum the pages of {} of {} layers (no pieces of whole KiB at multiples of 16 bytes); "
      "with verify = \"always\" the CPU sums them, which wants transfer_threads = 8",
      device_, unchecked, can_check_.size());
}

std::optional<size_t> GpuCopier::submit(const CopyBatch& batch) {
  segments_.clear();
  uint64_t pieces = 0;
  for (const CopyPart& part : batch.parts) {
    pieces += pieces_[part.layer] * part.pages_count;
    if (pieces > options_.pieces_max) break;  // each part has one at least: there is room for it
    segments_.push_back({.host = part.segment,
                         .layer = part.layer,
                         .pages_first = part.pages_first,
                         .pages_count = part.pages_count});
    if (part.check) segments_.back().check = PagedCheck{.seed = part.check->seed, .sum = part.check->sum};
  }
  PagedBatch made{.direction = batch.way == CopyWay::to_pages ? GpuDirection::load : GpuDirection::store,
                  .segments = segments_,
                  .pages = batch.pages,
                  .after = {}};
  if (batch.after != 0) made.after = ExternalEvent{static_cast<uintptr_t>(batch.after)};
  const Result<GpuTicket> ticket = transfer_->submit(made);
  if (!ticket) {
    if (ticket.error().code == Errc::busy) return 0;
    if (transfer_->failure().empty()) {
      log_error("GPU {}: some pages cannot be moved: {}", device_, ticket.error().message);
    } else {
      tell_failure();
    }
    return {};
  }
  std::vector<uint64_t>& tags = tags_[static_cast<size_t>(made.direction)];
  tags[ticket->number % tags.size()] = batch.tag;
  return segments_.size();
}

size_t GpuCopier::poll(std::span<CopyEnd> out) {
  std::array<GpuCompletion, 16> taken;
  const size_t count = transfer_->poll(std::span(taken).first(std::min(taken.size(), out.size())));
  for (size_t i = 0; i < count; ++i) {
    const std::vector<uint64_t>& tags = tags_[static_cast<size_t>(taken[i].ticket.direction)];
    out[i] = {.tag = tags[taken[i].ticket.number % tags.size()], .code = code_of(taken[i].code)};
    if (out[i].code == CopyCode::failed) tell_failure();
    if (out[i].code == CopyCode::wrong_bytes) {
      log_warn("GPU {}: bytes came that do not match their checksum", device_);
    }
  }
  return count;
}

void GpuCopier::tell_failure() {
  if (std::exchange(told_, true)) return;
  log_error("GPU {}: pages are not moved any more: {}", device_, transfer_->failure());
}

}  // namespace

std::unique_ptr<PageCopier> gpu_copier(int device) {
  return gpu_copier(device, [](const GpuOptions& options) -> Result<std::unique_ptr<GpuTransfer>> {
    const Result<CudaPlugin*> plugin = load_cuda();
    if (!plugin) return tl::unexpected(plugin.error());
    return (*plugin)->open(options);
  });
}

std::unique_ptr<PageCopier> gpu_copier(int device, OpenTransfer open_transfer) {
  return std::make_unique<GpuCopier>(device, std::move(open_transfer));
}

}  // namespace kvpool::pages
