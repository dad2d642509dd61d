#include "io/file/file_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace kvpool {
namespace {

constexpr uint64_t page_bytes = 4096;
constexpr uint32_t transfer_bytes_max = 64U << 20;

}  // namespace

Result<std::unique_ptr<FileDevice>> FileDevice::open(const FileDeviceOptions& options) {
  const uint64_t size_bytes = options.size_bytes / page_bytes * page_bytes;
  if (size_bytes == 0) {
    return fail(Errc::invalid_argument, fmt::format("{}: a size of at least 4 KiB is needed", options.path));
  }
  if (options.queue_depth == 0 || options.queue_depth > 4096) {
    return fail(Errc::invalid_argument, fmt::format("{}: a queue depth of {}; 1 to 4096 are allowed",
                                                    options.path, options.queue_depth));
  }
  auto file = PoolFile::open(options.path, size_bytes);
  if (!file) return tl::unexpected(file.error());
  std::unique_ptr<FileDevice> device(new FileDevice(options, std::move(*file)));
  if (Status made = device->ring_.make(); !made) return tl::unexpected(made.error());
  if (!device->direct()) {
    log_warn("{}: the file system of {} has no O_DIRECT; it is read and written through the page cache",
             options.name, options.path);
  }
  return device;
}

FileDevice::FileDevice(const FileDeviceOptions& options, PoolFile file)
    : name_(options.name), file_(std::move(file)), ring_(options.name, options.queue_depth) {
  limits_.size_bytes = file_.header().size_bytes;
  limits_.alignment_bytes = file_.header().alignment_bytes;
  limits_.transfer_bytes_max =
      static_cast<uint32_t>(std::min<uint64_t>(transfer_bytes_max, limits_.size_bytes));
  limits_.queue_depth_max = options.queue_depth;
  limits_.storage = true;
}

FileDevice::~FileDevice() {
  // The next owner of the file must not meet writes of ours that are still on their way.
  if (!ring_.is_idle()) file_.leave_lock_to_kernel();
}

Status FileDevice::start(std::span<const std::span<std::byte>> regions) {
  const int fd = file_.fd();
  return ring_.start(std::span(&fd, 1), regions);
}

bool FileDevice::submit(const IoRequest& request) {
  KVPOOL_ASSERT(request.length_bytes > 0 && request.length_bytes <= limits_.transfer_bytes_max &&
                request.offset.value <= limits_.size_bytes - request.length_bytes);
  // The kernel would take some unaligned requests, and carry them out through the page cache.
  KVPOOL_ASSERT(request.offset.value % limits_.alignment_bytes == 0 &&
                request.length_bytes % limits_.alignment_bytes == 0 && request.buffer != nullptr);
  return ring_.submit(request, [&](io_uring_sqe& sqe, int index) {
    const uint64_t offset = pool_data_offset_bytes + request.offset.value;
    const bool is_read = request.kind == IoKind::read;
    if (is_read && index >= 0) {
      io_uring_prep_read_fixed(&sqe, 0, request.buffer, request.length_bytes, offset, index);
    } else if (is_read) {
      io_uring_prep_read(&sqe, 0, request.buffer, request.length_bytes, offset);
    } else if (index >= 0) {
      io_uring_prep_write_fixed(&sqe, 0, request.buffer, request.length_bytes, offset, index);
    } else {
      io_uring_prep_write(&sqe, 0, request.buffer, request.length_bytes, offset);
    }
  });
}

size_t FileDevice::poll(std::span<IoCompletion> out) {
  return ring_.poll(out, [this](int32_t result, uint32_t length_bytes, IoCompletion& completion) {
    if (result < 0) {
      completion.code = Errc::io_error;
      ring_.log_failure(std::generic_category().message(-result));
      return true;
    }
    completion.bytes = static_cast<uint32_t>(result);
    if (completion.bytes == length_bytes) return true;
    completion.code = Errc::short_io;
    ring_.log_failure("fewer bytes moved than asked");
    return true;
  });
}

}  // namespace kvpool
