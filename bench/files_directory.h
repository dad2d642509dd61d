// FilesDirectory: the folder in which the file baselines keep their chunks, one file a chunk.
//
// It is ours only if it holds our marker: create() makes a new folder (or takes an empty one) and puts the
// marker there, or takes over one that has it and that no process has locked. Anything else is refused with
// not_ours or in_use and left as it is. The destructor removes the files that this class names, the marker
// and the folder; a file of any other name is never touched.
//
// Thread: one; chunk files may be used by several threads at once through open_chunk().

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace kvpool::bench {

// A file descriptor that closes itself.
class FileHandle {
 public:
  FileHandle() = default;
  explicit FileHandle(int fd) : fd_(fd) {}
  FileHandle(FileHandle&& other) noexcept : fd_(other.release()) {}
  FileHandle& operator=(FileHandle&& other) noexcept;
  FileHandle(const FileHandle&) = delete;
  FileHandle& operator=(const FileHandle&) = delete;
  ~FileHandle();
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }

 private:
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  int fd_ = -1;
};

class FilesDirectory {
 public:
  [[nodiscard]] static Result<std::unique_ptr<FilesDirectory>> create(const std::string& path);
  ~FilesDirectory();
  FilesDirectory(const FilesDirectory&) = delete;
  FilesDirectory& operator=(const FilesDirectory&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  // The block device of its file system, as far as stat(2) tells.
  [[nodiscard]] dev_t disk() const;
  // Makes the chunk files 0 to count - 1 of chunk_bytes each, their space taken at once; others of an earlier
  // run are removed.
  [[nodiscard]] Status make_chunks(uint32_t count, uint64_t chunk_bytes);
  // For reading and writing through the page cache. errno is left set where it fails.
  [[nodiscard]] FileHandle open_chunk(uint32_t index) const;
  [[nodiscard]] uint32_t chunks() const { return chunks_; }

  // Writes back what is dirty and drops the chunks from the page cache.
  [[nodiscard]] Status drop_cache() const;
  // Bytes of the chunks that lie in the page cache now (mincore).
  [[nodiscard]] Result<uint64_t> cached_bytes() const;

 private:
  FilesDirectory(std::string path, FileHandle directory, FileHandle marker)
      : path_(std::move(path)), directory_(std::move(directory)), marker_(std::move(marker)) {}
  [[nodiscard]] Status remove_files() const;

  std::string path_;
  FileHandle directory_;
  FileHandle marker_;  // holds the lock
  uint32_t chunks_ = 0;
  uint64_t chunk_bytes_ = 0;
};

}  // namespace kvpool::bench
