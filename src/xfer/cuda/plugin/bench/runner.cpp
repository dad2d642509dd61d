#include "xfer/cuda/plugin/bench/runner.h"

#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/median.h"

namespace kvpool {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double cpu_seconds() {
  rusage usage{};
  (void)getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

constexpr size_t samples_each = 64;
constexpr int poison = 0xa5;

class Check {
 public:
  Check(const Workload& workload, GpuDirection direction, size_t batches)
      : direction_(direction),
        page_bytes_(workload.shape().page_bytes),
        samples_(workload.samples(direction, batches, samples_each)) {}

  [[nodiscard]] Status spoil() const {
    cudaError_t error = cudaSuccess;
    for (const Workload::Sample& sample : samples_) {
      if (direction_ == GpuDirection::store) {
        std::memset(sample.host, poison, page_bytes_);
      } else if (error == cudaSuccess) {
        error = cudaMemset(sample.device, poison, page_bytes_);
      }
    }
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    return error == cudaSuccess ? Status{} : fail_cuda(error, "poisoning pages");
  }

  [[nodiscard]] Status compare() const {
    std::vector<std::byte> page(page_bytes_);
    for (const Workload::Sample& sample : samples_) {
      const cudaError_t error = cudaMemcpy(page.data(), sample.device, page_bytes_, cudaMemcpyDeviceToHost);
      if (error != cudaSuccess) return fail_cuda(error, "reading a page back");
      if (std::memcmp(page.data(), sample.host, page_bytes_) != 0) {
        return fail(Errc::corrupt, "a page differs from its place in the segment");
      }
    }
    return {};
  }

 private:
  GpuDirection direction_;
  uint64_t page_bytes_;
  std::vector<Workload::Sample> samples_;
};

class Run {
 public:
  Run(GpuTransfer& transfer, const Workload& workload, const RunOptions& options)
      : transfer_(transfer), workload_(workload), options_(options) {
    if (options.directions.load) add(GpuDirection::load);
    if (options.directions.store) add(GpuDirection::store);
  }

  [[nodiscard]] Result<RunTimes> run() {
    for (const Check& check : checks_) {
      if (Status spoilt = check.spoil(); !spoilt) return tl::unexpected(spoilt.error());
    }
    const double cpu_before = cpu_seconds();
    const auto start = Clock::now();
    while (completed_ < times_.batches) {
      if (Status good = submit(); !good) return tl::unexpected(good.error());
      if (Status good = take(); !good) return tl::unexpected(good.error());
    }
    times_.seconds = seconds_since(start);
    times_.cpu_seconds = cpu_seconds() - cpu_before;
    for (const Check& check : checks_) {
      if (Status same = check.compare(); !same) return tl::unexpected(same.error());
    }
    return times_;
  }

 private:
  struct Way {
    GpuDirection direction;
    size_t next = 0;
    size_t count = 0;
  };

  void add(GpuDirection direction) {
    const size_t count = std::min(workload_.batches(direction).size(), options_.batches_max);
    ways_.push_back({direction, 0, count});
    times_.batches += count;
    for (size_t i = 0; i < count; ++i) times_.bytes += workload_.batch_bytes(direction, i);
    if (options_.checks) checks_.emplace_back(workload_, direction, count);
  }

  // A batch of each direction in turn, until both are full or done.
  [[nodiscard]] Status submit() {
    const auto start = Clock::now();
    for (bool more = true; more;) {
      more = false;
      for (Way& way : ways_) {
        if (way.next == way.count) continue;
        const Result<GpuTicket> ticket = transfer_.submit(workload_.batches(way.direction)[way.next]);
        if (!ticket && ticket.error().code == Errc::busy) continue;
        if (!ticket) return tl::unexpected(ticket.error());
        ++way.next;
        more = true;
      }
    }
    times_.submit_seconds += seconds_since(start);
    return {};
  }

  // At least one completion.
  [[nodiscard]] Status take() {
    std::array<GpuCompletion, 64> taken;
    size_t count = transfer_.poll(taken);
    while (count == 0) {
      transfer_.prepare_wait();
      count = transfer_.poll(taken);
      if (count == 0) {
        pollfd descriptor{.fd = transfer_.event_fd(), .events = POLLIN, .revents = 0};
        (void)::poll(&descriptor, 1, GpuTransfer::look_ms_max);
      }
      transfer_.done_wait();
      if (count == 0) count = transfer_.poll(taken);
    }
    for (size_t i = 0; i < count; ++i) {
      if (taken[i].code != Errc::ok) return fail(taken[i].code, transfer_.failure());
    }
    completed_ += count;
    return {};
  }

  GpuTransfer& transfer_;
  const Workload& workload_;
  RunOptions options_;
  std::vector<Way> ways_;
  std::vector<Check> checks_;
  uint64_t completed_ = 0;
  RunTimes times_;
};

}  // namespace

Result<RunTimes> run_workload(GpuTransfer& transfer, const Workload& workload, const RunOptions& options) {
  return Run(transfer, workload, options).run();
}

Result<SmallTimes> run_small(GpuTransfer& transfer, const PagedBatch& batch, size_t times) {
  std::vector<double> submits;
  std::vector<double> totals;
  for (size_t i = 0; i < times; ++i) {
    const auto start = Clock::now();
    const Result<GpuTicket> ticket = transfer.submit(batch);
    submits.push_back(seconds_since(start) * 1e6);
    if (!ticket) return tl::unexpected(ticket.error());
    std::array<GpuCompletion, 1> taken;
    while (transfer.poll(taken) == 0) continue;
    totals.push_back(seconds_since(start) * 1e6);
    if (taken[0].code != Errc::ok) return fail(taken[0].code, transfer.failure());
  }
  return SmallTimes{median(submits), median(totals)};
}

}  // namespace kvpool
