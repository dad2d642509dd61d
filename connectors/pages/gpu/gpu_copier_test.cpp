#include "connectors/pages/gpu/gpu_copier.h"

#include <bit>
#include <cstring>
#include <deque>
#include <string>

#include "connectors/pages/mover_fixture.h"
#include "xfer/cuda/piece_list.h"

namespace kvpool::pages {
namespace {

// What a test sees of a FakeTransfer, and tells it.
struct Seen {
  GpuOptions options;
  std::vector<std::span<std::byte>> registered;
  std::vector<size_t> batches;  // segments of each
  std::vector<uint64_t> events;
  std::vector<std::pair<GpuDirection, uintptr_t>> recorded;
  std::vector<PagedCheck> checks;
  bool corrupts = false;
  size_t batches_max = 2;
  Status register_status;
  std::string failure;
};

// Pages in the memory of the CPU, moved when somebody polls; of two directions the store's first.
class FakeTransfer final : public GpuTransfer {
 public:
  FakeTransfer(const GpuOptions& options, Seen& seen) : seen_(seen), room_(options.pieces_max) {
    seen.options = options;
  }
  [[nodiscard]] Status register_host(std::span<std::byte> memory) override {
    seen_.registered.push_back(memory);
    return seen_.register_status;
  }
  [[nodiscard]] Status set_layers(std::vector<PagedLayer> layers) override {
    layers_ = std::move(layers);
    return check_layers(layers_);
  }
  [[nodiscard]] Result<GpuTicket> submit(const PagedBatch& batch) override {
    if (!seen_.failure.empty()) return fail(Errc::io_error, seen_.failure);
    const auto way = static_cast<size_t>(batch.direction);
    if (waiting_[way].size() == seen_.batches_max) return fail(Errc::busy, "queue is full");
    const auto totals = list_pieces(layers_, batch.segments, batch.pages, room_);
    if (!totals) return tl::unexpected(totals.error());
    seen_.batches.push_back(batch.segments.size());
    for (const PagedSegment& segment : batch.segments) {
      if (segment.check) seen_.checks.push_back(*segment.check);
    }
    seen_.events.push_back(batch.after ? batch.after->handle : 0);
    waiting_[way].emplace_back(room_.begin(), room_.begin() + totals->pieces);
    return GpuTicket{batch.direction, submitted_[way]++};
  }
  [[nodiscard]] size_t poll(std::span<GpuCompletion> out) override {
    for (const GpuDirection direction : {GpuDirection::store, GpuDirection::load}) {
      const auto way = static_cast<size_t>(direction);
      if (waiting_[way].empty() || out.empty()) continue;
      for (const CopyPiece& piece : waiting_[way].front()) {
        void* const host = std::bit_cast<void*>(piece.host);
        void* const device = std::bit_cast<void*>(piece.device);
        const bool load = direction == GpuDirection::load;
        if (seen_.failure.empty()) std::memcpy(load ? device : host, load ? host : device, piece.bytes);
      }
      waiting_[way].pop_front();
      const Errc carried = seen_.corrupts ? Errc::corrupt : Errc::ok;
      out[0] = {.ticket = {direction, completed_[way]++},
                .code = seen_.failure.empty() ? carried : Errc::io_error};
      return 1;
    }
    return 0;
  }
  [[nodiscard]] Status record(GpuDirection direction, ExternalEvent event) override {
    seen_.recorded.emplace_back(direction, event.handle);
    return seen_.failure.empty() ? Status{} : fail(Errc::io_error, seen_.failure);
  }
  [[nodiscard]] int event_fd() const override { return -1; }
  void prepare_wait() override {}
  void done_wait() override {}
  [[nodiscard]] const std::string& failure() const override { return seen_.failure; }

 private:
  Seen& seen_;
  std::vector<PagedLayer> layers_;
  std::vector<CopyPiece> room_;
  std::array<std::deque<std::vector<CopyPiece>>, 2> waiting_;
  std::array<uint64_t, 2> submitted_{};
  std::array<uint64_t, 2> completed_{};
};

class GpuCopierTest : public PageMoverTest {
 protected:
  [[nodiscard]] std::unique_ptr<PageCopier> fake() {
    return gpu_copier(3, [this](const GpuOptions& options) -> Result<std::unique_ptr<GpuTransfer>> {
      return std::make_unique<FakeTransfer>(options, seen_);
    });
  }
  [[nodiscard]] std::shared_ptr<PageMover> try_open(std::unique_ptr<PageCopier> copier,
                                                    kvpool_status* status) {
    MoverOptions options = engine_->options(pool_, shape_.ns);
    options.copier = std::move(copier);
    return PageMover::open(std::move(options), status, &error_);
  }
  [[nodiscard]] std::vector<std::span<std::byte>> ranges() const {
    std::vector<kvpool_memory> raw(kvpool_memory_ranges(pool_, nullptr, 0));
    EXPECT_EQ(kvpool_memory_ranges(pool_, raw.data(), static_cast<uint32_t>(raw.size())), raw.size());
    std::vector<std::span<std::byte>> all;
    for (const kvpool_memory& its : raw) all.emplace_back(static_cast<std::byte*>(its.base), its.bytes);
    return all;
  }

  Seen seen_;
};

TEST_F(GpuCopierTest, SaysWhatIsMissing) {
  start(toml({"memory"}));
  kvpool_status status = KVPOOL_OK;
  EXPECT_EQ(try_open(gpu_copier(9999), &status), nullptr);
  EXPECT_EQ(status, KVPOOL_UNSUPPORTED);
  const std::string message = error_.message;
  EXPECT_FALSE(message.empty());
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST_F(GpuCopierTest, MovesWhatAMoverGivesIt) {
  start(toml({"memory", "file"}));
  ASSERT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK);
  mover_ = open_mover(2 << 20, fake());
  EXPECT_EQ(seen_.options.device, 3);
  const auto wanted = ranges();
  ASSERT_EQ(seen_.registered.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(seen_.registered[i].data(), wanted[i].data());
    EXPECT_EQ(seen_.registered[i].size(), wanted[i].size());
  }
  const uint64_t stored = begin_store(1, 12, false, 77);
  EXPECT_TRUE(mover_->wait_gathered(stored, patience_us));
  engine_->clear();
  EXPECT_EQ(ended(stored, EventKind::stored), 12U);
  const auto numbers = pages_for(12, 7, true);
  EXPECT_EQ(ended(begin_load(pin(1, 12), numbers, 0, 78, {{layers, 79}}), EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
  EXPECT_TRUE(engine_->gaps_are_untouched());
  EXPECT_EQ(seen_.events.front(), 77U);
  EXPECT_EQ(seen_.events.back(), 78U);
  EXPECT_TRUE(seen_.recorded.empty()) << "a load that is over is waited for by nobody";
}

TEST_F(GpuCopierTest, RefusesWhatCannotBeOpened) {
  start(toml({"memory"}));
  kvpool_status status = KVPOOL_OK;
  seen_.register_status = fail(Errc::system, "no memory may be pinned");
  EXPECT_EQ(try_open(fake(), &status), nullptr);
  EXPECT_EQ(status, KVPOOL_SYSTEM);
  EXPECT_STREQ(error_.message, "no memory may be pinned");
  const auto copier = fake();
  std::vector<Layer> many = engine_->options(pool_, shape_.ns).layers;
  many[2].pieces.assign(1 << 19, {0, 1});
  EXPECT_EQ(copier->open(pool_, many, {.of_group = {4}}, &error_), KVPOOL_TOO_LARGE);
  EXPECT_NE(std::string(error_.message).find("pieces"), std::string::npos);
}

// A page of 512 pieces, a segment of 4 pages, 16384 pieces a batch.
TEST_F(GpuCopierTest, CutsABatchToThePiecesThatFit) {
  start(toml({"memory"}));
  std::vector<std::byte> memory(1 << 20);
  Layer layer{.base = memory.data(), .page_stride_bytes = 2048, .pages = 4, .pieces = {}};
  for (uint64_t i = 0; i < 512; ++i) layer.pieces.push_back({i * 4, 2});
  const auto copier = fake();
  ASSERT_EQ(copier->open(pool_, {&layer, 1}, {.of_group = {4}}, &error_), KVPOOL_OK);
  const std::vector<int32_t> numbers = {0, 2, -1, 1};
  const std::vector<CopyPart> parts(20, CopyPart{.segment = memory.data() + 16384, .pages_count = 4});
  CopyBatch batch{.way = CopyWay::to_segments, .parts = parts, .pages = numbers, .tag = 7};
  EXPECT_EQ(copier->submit(batch), 8U);
  batch.way = CopyWay::to_pages;
  batch.tag = 8;
  batch.parts = batch.parts.first(3);
  EXPECT_EQ(copier->submit(batch), 3U);
  batch.tag = 9;
  EXPECT_EQ(copier->submit(batch), 3U);
  EXPECT_EQ(copier->submit(batch), 0U) << "its queue is full";
  std::array<CopyEnd, 4> ends;
  for (const uint64_t tag : {7U, 8U, 9U}) {
    ASSERT_EQ(copier->poll(ends), 1U);
    EXPECT_EQ(ends[0].tag, tag);
    EXPECT_EQ(ends[0].code, CopyCode::good);
  }
  EXPECT_EQ(copier->submit(batch), 3U);
  seen_.failure = "a GPU that fell off the bus";
  ASSERT_EQ(copier->poll(ends), 1U);
  EXPECT_EQ(ends[0].code, CopyCode::failed);
  EXPECT_FALSE(copier->submit(batch)) << "now and later";
}

TEST_F(GpuCopierTest, TellsWhatComesWrongAndRecordsEvents) {
  start(toml({"memory"}));
  const auto copier = fake();
  std::vector<Layer> its_layers = engine_->options(pool_, shape_.ns).layers;
  ASSERT_EQ(copier->open(pool_, its_layers, {.of_group = {full_pages}}, &error_), KVPOOL_OK);
  EXPECT_TRUE(copier->can_check(1));
  std::vector<std::byte> segment(full_pages * 6144);
  std::vector<CopyPart> parts(2, CopyPart{.segment = segment.data(), .pages_count = full_pages});
  parts[1].check = kvpool_check{.seed = 3, .sum = 4};
  const std::vector<int32_t> numbers = {0, 2, 3, 1};
  const CopyBatch batch{.way = CopyWay::to_pages, .parts = parts, .pages = numbers, .tag = 7};
  std::array<CopyEnd, 4> ends;
  for (const bool corrupts : {true, false}) {
    seen_.corrupts = corrupts;
    EXPECT_EQ(copier->submit(batch), 2U);
    ASSERT_EQ(copier->poll(ends), 1U);
    EXPECT_EQ(ends[0].code, corrupts ? CopyCode::wrong_bytes : CopyCode::good);
  }
  EXPECT_TRUE(copier->record(79));
  ASSERT_EQ(seen_.recorded.size(), 1U);
  EXPECT_EQ(seen_.recorded.front(), std::pair(GpuDirection::load, uintptr_t{79}));
  ASSERT_EQ(seen_.checks.size(), 2U);
  EXPECT_EQ(seen_.checks[0].seed, 3U);
  EXPECT_EQ(seen_.checks[0].sum, 4U);
  its_layers[1].pieces = {{0, 4080}};
  const auto other = fake();
  testing::internal::CaptureStderr();
  ASSERT_EQ(other->open(pool_, its_layers, {.of_group = {full_pages}}, &error_), KVPOOL_OK);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("1 of 6 layers"), std::string::npos);
  EXPECT_FALSE(other->can_check(1));
  EXPECT_TRUE(other->can_check(2));
}

}  // namespace
}  // namespace kvpool::pages
