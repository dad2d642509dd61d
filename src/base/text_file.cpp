#include "base/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

namespace kvpool {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  // False with errno when what was written could not be kept.
  [[nodiscard]] bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

Result<std::string> read_text_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return fail_errno(errno, path + ": cannot be opened");
  struct stat status{};
  if (fstat(file.get(), &status) != 0) return fail_errno(errno, path + ": cannot be read");
  if (!S_ISREG(status.st_mode)) return fail(Errc::invalid_argument, path + ": is not a regular file");
  std::string text(text_file_bytes_max + 1, '\0');
  size_t used = 0;
  while (used < text.size()) {
    const ssize_t n = ::read(file.get(), text.data() + used, text.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, path + ": cannot be read");
    if (n == 0) break;
    used += static_cast<size_t>(n);
  }
  if (used > text_file_bytes_max) {
    return fail(Errc::too_large, path + ": is above 1 MiB, the most that is read");
  }
  text.resize(used);
  return text;
}

Status replace_text_file(const std::string& path, std::string_view text) {
  // In the same folder, since a rename across file systems is no rename.
  const std::string temporary = path + ".new." + std::to_string(getpid());
  Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (file.get() < 0) return fail_errno(errno, temporary + ": cannot be created");
  const bool kept = write_all(file.get(), text) && fsync(file.get()) == 0 && file.close();
  if (!kept || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    return fail_errno(error, path + ": cannot be written");
  }
  const Descriptor folder(::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0 || fsync(folder.get()) != 0) return fail_errno(errno, path + ": cannot be kept");
  return {};
}

}  // namespace kvpool
