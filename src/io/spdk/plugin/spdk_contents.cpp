// What the drive's thread reads and writes itself, while it owns the queue pair: the header, and what says
// whether the namespace may be written at all.

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "base/checksum.h"
#include "base/log.h"
#include "io/spdk/plugin/spdk_drive.h"

namespace kvpool {
namespace {

constexpr Nanos command_step = std::chrono::microseconds(20);

struct Waiting {
  uint32_t commands = 0;
  bool failed = false;
  spdk_nvme_cpl status{};  // of the first that failed
};

void on_done(void* context, const spdk_nvme_cpl* completion) {
  auto* const waiting = static_cast<Waiting*>(context);
  --waiting->commands;
  if (waiting->failed || !spdk_nvme_cpl_is_error(completion)) return;
  waiting->status = *completion;
  waiting->failed = true;
}

struct FreeDma {
  void operator()(std::byte* memory) const { spdk_free(memory); }
};
// Zeros that a drive can reach; null where there is no more.
std::unique_ptr<std::byte, FreeDma> dma_memory(size_t bytes) {
  return std::unique_ptr<std::byte, FreeDma>(static_cast<std::byte*>(
      spdk_zmalloc(bytes, io_page_bytes, nullptr, SPDK_ENV_NUMA_ID_ANY, SPDK_MALLOC_DMA)));
}

}  // namespace

int SpdkDrive::send(Command command, uint64_t offset, std::span<std::byte> bytes, void* context,
                    spdk_nvme_cmd_cb done) {
  const uint64_t first = offset / block_bytes_;
  const auto blocks = static_cast<uint32_t>(bytes.size() / block_bytes_);
  switch (command) {
    case Command::read:
      return spdk_nvme_ns_cmd_read(namespace_, queue_pair_, bytes.data(), first, blocks, done, context, 0);
    case Command::write:
      return spdk_nvme_ns_cmd_write(namespace_, queue_pair_, bytes.data(), first, blocks, done, context, 0);
    case Command::flush:
      break;
  }
  return spdk_nvme_ns_cmd_flush(namespace_, queue_pair_, done, context);
}

// In as many commands as the drive wants, all under way at once.
Status SpdkDrive::carry_out(Command command, uint64_t offset, std::span<std::byte> bytes) {
  const auto bad = [&](std::string_view why) {
    constexpr std::array<std::string_view, 3> what = {"read", "written to", "flushed"};
    return fail(Errc::io_error, fmt::format("{}: '{}' cannot be {}: {}", options_.name, options_.address,
                                            what[static_cast<size_t>(command)], why));
  };
  Waiting waiting;
  bool sent_all = false;
  int error = 0;
  while (!sent_all || waiting.commands > 0) {
    while (!sent_all && error == 0 && waiting.commands < queue_depth_) {
      const std::span<std::byte> piece = bytes.first(std::min<size_t>(bytes.size(), transfer_bytes_max_));
      error = send(command, offset, piece, &waiting, on_done);
      if (error != 0) break;
      ++waiting.commands;
      offset += piece.size();
      bytes = bytes.subspan(piece.size());
      sent_all = bytes.empty();
    }
    if (error == -ENOMEM && waiting.commands > 0) error = 0;
    const int32_t polled = spdk_nvme_qpair_process_completions(queue_pair_, 0);
    const int32_t kept_alive = spdk_nvme_ctrlr_process_admin_completions(controller_);
    if (error == 0 && polled >= 0 && kept_alive >= 0 && failure() == nullptr) {
      std::this_thread::sleep_for(command_step);
      continue;
    }
    // Freed with commands under way, so that nothing of them refers to this frame any more.
    let_go(true);
    if (error == 0) error = std::min(polled, kept_alive);
    return bad(error < 0 ? std::generic_category().message(-error) : failure());
  }
  if (!waiting.failed) return {};
  return bad(spdk_nvme_cpl_get_status_string(&waiting.status.status));
}

WholeDevice SpdkDrive::whole() {
  WholeDevice device{.path = options_.name + ": " + options_.address,
                     .size_bytes = size_bytes_,
                     .block_bytes = block_bytes_};
  device.read = [this](uint64_t offset, std::span<std::byte> bytes) -> Status {
    if (queue_pair_ == nullptr) return fail(Errc::io_error, fmt::format("{}: it is gone", options_.name));
    const auto memory = dma_memory(bytes.size());
    if (!memory) return fail(Errc::system, fmt::format("{}: SPDK has no memory for a read", options_.name));
    Status read = carry_out(Command::read, offset, {memory.get(), bytes.size()});
    if (read) std::copy_n(memory.get(), bytes.size(), bytes.begin());
    return read;
  };
  return device;
}

// Two pools of this machine must not have one namespace. The kernel gives the name up with the process.
Status SpdkDrive::lock() {
  const spdk_nvme_ctrlr_data* const about = spdk_nvme_ctrlr_get_data(controller_);
  const std::string_view subsystem(
      reinterpret_cast<const char*>(about->subnqn),
      strnlen(reinterpret_cast<const char*>(about->subnqn), sizeof about->subnqn));
  const std::string_view serial(reinterpret_cast<const char*>(about->sn), sizeof about->sn);
  const std::string key = fmt::format("{} {} {}", subsystem, serial, options_.namespace_id);
  const std::string name =
      fmt::format("kvpool-nvme-{:016x}", checksum(std::as_bytes(std::span(key.data(), key.size())), 0));
  lock_fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (lock_fd_ < 0) return fail_errno(errno, fmt::format("{}: it cannot be locked", options_.name));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (bind(lock_fd_, reinterpret_cast<const sockaddr*>(&address), length) == 0) return {};
  if (errno != EADDRINUSE) return fail_errno(errno, fmt::format("{}: it cannot be locked", options_.name));
  return fail(
      Errc::in_use,
      fmt::format("{}: '{}' is in use by another pool of this machine; close that pool first, or give "
                  "this one another drive",
                  options_.name, options_.address));
}

Status SpdkDrive::take_namespace() {
  if (Status locked = lock(); !locked) return locked;
  const WholeDevice device = whole();
  if (Status contents = check_contents(device); !contents) return contents;
  auto header = make_device_header(device, options_.size_bytes);
  if (!header) return tl::unexpected(header.error());
  header_ = *header;
  if (Status written = write_header(); !written) return written;
  taken_ = true;
  return {};
}

Status SpdkDrive::write_header() {
  const uint32_t unit = std::max(io_page_bytes, block_bytes_);
  const auto memory = dma_memory(unit);
  if (!memory) return fail(Errc::system, fmt::format("{}: SPDK has no memory for a header", options_.name));
  std::memcpy(memory.get(), &header_, sizeof header_);
  Status written = carry_out(Command::write, 0, {memory.get(), unit});
  return written ? carry_out(Command::flush, 0, {}) : written;
}

// The same drive with our header, or one that lost everything. What it lost is found out by checksums.
Status SpdkDrive::come_back() {
  const WholeDevice device = whole();
  std::vector<std::byte> first(device.unit_bytes());
  if (Status read = device.read(0, first); !read) return read;
  PoolHeader found;
  std::memcpy(&found, first.data(), sizeof found);
  if (check_pool_header(found, options_.name)) {
    if (found.uuid == header_.uuid) return {};
    return fail(Errc::not_ours, fmt::format("{}: '{}' came back as another pool's ({}); it was left alone",
                                            options_.name, options_.address, owner_of(found)));
  }
  if (Status contents = check_contents(device); !contents) return contents;
  log_warn("{}: '{}' came back empty", options_.name, options_.address);
  return write_header();
}

}  // namespace kvpool
