// An NVMe namespace that is opened for a pool, through its character device /dev/ngXnY, and the rules that
// decide whether it may be written at all. docs/format.md specifies them.
//
// Thread: any; calls block on the drive. Failure: a Result whose message names the path, what is wrong and
// what to do. A drive that is refused is left as it was.

#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/result.h"
#include "io/block/whole_device.h"
#include "io/nvme/identity.h"
#include "io/pool_header.h"

namespace kvpool {

class NvmeDrive {
 public:
  // Opens and locks the namespace, forgets what an earlier pool left there, and gives the data area
  // `size_bytes`. discards: Errc::unsupported where the drive cannot. REQUIRES: size_bytes > 0 and a multiple
  // of 4096.
  [[nodiscard]] static Result<NvmeDrive> open(const std::string& path, uint64_t size_bytes,
                                              bool discards = false);

  NvmeDrive(NvmeDrive&& other) noexcept;
  NvmeDrive& operator=(NvmeDrive&& other) noexcept;
  ~NvmeDrive();

  // The character device, and the block device where it could be had: a ring keeps both as long as commands
  // are under way.
  [[nodiscard]] std::span<const int> fds() const { return std::span(fds_).first(fds_[1] < 0 ? 1 : 2); }
  [[nodiscard]] uint32_t namespace_id() const { return namespace_id_; }
  [[nodiscard]] const NvmeIdentity& identity() const { return identity_; }
  [[nodiscard]] const PoolHeader& header() const { return header_; }
  // The most that one command can move: the least of the controller's limit and the kernel's.
  [[nodiscard]] uint32_t transfer_bytes_max() const { return transfer_bytes_max_; }
  // Whether the kernel's driver has queues without interrupts for it (`poll_queues` of the module nvme).
  [[nodiscard]] bool has_poll_queues() const { return has_poll_queues_; }
  // Of one Dataset Management command, where it was opened with `discards`.
  [[nodiscard]] const DiscardLimits& discard_limits() const { return discard_limits_; }
  // For an owner with commands under way: the kernel then drops the lock when the last of them is done.
  void leave_lock_to_kernel() { unlock_on_close_ = false; }

 private:
  NvmeDrive() = default;
  [[nodiscard]] Status acquire(const std::string& path);
  [[nodiscard]] Status take_block_device(const std::filesystem::path& block, const std::string& path);
  [[nodiscard]] Status identify(const std::string& path);
  [[nodiscard]] WholeDevice whole(const std::string& path) const;
  [[nodiscard]] Status identify_discards(const std::string& path);
  [[nodiscard]] Status write_header(const std::string& path, uint64_t size_bytes);
  [[nodiscard]] Status read(uint64_t offset, std::span<std::byte> bytes, const std::string& path) const;

  std::string block_path_;  // "/dev/nvme0n1"
  // The character device; the block device, held so that nobody mounts it, or -1.
  std::array<int, 2> fds_ = {-1, -1};
  bool unlock_on_close_ = true;
  uint32_t namespace_id_ = 0;
  uint32_t transfer_bytes_max_ = 0;
  bool has_poll_queues_ = false;
  NvmeIdentity identity_;
  DiscardLimits discard_limits_;
  PoolHeader header_;
};

}  // namespace kvpool
