#include "bench/files_device.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/assert.h"

namespace kvpool::bench {
namespace {

constexpr uint32_t page_bytes = 4096;
constexpr uint64_t transfer_bytes_max = 1ULL << 30;
// One call of read or write: large enough to cost nothing, small enough that copying starts while the rest of
// a chunk is still being read ahead.
constexpr uint64_t call_bytes_max = 4ULL << 20;

}  // namespace

Result<std::unique_ptr<FilesDevice>> FilesDevice::create(FilesDirectory& directory,
                                                         const FilesDeviceOptions& options) {
  KVPOOL_ASSERT(options.chunk_bytes > 0 && options.chunk_bytes % page_bytes == 0);
  KVPOOL_ASSERT(options.workers > 0 && options.queue_depth > 0);
  const uint64_t chunks = options.size_bytes / options.chunk_bytes;
  if (chunks == 0) return fail(Errc::invalid_argument, options.name + ": its size is less than one chunk");
  FileHandle event_fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event_fd.valid()) return fail_errno(errno, "making an eventfd");
  if (auto made = directory.make_chunks(static_cast<uint32_t>(chunks), options.chunk_bytes); !made) {
    return tl::unexpected(made.error());
  }
  return std::unique_ptr<FilesDevice>(new FilesDevice(directory, options, std::move(event_fd)));
}

FilesDevice::FilesDevice(FilesDirectory& directory, const FilesDeviceOptions& options, FileHandle event_fd)
    : directory_(directory),
      options_(options),
      event_fd_(std::move(event_fd)),
      waiting_(options.queue_depth) {
  finished_.reserve(options.queue_depth);
  for (uint32_t i = 0; i < options.workers; ++i) workers_.emplace_back([this] { work(); });
}

FilesDevice::~FilesDevice() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_there_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

DeviceLimits FilesDevice::limits() const {
  DeviceLimits limits;
  limits.size_bytes = uint64_t{directory_.chunks()} * options_.chunk_bytes;
  limits.alignment_bytes = page_bytes;
  limits.transfer_bytes_max = static_cast<uint32_t>(std::min(transfer_bytes_max, limits.size_bytes));
  limits.queue_depth_max = options_.queue_depth;
  limits.storage = true;
  return limits;
}

bool FilesDevice::submit(const IoRequest& request) {
  {
    const std::lock_guard lock(mutex_);
    if (in_flight_ == options_.queue_depth) return false;
    ++in_flight_;
    waiting_[(waiting_first_ + waiting_count_++) % waiting_.size()] = request;
  }
  work_there_.notify_one();
  return true;
}

size_t FilesDevice::poll(std::span<IoCompletion> out) {
  const std::lock_guard lock(mutex_);
  const size_t count = std::min(out.size(), finished_.size());
  std::copy_n(finished_.begin(), count, out.begin());
  finished_.erase(finished_.begin(), finished_.begin() + static_cast<std::ptrdiff_t>(count));
  in_flight_ -= static_cast<uint32_t>(count);
  if (finished_.empty() && count > 0) {
    uint64_t ignored = 0;
    [[maybe_unused]] const auto n = read(event_fd_.get(), &ignored, sizeof ignored);
  }
  return count;
}

void FilesDevice::work() {
  pthread_setname_np(pthread_self(), "bench-files");
  std::unique_lock lock(mutex_);
  while (true) {
    work_there_.wait(lock, [this] { return stopping_ || waiting_count_ > 0; });
    if (waiting_count_ == 0) return;
    const IoRequest request = waiting_[waiting_first_];
    waiting_first_ = (waiting_first_ + 1) % waiting_.size();
    --waiting_count_;
    lock.unlock();
    const IoCompletion completion = serve(request);
    lock.lock();
    finished_.push_back(completion);
    if (finished_.size() == 1) {
      const uint64_t one = 1;
      [[maybe_unused]] const auto n = write(event_fd_.get(), &one, sizeof one);
    }
  }
}

IoCompletion FilesDevice::serve(const IoRequest& request) {
  IoCompletion completion;
  completion.tag = request.tag;
  uint64_t done = 0;
  while (done < request.length_bytes) {
    const int64_t moved = move(request, done);
    if (moved <= 0) {
      completion.code = moved == 0 ? Errc::short_io : Errc::io_error;
      break;
    }
    done += static_cast<uint64_t>(moved);
  }
  completion.bytes = static_cast<uint32_t>(done);
  return completion;
}

int64_t FilesDevice::move(const IoRequest& request, uint64_t done) {
  const uint64_t offset = request.offset.value + done;
  const uint64_t in_chunk = offset % options_.chunk_bytes;
  const uint64_t length = std::min(request.length_bytes - done, options_.chunk_bytes - in_chunk);
  const FileHandle chunk = directory_.open_chunk(static_cast<uint32_t>(offset / options_.chunk_bytes));
  if (!chunk.valid()) return -1;
  if (request.kind == IoKind::read) {
    // The whole range in requests as large as the disk takes, instead of a window that doubles.
    posix_fadvise(chunk.get(), static_cast<off_t>(in_chunk), static_cast<off_t>(length), POSIX_FADV_WILLNEED);
  }
  uint64_t moved = 0;
  while (moved < length) {
    std::byte* const buffer = request.buffer + done + moved;
    const uint64_t ask = std::min(length - moved, call_bytes_max);
    const auto at = static_cast<off_t>(in_chunk + moved);
    const ssize_t n = request.kind == IoKind::read ? pread(chunk.get(), buffer, ask, at)
                                                   : pwrite(chunk.get(), buffer, ask, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    moved += static_cast<uint64_t>(n);
  }
  if (request.kind == IoKind::read && forget_.load(std::memory_order_relaxed)) {
    posix_fadvise(chunk.get(), static_cast<off_t>(in_chunk), static_cast<off_t>(length), POSIX_FADV_DONTNEED);
  }
  return static_cast<int64_t>(moved);
}

}  // namespace kvpool::bench
