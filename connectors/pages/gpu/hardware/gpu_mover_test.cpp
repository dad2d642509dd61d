// PageMover with pages in GPU memory, a real pool and a real GPU. Says SKIP, with exit status 77, where there
// is no GPU.

#include <fcntl.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "connectors/pages/gpu/gpu_copier.h"
#include "connectors/pages/mover_fixture.h"
#include "xfer/cuda/cuda_plugin.h"
#include "xfer/cuda/plugin/cuda_handles.h"
#include "xfer/cuda/plugin/hardware/test_kernels.h"

namespace kvpool::pages {
namespace {

#define ASSERT_CUDA(call) ASSERT_EQ((call), cudaSuccess)
#define EXPECT_CUDA(call) EXPECT_EQ((call), cudaSuccess)

constexpr uint64_t moment_us = 30'000;

// A stream as an engine has one, that stops at a gate until it is opened.
class Gate {
 public:
  Gate() {
    cudaStream_t stream = nullptr;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    stream_.reset(stream);
    EXPECT_TRUE(make_pinned(open_, 1));
    // A kernel that is launched for the first time may wait for what is under way.
    open();
    EXPECT_CUDA(launch_gate(open_.get(), stream_.get()));
    EXPECT_CUDA(cudaStreamSynchronize(stream_.get()));
    shut();
  }
  ~Gate() {
    open();
    (void)cudaStreamSynchronize(stream_.get());
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  void shut() { __atomic_store_n(open_.get(), 0, __ATOMIC_RELEASE); }
  void open() { __atomic_store_n(open_.get(), 1, __ATOMIC_RELEASE); }
  // What is put on the stream from now on waits for open().
  void close_off() { EXPECT_CUDA(launch_gate(open_.get(), stream_.get())); }
  // An event behind what is on the stream now, as a number.
  [[nodiscard]] uint64_t event() {
    kvpool::Event made;
    EXPECT_TRUE(make_event(made));
    EXPECT_CUDA(cudaEventRecord(made.get(), stream_.get()));
    events_.push_back(std::move(made));
    return reinterpret_cast<uintptr_t>(events_.back().get());
  }
  [[nodiscard]] cudaStream_t stream() const { return stream_.get(); }

 private:
  Stream stream_;
  Pinned<uint32_t> open_;
  std::vector<kvpool::Event> events_;
};

class GpuMover : public PageMoverTest {
 protected:
  // False: files cannot be used here.
  [[nodiscard]] bool start_gpu(const std::string& text, bool windows = false) {
    if (const kvpool_status status = try_open(text, &pool_); status != KVPOOL_OK) {
      EXPECT_NE(text.find("\"file\""), std::string::npos) << error_.message;
      (void)std::printf("no file device: %s\n", error_.message);
      return false;
    }
    engine_ = std::make_unique<Engine>(windows);
    shape_ = make(engine_->shape());
    client_ = std::make_unique<Client>(pool_);
    EXPECT_TRUE(make_device_memory(device_, engine_->memory().size()));
    to_engine();
    kvpool_status status = KVPOOL_OK;
    mover_ = PageMover::open(gpu_options(), &status, &error_);
    EXPECT_EQ(status, KVPOOL_OK) << error_.message;
    return mover_ != nullptr;
  }
  [[nodiscard]] MoverOptions gpu_options(int device = 0) {
    MoverOptions options = engine_->options(pool_, shape_.ns);
    for (Layer& layer : options.layers) layer.base = device_.get() + (layer.base - engine_->memory().data());
    options.copier = gpu_copier(device);
    return options;
  }
  void finish() {
    EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK) << error_.message;
    mover_.reset();
    client_.reset();
    close();
    std::filesystem::remove(file_path());
  }
  void to_engine() override {
    EXPECT_CUDA(cudaMemcpy(device_.get(), engine_->memory().data(), engine_->memory().size(),
                           cudaMemcpyHostToDevice));
    EXPECT_CUDA(cudaStreamSynchronize(nullptr));  // and no other, which may stand at a gate
  }
  void from(const DeviceMemory& memory) {
    EXPECT_CUDA(
        cudaMemcpy(engine_->memory().data(), memory.get(), engine_->memory().size(), cudaMemcpyDeviceToHost));
  }
  void clear() {
    engine_->clear();
    to_engine();
  }
  void expect_loads(uint64_t first_key, uint32_t blocks, uint64_t after = 0) {
    const auto numbers = pages_for(blocks, 7, true);
    const uint64_t id = begin_load(pin(first_key, blocks), numbers, 0, after);
    EXPECT_EQ(ended(id, EventKind::loaded), blocks);
    from(device_);
    EXPECT_EQ(complete_blocks(numbers, first_key), blocks);
    EXPECT_TRUE(engine_->gaps_are_untouched());
  }
  // Loads a run that is not whole any more.
  void expect_loads_in_part(kvpool_pin held, uint32_t blocks) {
    const auto numbers = pages_for(blocks, 6, true);
    const uint32_t loaded = ended(begin_load(held, numbers), EventKind::loaded);
    EXPECT_LT(loaded, blocks);
    from(device_);
    EXPECT_GE(complete_blocks(numbers, 1), loaded);
    EXPECT_EQ(mover_->stats().failed_loads, 1U);
  }
  int break_context();

  DeviceMemory device_;
};

TEST_F(GpuMover, BringsBackWhatItStored) {
  const std::vector<std::vector<std::string>> mixes = {{"memory"}, {"memory", "file"}, {"file"}};
  for (const auto& kinds : mixes) {
    for (const bool windows : {false, true}) {
      SCOPED_TRACE(kinds.front() + std::to_string(kinds.size()) + (windows ? " with windows" : ""));
      if (!start_gpu(toml(kinds), windows)) GTEST_SKIP() << "only a part was tested";
      const uint32_t more = windows ? 1 : 3;  // as many as have pages of their own
      for (uint64_t first = 1; first < 1000; first += 100) {
        EXPECT_EQ(store(first, 9), 9U);
        EXPECT_EQ(store(first + 9, more, true), more);
        expect_loads(first, 9 + more);
        clear();
      }
      EXPECT_EQ(mover_->stats().loaded_blocks, 10 * (9 + more));
      EXPECT_EQ(mover_->stats().failed_loads + mover_->stats().failed_stores, 0U);
      finish();
    }
  }
}

TEST_F(GpuMover, TakesManyJobsAtOnce) {
  ASSERT_TRUE(start_gpu(toml({"memory"})));
  EXPECT_EQ(store(1, 16), 16U);
  const kvpool_pin held = pin(1, 16);
  for (uint32_t round = 0; round < 20; ++round) {
    const auto numbers = pages_for(16, round, true);
    std::vector<uint64_t> ids;
    for (uint32_t block = 0; block < 16; ++block) {
      LoadJob job{.id = ++ids_, .pin = held, .block_first = block, .blocks = 1, .pages = {}};
      job.pages.assign(numbers.begin() + block * full_pages, numbers.begin() + (block + 1) * full_pages);
      ASSERT_EQ(mover_->load(job), KVPOOL_OK);
      ids.push_back(job.id);
    }
    for (const uint64_t id : ids) EXPECT_EQ(ended(id, EventKind::loaded), 1U);
    from(device_);
    EXPECT_EQ(complete_blocks(numbers, 1), 16U);
    clear();
  }
}

TEST_F(GpuMover, AStoreReadsWhatTheStreamWroteBeforeItsEvent) {
  ASSERT_TRUE(start_gpu(toml({"memory"})));
  const auto numbers = pages_for(4, 3, false);
  DeviceMemory source;
  ASSERT_TRUE(make_device_memory(source, engine_->memory().size()));
  fill(numbers, 1);
  ASSERT_CUDA(
      cudaMemcpy(source.get(), engine_->memory().data(), engine_->memory().size(), cudaMemcpyHostToDevice));
  Gate gate;
  Gate never;
  gate.close_off();
  ASSERT_CUDA(cudaMemcpyAsync(device_.get(), source.get(), engine_->memory().size(), cudaMemcpyDeviceToDevice,
                              gate.stream()));
  StoreJob job{.id = ++ids_, .chain = 1, .keys = {}, .pages = numbers, .after = gate.event()};
  for (uint64_t block = 1; block <= 4; ++block) job.keys.push_back(key(block));
  ASSERT_EQ(mover_->store(job), KVPOOL_OK);
  EXPECT_FALSE(mover_->wait_gathered(job.id, moment_us));
  never.close_off();
  ASSERT_CUDA(cudaStreamWaitEvent(gate.stream(), reinterpret_cast<cudaEvent_t>(never.event()), 0));
  gate.open();
  EXPECT_EQ(ended(job.id, EventKind::stored), 4U);
  EXPECT_EQ(cudaStreamQuery(gate.stream()), cudaErrorNotReady) << "what came later was not waited for";
  (void)cudaGetLastError();
  never.open();
  ASSERT_CUDA(cudaStreamSynchronize(gate.stream()));
  clear();
  expect_loads(1, 4);
}

TEST_F(GpuMover, ALoadDoesNotBeginBeforeItsEvent) {
  ASSERT_TRUE(start_gpu(toml({"memory"})));
  EXPECT_EQ(store(1, 12), 12U);
  DeviceMemory aside;
  ASSERT_TRUE(make_device_memory(aside, engine_->memory().size()));
  Gate gate;
  gate.close_off();
  ASSERT_CUDA(cudaMemcpyAsync(aside.get(), device_.get(), engine_->memory().size(), cudaMemcpyDeviceToDevice,
                              gate.stream()));
  const auto numbers = pages_for(12, 7, true);
  const uint64_t id = begin_load(pin(1, 12), numbers, 0, gate.event());
  EXPECT_FALSE(mover_->wait_ended(id, moment_us));
  gate.open();
  EXPECT_EQ(ended(id, EventKind::loaded), 12U);
  ASSERT_CUDA(cudaStreamSynchronize(gate.stream()));
  from(aside);
  EXPECT_EQ(complete_blocks(numbers, 1), 0U);
  from(device_);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
}

// Streams that wait for a part's event find that part, though no copy has begun when they are told to.
TEST_F(GpuMover, PartsAreThereBehindTheirEvents) {
  ASSERT_TRUE(start_gpu(toml({"memory"})));
  EXPECT_EQ(store(1, 12), 12U);
  const auto numbers = pages_for(12, 7, true);
  constexpr uint64_t layer_bytes = uint64_t{pages} * stride_bytes;
  for (int round = 0; round < 20; ++round) {
    DeviceMemory aside;
    ASSERT_TRUE(make_device_memory(aside, engine_->memory().size()));
    Gate gate;
    std::array<Gate, 3> readers;
    gate.close_off();
    const std::vector<LoadPart> parts = {
        {1, readers[0].event()}, {4, readers[1].event()}, {layers, readers[2].event()}};
    const uint64_t id = begin_load(pin(1, 12), numbers, 0, gate.event(), parts);
    ASSERT_TRUE(wait_ordered(id));
    uint64_t first = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      const uint64_t end = parts[i].layers_end * layer_bytes;
      ASSERT_CUDA(cudaStreamWaitEvent(readers[i].stream(), reinterpret_cast<cudaEvent_t>(parts[i].event), 0));
      ASSERT_CUDA(cudaMemcpyAsync(aside.get() + first, device_.get() + first, end - first,
                                  cudaMemcpyDeviceToDevice, readers[i].stream()));
      first = end;
    }
    EXPECT_FALSE(mover_->wait_ended(id, moment_us / 10));
    gate.open();
    EXPECT_EQ(ended(id, EventKind::loaded), 12U);
    for (Gate& reader : readers) ASSERT_CUDA(cudaStreamSynchronize(reader.stream()));
    from(aside);
    EXPECT_EQ(complete_blocks(numbers, 1), 12U);
    clear();
  }
}

TEST_F(GpuMover, ACancelledJobEndsAndTheNextOneIsWhole) {
  ASSERT_TRUE(start_gpu(toml({"memory"})));
  EXPECT_EQ(store(1, 12), 12U);
  Gate gate;
  gate.close_off();
  const uint64_t event = gate.event();
  const uint64_t load = begin_load(pin(1, 12), pages_for(12, 7, true), 0, event);
  const uint64_t stored = begin_store(101, 4, false, event);
  EXPECT_FALSE(mover_->wait_ended(load, moment_us));
  mover_->cancel(load);
  mover_->cancel(stored);
  EXPECT_FALSE(mover_->wait_ended(load, moment_us)) << "the GPU may still write its pages";
  EXPECT_FALSE(mover_->wait_gathered(stored, 0));
  gate.open();
  EXPECT_EQ(ended(load, EventKind::loaded), 0U);
  EXPECT_EQ(ended(stored, EventKind::stored), 0U);
  clear();
  expect_loads(1, 12);
  // At any time.
  for (int round = 0; round < 50; ++round) {
    const uint64_t id = begin_load(pin(1, 12), pages_for(12, 7, true));
    std::this_thread::sleep_for(std::chrono::microseconds(round * 20));
    mover_->cancel(id);
    const uint32_t loaded = ended(id, EventKind::loaded);
    EXPECT_TRUE(loaded == 0 || loaded == 12) << loaded;
    if (round % 10 == 9) client_->reuse();
  }
  clear();
  expect_loads(1, 12);
}

TEST_F(GpuMover, ClosingWaitsForTheGpu) {
  ASSERT_TRUE(start_gpu(toml({"memory"})));
  EXPECT_EQ(store(1, 4), 4U);
  Gate gate;
  gate.close_off();
  const uint64_t id = begin_load(pin(1, 4), pages_for(4, 7, true), 0, gate.event());
  EXPECT_FALSE(mover_->wait_ended(id, moment_us));
  EXPECT_EQ(mover_->close(moment_us, &error_), KVPOOL_TIMED_OUT);
  gate.open();
  EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK) << error_.message;
  // The pool's memory is let go of.
  std::array<kvpool_memory, 16> ranges;
  ASSERT_GT(kvpool_memory_ranges(pool_, ranges.data(), ranges.size()), 0U);
  cudaPointerAttributes attributes{};
  ASSERT_CUDA(cudaPointerGetAttributes(&attributes, ranges[0].base));
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
}

TEST_F(GpuMover, ABadByteInMemoryShortensTheLoad) {
  std::string text = toml({"memory"});
  text.insert(text.find("[pool]\n") + 7, "verify = \"always\"\n");
  ASSERT_TRUE(start_gpu(text));
  EXPECT_EQ(store(1, 12), 12U);
  const kvpool_pin held = pin(1, 12);
  const uint32_t columns = shape_.segments();
  kvpool_request request = Client::pinned(held, 5, 1);
  request.flags = KVPOOL_IN_PLACE;
  const auto buffers = client_->allocate_array<uint64_t>(columns);
  for (uint32_t column = 0; column < columns; ++column) {
    buffers[column] =
        kvpool_address(client_->handle(), client_->allocate(shape_.segment_bytes[column]).data());
  }
  const auto places = client_->allocate_array<const void*>(columns);
  request.buffers = buffers.data();
  request.places = places.data();
  ASSERT_EQ(client_->run(kvpool_retrieve, request).result.blocks, 1U);
  static_cast<char*>(const_cast<void*>(places[3]))[1000] ^= 1;
  expect_loads_in_part(held, 12);
  EXPECT_EQ(mover_->stats().wrong_copies, 1U) << "the GPU looks first";
  EXPECT_EQ(stats().checksum_errors, 1U);
}

TEST_F(GpuMover, ABadSectorShortensTheLoad) {
  if (!start_gpu(toml({"memory", "file"}))) GTEST_SKIP() << "no file device";
  EXPECT_EQ(store(1, 12), 12U);
  const kvpool_pin held = pin(1, 12);
  hurt_file(1);
  expect_loads_in_part(held, 12);
}

TEST_F(GpuMover, RefusesWhatIsNotThere) {
  ASSERT_TRUE(start_gpu(toml({"memory"})));
  kvpool_status status = KVPOOL_OK;
  EXPECT_EQ(PageMover::open(gpu_options(99), &status, &error_), nullptr);
  EXPECT_EQ(status, KVPOOL_UNSUPPORTED);
  MoverOptions on_cpu = engine_->options(pool_, shape_.ns);
  on_cpu.copier = gpu_copier(0);
  EXPECT_EQ(PageMover::open(std::move(on_cpu), &status, &error_), nullptr);
  EXPECT_EQ(status, KVPOOL_INVALID_ARGUMENT);
  EXPECT_NE(std::string(error_.message).find("GPU 0"), std::string::npos) << error_.message;
}

// What becomes of a mover whose CUDA context is broken while it works: 0 if all is as it should be.
int GpuMover::break_context() {
  if (!start_gpu(toml({"memory"})) || store(1, 12) != 12) return 1;
  const kvpool_pin held = pin(1, 12);
  const auto numbers = pages_for(12, 7, true);
  Gate gate;
  gate.close_off();
  const uint64_t event = gate.event();
  const uint64_t waiting = begin_load(held, numbers, 0, event);
  StoreJob job{.id = ++ids_, .chain = 1, .keys = {key(501)}, .pages = pages_for(1, 3, false), .after = event};
  if (mover_->store(job) != KVPOOL_OK || mover_->wait_ended(waiting, moment_us)) return 2;
  cudaStream_t trapped = nullptr;
  if (cudaStreamCreateWithFlags(&trapped, cudaStreamNonBlocking) != cudaSuccess) return 3;
  if (launch_trap(trapped) != cudaSuccess) return 4;
  gate.open();
  // These may have been over by then, in part or whole; what is behind the error is not.
  if (!mover_->wait_ended(waiting, patience_us) || !mover_->wait_ended(job.id, patience_us)) return 5;
  (void)cudaStreamSynchronize(trapped);
  if (ended(begin_load(held, numbers), EventKind::loaded) != 0) return 6;
  job.id = ++ids_;
  job.keys = {key(601)};
  job.after = 0;
  if (mover_->store(job) != KVPOOL_OK || !mover_->wait_gathered(job.id, patience_us)) return 7;
  if (ended(job.id, EventKind::stored) != 0) return 8;
  if (mover_->close(patience_us, &error_) != KVPOOL_OK) return 9;
  mover_.reset();
  client_.reset();
  close();
  std::filesystem::remove_all(folder_);
  return 0;
}

TEST_F(GpuMover, EveryJobFailsWhenTheContextIsBrokenAndNoneHangs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::_Exit(break_context()), testing::ExitedWithCode(0), "pages are not moved any more");
}

}  // namespace
}  // namespace kvpool::pages

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto plugin = kvpool::load_cuda();
  const auto transfer =
      plugin ? (*plugin)->open({.batches_max = 1, .pieces_max = 1}) : tl::unexpected(plugin.error());
  if (!transfer && transfer.error().code == kvpool::Errc::unsupported) {
    (void)std::printf("SKIP: %s\n", transfer.error().message.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
