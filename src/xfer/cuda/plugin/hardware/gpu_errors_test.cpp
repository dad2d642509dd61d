#include <poll.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "xfer/cuda/plugin/cuda_transfer.h"
#include "xfer/cuda/plugin/hardware/gpu_fixture.h"
#include "xfer/cuda/plugin/hardware/test_kernels.h"

namespace kvpool {
namespace {

class GpuErrors : public testing::Test {
 protected:
  GpuErrors() : cache_(11, Oddness::aligned), transfer_(open_transfer({.pieces_max = 256}, cache_)) {}

  void expect_refused(const std::vector<PagedSegment>& segments, const std::vector<int32_t>& pages,
                      Errc code) {
    const auto ticket = transfer_->submit(
        {.direction = GpuDirection::load, .segments = segments, .pages = pages, .after = {}});
    ASSERT_FALSE(ticket);
    EXPECT_EQ(ticket.error().code, code) << ticket.error().message;
    EXPECT_FALSE(ticket.error().message.empty());
  }

  PagedCache cache_;
  std::unique_ptr<GpuTransfer> transfer_;
};

TEST_F(GpuErrors, WrongBatchesAreRefusedAndChangeNothing) {
  std::byte* const host = cache_.host().data();
  const auto pages = static_cast<int32_t>(cache_.layers()[0].pages);
  expect_refused({{host, 99, 0, 1}}, {0}, Errc::invalid_argument);
  expect_refused({{host, 0, 0, 2}}, {0}, Errc::invalid_argument);
  expect_refused({{host, 0, 3, 1}}, {0}, Errc::invalid_argument);
  expect_refused({{host, 0, 0, 1}}, {pages}, Errc::invalid_argument);
  expect_refused({{nullptr, 0, 0, 1}}, {0}, Errc::invalid_argument);
  std::vector<std::byte> unpinned(1 << 20);
  expect_refused({{unpinned.data(), 0, 0, 1}}, {0}, Errc::invalid_argument);
  expect_refused({{host + PagedCache::host_bytes - 1, 0, 0, 1}}, {0}, Errc::invalid_argument);
  std::vector<int32_t> many;
  for (int i = 0; i < 400; ++i) many.push_back(i % 2 * 3);
  expect_refused({{host, 0, 0, 400}}, many, Errc::too_large);
  EXPECT_TRUE(transfer_->failure().empty());
  cache_.expect_same();
}

TEST_F(GpuErrors, MemoryThatIsNotTheGpusIsNoCache) {
  std::vector<std::byte> plain(4096);
  const auto layers_at = [](std::byte* base, uint32_t pages) {
    return std::vector<PagedLayer>{
        {.base = base, .page_stride_bytes = 1024, .pages = pages, .pieces = {{0, 1024}}}};
  };
  for (std::byte* const base : {plain.data(), cache_.host().data()}) {
    const Status set = transfer_->set_layers(layers_at(base, 4));
    ASSERT_FALSE(set);
    EXPECT_EQ(set.error().code, Errc::invalid_argument);
  }
  EXPECT_FALSE(transfer_->set_layers(layers_at(cache_.device(), 1U << 30))) << "beyond its end";
  EXPECT_TRUE(transfer_->set_layers(layers_at(cache_.device(), 4)));
}

TEST_F(GpuErrors, OptionsAndDevicesThatAreNotThereAreRefused) {
  EXPECT_EQ(CudaTransfer::open({.device = 99}).error().code, Errc::unsupported);
  EXPECT_EQ(CudaTransfer::open({.device = -1}).error().code, Errc::unsupported);
  EXPECT_EQ(CudaTransfer::open({.batches_max = 0}).error().code, Errc::invalid_argument);
  EXPECT_EQ(CudaTransfer::open({.pieces_max = 0}).error().code, Errc::invalid_argument);
  EXPECT_EQ(CudaTransfer::open({.staging_bytes = 1}).error().code, Errc::invalid_argument);
}

TEST_F(GpuErrors, RegisteredMemoryMayBeRegisteredAgain) {
  std::vector<std::byte> memory(3 << 20);
  EXPECT_TRUE(transfer_->register_host(memory));
  auto other = CudaTransfer::open({.pieces_max = 64});
  ASSERT_TRUE(other);
  EXPECT_TRUE((*other)->register_host(memory));
  other->reset();
  // Still registered: it was the first one's.
  cudaPointerAttributes attributes{};
  ASSERT_CUDA(cudaPointerGetAttributes(&attributes, memory.data()));
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  transfer_.reset();
  ASSERT_CUDA(cudaPointerGetAttributes(&attributes, memory.data()));
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
  EXPECT_CUDA(cudaGetLastError());
}

// Carried while another stream captures a graph, behind an event from before; the graph is not disturbed.
TEST_F(GpuErrors, ABatchIsCarriedDuringACapture) {
  const Stream external = make_external();
  const PagedCache::Batch batch = cache_.next(2);
  const Event event = record(external);
  ASSERT_CUDA(cudaStreamBeginCapture(external.get(), cudaStreamCaptureModeGlobal));
  PagedBatch after = batch.view(GpuDirection::load);
  after.after = number_of(event);
  cache_.apply(GpuDirection::load, batch);
  EXPECT_TRUE(transfer_->submit(after));
  expect_completions(*transfer_, 1);
  cudaGraph_t graph = nullptr;
  ASSERT_CUDA(cudaStreamEndCapture(external.get(), &graph));
  EXPECT_CUDA(cudaGraphDestroy(graph));
  cache_.expect_same();
}

TEST_F(GpuErrors, AnEventOfACaptureIsRefused) {
  const Stream external = make_external();
  const PagedCache::Batch batch = cache_.next(2);
  ASSERT_CUDA(cudaStreamBeginCapture(external.get(), cudaStreamCaptureModeGlobal));
  const Event event = record(external);
  PagedBatch after = batch.view(GpuDirection::load);
  after.after = number_of(event);
  const auto refused = transfer_->submit(after);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  // The capture may be lost by the question.
  cudaGraph_t graph = nullptr;
  const cudaError_t captured = cudaStreamEndCapture(external.get(), &graph);
  if (captured == cudaSuccess) {
    EXPECT_CUDA(cudaGraphDestroy(graph));
  }
  (void)std::printf("the capture: %s\n", cudaGetErrorName(captured));
  (void)cudaGetLastError();
  cache_.apply(GpuDirection::load, batch);
  EXPECT_TRUE(transfer_->submit(batch.view(GpuDirection::load)));
  expect_completions(*transfer_, 1);
  EXPECT_TRUE(transfer_->failure().empty());
  cache_.expect_same();
}

TEST_F(GpuErrors, TheCallersDeviceAndLastErrorStayAsTheyAre) {
  const PagedCache::Batch batch = cache_.next(2);
  cache_.apply(GpuDirection::load, batch);
  EXPECT_TRUE(transfer_->submit(batch.view(GpuDirection::load)));
  expect_completions(*transfer_, 1);
  int device = -1;
  EXPECT_CUDA(cudaGetDevice(&device));
  EXPECT_EQ(device, 0);
  EXPECT_CUDA(cudaGetLastError());
}

// What becomes of a transfer whose CUDA context is broken: 0 if all is as it should be.
int broken_context() {
  PagedCache cache(12, Oddness::aligned);
  const auto transfer = open_transfer({}, cache);
  const PagedCache::Batch batch = cache.next(4);
  if (!transfer || !transfer->submit(batch.view(GpuDirection::load))) return 1;
  const Stream external = make_external();
  if (launch_trap(external.get()) != cudaSuccess) return 2;
  const Event event = record(external);
  PagedBatch after = batch.view(GpuDirection::load);
  after.after = number_of(event);
  size_t wanted = transfer->submit(after) ? 2 : 1;
  // As a sleeper, which CUDA may not wake any more.
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  Errc last = Errc::ok;
  while (wanted > 0) {
    std::array<GpuCompletion, 4> taken;
    transfer->prepare_wait();
    size_t count = transfer->poll(taken);
    pollfd descriptor{.fd = transfer->event_fd(), .events = POLLIN, .revents = 0};
    if (count == 0) (void)::poll(&descriptor, 1, GpuTransfer::look_ms_max);
    transfer->done_wait();
    if (count == 0) count = transfer->poll(taken);
    if (count > 0) last = taken[count - 1].code;
    wanted -= count;
    if (std::chrono::steady_clock::now() > limit) return 3;
  }
  (void)cudaStreamSynchronize(external.get());
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto refused = transfer->submit(batch.view(GpuDirection::load));
  if (refused) {
    std::array<GpuCompletion, 4> taken;
    while (transfer->poll(taken) == 0) continue;
    last = taken[0].code;
  } else {
    last = refused.error().code;
  }
  const auto again = transfer->submit(batch.view(GpuDirection::load));
  (void)std::fprintf(stderr, "failure: %s\n", transfer->failure().c_str());
  return !again && again.error().code == Errc::io_error && last == Errc::io_error &&
                 !transfer->failure().empty()
             ? 0
             : 4;
}

TEST(GpuBrokenContextDeathTest, EveryBatchFailsAndNoneHangs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::_Exit(broken_context()), testing::ExitedWithCode(0), "failure: .*");
}

}  // namespace
}  // namespace kvpool
