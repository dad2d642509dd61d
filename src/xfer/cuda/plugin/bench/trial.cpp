#include "xfer/cuda/plugin/bench/trial.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "xfer/cuda/plugin/bench/memory.h"
#include "xfer/cuda/plugin/bench/runner.h"
#include "xfer/cuda/plugin/bench/workload.h"
#include "xfer/cuda/plugin/cuda_plugin_impl.h"

namespace kvpool {
namespace {

constexpr unsigned patience_s = 30;
constexpr uint64_t trial_bytes = 32 << 20;

Status try_method(GpuMethod method, int device) {
  auto transfer = cuda_plugin().open({.device = device, .method = method});
  if (!transfer) return tl::unexpected(transfer.error());
  HostMemory from;
  HostMemory to;
  Status good = from.open(trial_bytes, 1);
  if (good) good = to.open(trial_bytes, 2);
  if (good) good = (*transfer)->register_host(from.bytes());
  if (good) good = (*transfer)->register_host(to.bytes());
  DeviceMemory block;
  if (good) good = make_device_memory(block, Workload::block_bytes(trial_bytes));
  if (!good) return good;
  const CacheShape shape{
      .name = "trial", .layers = 4, .page_bytes = 32 << 10, .segment_pages = {16, 8}, .runs = false};
  const Workload workload(shape, trial_bytes, from.bytes(), to.bytes(), block.get(), 4 << 20);
  good = (*transfer)->set_layers(workload.layers());
  if (!good) return good;
  const auto times = run_workload(**transfer, workload, {.directions = {.load = true, .store = true}});
  transfer->reset();  // before its memory goes
  return times ? Status{} : tl::unexpected(times.error());
}

}  // namespace

bool method_works(GpuMethod method, int device) {
  (void)std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    alarm(patience_s);
    const Status good = try_method(method, device);
    if (!good) {
      (void)std::fprintf(stderr, "  %s: %s\n", std::string(to_string(method)).c_str(),
                         good.error().message.c_str());
    }
    _exit(good ? 0 : 1);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return false;
  if (WIFSIGNALED(status)) {
    (void)std::fprintf(stderr, "  %s: signal %d (14: it hung)\n", std::string(to_string(method)).c_str(),
                       WTERMSIG(status));
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace kvpool
