#include "base/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

namespace kvpool {
namespace {

constexpr size_t beginning_bytes = 64 << 10;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
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

tl::unexpected<Error> no_temporary(const std::string& path) {
  return fail_errno(errno, path + ": its folder takes no new file");
}

// At most `most` bytes of it.
Result<std::string> read_beginning(int fd, size_t most, const std::string& path) {
  std::string text(most, '\0');
  size_t used = 0;
  while (used < most) {
    const ssize_t n = ::read(fd, text.data() + used, most - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, path + ": cannot be read");
    if (n == 0) break;
    used += static_cast<size_t>(n);
  }
  text.resize(used);
  return text;
}

Result<Descriptor> open_regular(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return fail_errno(errno, path + ": cannot be opened");
  struct stat status{};
  if (fstat(file.get(), &status) != 0) return fail_errno(errno, path + ": cannot be read");
  if (!S_ISREG(status.st_mode)) return fail(Errc::invalid_argument, path + ": is not a regular file");
  return file;
}

}  // namespace

Result<std::string> read_text_file(const std::string& path) {
  const auto file = open_regular(path);
  if (!file) return tl::unexpected(file.error());
  auto text = read_beginning(file->get(), text_file_bytes_max + 1, path);
  if (text && text->size() > text_file_bytes_max) {
    return fail(Errc::too_large, path + ": is above 1 MiB, the most that is read");
  }
  return text;
}

Status check_replaceable(const std::string& path, bool (*is_ours)(std::string_view beginning),
                         std::string_view ours) {
  struct stat status{};
  if (lstat(path.c_str(), &status) == 0) {
    // A link itself would be replaced, not what it leads to.
    if (S_ISLNK(status.st_mode))
      return fail(Errc::invalid_argument, path + ": is a link; name the file itself");
    const auto file = open_regular(path);
    if (!file) return tl::unexpected(file.error());
    const auto beginning = read_beginning(file->get(), beginning_bytes, path);
    if (!beginning) return tl::unexpected(beginning.error());
    if (!beginning->empty() && !is_ours(*beginning)) {
      return fail(Errc::invalid_argument, path + ": holds something other than " + std::string(ours) +
                                              "; name another file, or delete this one");
    }
  }
  if (faccessat(AT_FDCWD, folder_of(path).c_str(), W_OK | X_OK, AT_EACCESS) != 0) return no_temporary(path);
  return {};
}

Status replace_text_file(const std::string& path, std::string_view text) {
  // In the same folder, since a rename across file systems is no rename.
  const std::string temporary = path + ".new." + std::to_string(getpid());
  Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (file.get() < 0) return no_temporary(path);
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
