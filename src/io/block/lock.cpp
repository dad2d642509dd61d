#include "io/block/lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace kvpool {
namespace {

struct flock whole(short type) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

bool lock_whole(int fd) {
  struct flock lock = whole(F_WRLCK);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

void unlock_whole(int fd) {
  struct flock lock = whole(F_UNLCK);
  fcntl(fd, F_OFD_SETLK, &lock);
}

bool is_locked(int fd) {
  struct flock lock = whole(F_WRLCK);
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool is_locked(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return false;
  const bool locked = is_locked(fd);
  close(fd);
  return locked;
}

std::optional<PoolHeader> read_pool_header(int fd) {
  PoolHeader header;
  ssize_t count = 0;
  do {
    count = pread(fd, &header, sizeof header, 0);
  } while (count < 0 && errno == EINTR);
  if (count != static_cast<ssize_t>(sizeof header)) return std::nullopt;
  return header;
}

tl::unexpected<Error> pool_in_use(const std::string& path, const std::optional<PoolHeader>& header) {
  if (!header || !check_pool_header(*header, path)) {
    return fail(Errc::in_use, fmt::format("{}: another process is about to use it", path));
  }
  if (header->owner_pid == static_cast<uint32_t>(getpid())) {
    return fail(
        Errc::in_use,
        fmt::format("{}: in use by this process already, perhaps by another name, or by a closed pool of "
                    "whose memory a view is still held; each device wants a path of its own",
                    path));
  }
  return fail(Errc::in_use,
              fmt::format("{}: in use by {}; close that pool first, or give this one another path", path,
                          owner_of(*header)));
}

}  // namespace kvpool
