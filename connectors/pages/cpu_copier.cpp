#include <algorithm>
#include <array>
#include <vector>

#include "connectors/pages/page_copier.h"

namespace kvpool::pages {
namespace {

class CpuCopier final : public PageCopier {
 public:
  [[nodiscard]] kvpool_status open(kvpool_pool* /*pool*/, std::span<const Layer> layers,
                                   const BlockPages& /*pages*/, kvpool_error* /*error*/) override {
    layers_.assign(layers.begin(), layers.end());
    return KVPOOL_OK;
  }
  [[nodiscard]] bool knows_events() const override { return false; }
  [[nodiscard]] bool can_check(uint32_t /*layer*/) const override { return false; }
  [[nodiscard]] std::optional<size_t> submit(const CopyBatch& batch) override {
    if (done_ == ends_.size()) return 0;
    for (const CopyPart& part : batch.parts) {
      const auto pages = batch.pages.subspan(part.pages_first, part.pages_count);
      if (batch.way == CopyWay::to_pages) {
        scatter(layers_[part.layer], pages, part.segment);
      } else {
        gather(layers_[part.layer], pages, part.segment);
      }
    }
    ends_[done_++] = {.tag = batch.tag, .code = CopyCode::good};
    return batch.parts.size();
  }
  [[nodiscard]] bool record(uint64_t /*event*/) override { return false; }
  [[nodiscard]] size_t poll(std::span<CopyEnd> out) override {
    const size_t taken = std::min(out.size(), done_);
    std::copy_n(ends_.begin(), taken, out.begin());
    std::copy(ends_.begin() + taken, ends_.begin() + done_, ends_.begin());
    done_ -= taken;
    return taken;
  }
  [[nodiscard]] int wait_fd() const override { return -1; }
  void prepare_wait() override {}
  void done_wait() override {}

 private:
  std::vector<Layer> layers_;
  std::array<CopyEnd, 16> ends_;
  size_t done_ = 0;
};

}  // namespace

std::unique_ptr<PageCopier> cpu_copier() { return std::make_unique<CpuCopier>(); }

}  // namespace kvpool::pages
