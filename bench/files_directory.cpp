#include "bench/files_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "base/log.h"
#include "base/units.h"

namespace kvpool::bench {
namespace {

constexpr const char* marker_name = "KVPOOL-BENCH";
constexpr std::string_view marker_text = "kvpool bench: chunk files of the baselines, removed after a run\n";
constexpr std::string_view chunk_prefix = "chunk-";

std::string chunk_name(uint32_t index) { return fmt::format("{}{:06}", chunk_prefix, index); }

bool is_chunk_name(std::string_view name) {
  if (!name.starts_with(chunk_prefix)) return false;
  name.remove_prefix(chunk_prefix.size());
  return name.size() >= 6 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The names in a folder, without "." and "..".
Result<std::vector<std::string>> list(int directory) {
  const int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* stream = fd < 0 ? nullptr : fdopendir(fd);
  if (stream == nullptr) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return fail_errno(error, "listing the baselines' folder");
  }
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream)) {
    const std::string_view name(entry->d_name);
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(stream);
  return names;
}

tl::unexpected<Error> not_ours(const std::string& path) {
  return fail(Errc::not_ours, fmt::format("{} exists and was not made by kvpool's benchmarks (it has no {}); "
                                          "it was left alone. Move it away, or give the device another path",
                                          path, marker_name));
}

Result<FileHandle> open_marker(const std::string& path, int directory) {
  FileHandle marker(openat(directory, marker_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (marker.valid()) {
    std::array<char, marker_text.size()> text{};
    if (pread(marker.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
        std::string_view(text.data(), text.size()) != marker_text) {
      return not_ours(path);
    }
    return marker;
  }
  auto names = list(directory);
  if (!names) return tl::unexpected(names.error());
  if (!names->empty()) return not_ours(path);
  marker = FileHandle(openat(directory, marker_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!marker.valid() || write(marker.get(), marker_text.data(), marker_text.size()) !=
                             static_cast<ssize_t>(marker_text.size())) {
    return fail_errno(errno, fmt::format("writing {}/{}", path, marker_name));
  }
  return marker;
}

}  // namespace

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

FileHandle::~FileHandle() {
  if (fd_ >= 0) close(fd_);
}

Result<std::unique_ptr<FilesDirectory>> FilesDirectory::create(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(errno, fmt::format("making the baselines' folder {}", path));
  }
  FileHandle directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!directory.valid()) {
    if (errno == ENOTDIR || errno == ELOOP) return not_ours(path);
    return fail_errno(errno, fmt::format("opening {}", path));
  }
  auto marker = open_marker(path, directory.get());
  if (!marker) return tl::unexpected(marker.error());
  if (flock(marker->get(), LOCK_EX | LOCK_NB) != 0) {
    return fail(Errc::in_use, fmt::format("another benchmark is using {}", path));
  }
  std::unique_ptr<FilesDirectory> made(new FilesDirectory(path, std::move(directory), std::move(*marker)));
  if (auto removed = made->remove_files(); !removed) return tl::unexpected(removed.error());
  return made;
}

FilesDirectory::~FilesDirectory() {
  if (const auto removed = remove_files(); !removed) {
    log_warn("{}", removed.error().message);
    return;
  }
  const auto names = list(directory_.get());
  if (!names || names->size() != 1) {
    log_warn("{} holds files that the benchmark did not make; it was left there", path_);
    return;
  }
  unlinkat(directory_.get(), marker_name, 0);
  rmdir(path_.c_str());
}

Status FilesDirectory::remove_files() const {
  const auto names = list(directory_.get());
  if (!names) return tl::unexpected(names.error());
  for (const std::string& name : *names) {
    if (!is_chunk_name(name)) continue;
    if (unlinkat(directory_.get(), name.c_str(), 0) != 0) {
      return fail_errno(errno, fmt::format("removing {}/{}", path_, name));
    }
  }
  return {};
}

Status FilesDirectory::make_chunks(uint32_t count, uint64_t chunk_bytes) {
  for (uint32_t i = 0; i < chunks_; ++i) unlinkat(directory_.get(), chunk_name(i).c_str(), 0);
  chunks_ = 0;
  // Asked first: to find out by filling the disk would disturb everybody else on it.
  struct statvfs about{};
  const uint64_t free_bytes = fstatvfs(directory_.get(), &about) == 0 ? about.f_bavail * about.f_frsize : 0;
  if (count > free_bytes / chunk_bytes) {
    return fail(Errc::system,
                fmt::format("{}: {} do not fit on its file system, which has {} free; make the "
                            "device smaller or free space",
                            path_, format_bytes(count * chunk_bytes), format_bytes(free_bytes)));
  }
  chunk_bytes_ = chunk_bytes;
  for (uint32_t i = 0; i < count; ++i) {
    const std::string name = chunk_name(i);
    const FileHandle chunk(
        openat(directory_.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!chunk.valid()) return fail_errno(errno, fmt::format("making {}/{}", path_, name));
    chunks_ = i + 1;
    int error = EINTR;
    while (error == EINTR) error = posix_fallocate(chunk.get(), 0, static_cast<off_t>(chunk_bytes));
    if (error != 0) {
      return fail_errno(error, fmt::format("taking {} bytes for {}/{}", chunk_bytes, path_, name));
    }
  }
  return {};
}

FileHandle FilesDirectory::open_chunk(uint32_t index) const {
  return FileHandle(openat(directory_.get(), chunk_name(index).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
}

dev_t FilesDirectory::disk() const {
  struct stat about{};
  return fstat(directory_.get(), &about) == 0 ? about.st_dev : 0;
}

Status FilesDirectory::drop_cache() const {
  for (uint32_t i = 0; i < chunks_; ++i) {
    const FileHandle chunk = open_chunk(i);
    if (!chunk.valid() || fdatasync(chunk.get()) != 0) {
      return fail_errno(errno, fmt::format("writing back {}/{}", path_, chunk_name(i)));
    }
    // Only clean pages are dropped, hence after the sync.
    const int error = posix_fadvise(chunk.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (error != 0)
      return fail_errno(error, fmt::format("dropping {}/{} from the cache", path_, chunk_name(i)));
  }
  return {};
}

Result<uint64_t> FilesDirectory::cached_bytes() const {
  const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((chunk_bytes_ + page_bytes - 1) / page_bytes);
  uint64_t cached = 0;
  for (uint32_t i = 0; i < chunks_; ++i) {
    const FileHandle chunk = open_chunk(i);
    void* mapping =
        chunk.valid() ? mmap(nullptr, chunk_bytes_, PROT_READ, MAP_SHARED, chunk.get(), 0) : MAP_FAILED;
    if (mapping == MAP_FAILED) return fail_errno(errno, fmt::format("mapping {}/{}", path_, chunk_name(i)));
    const int refused = mincore(mapping, chunk_bytes_, pages.data());
    const int error = errno;
    munmap(mapping, chunk_bytes_);
    if (refused != 0) return fail_errno(error, "asking what is in the page cache");
    cached += page_bytes * static_cast<uint64_t>(std::count_if(pages.begin(), pages.end(),
                                                               [](unsigned char page) { return page & 1; }));
  }
  return cached;
}

}  // namespace kvpool::bench
