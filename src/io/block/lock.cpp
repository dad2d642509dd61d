#include "io/block/lock.h"

#include <fcntl.h>
#include <unistd.h>

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

}  // namespace kvpool
