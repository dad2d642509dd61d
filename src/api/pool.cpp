#include "api/pool.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvpool {
namespace {

constexpr uint64_t buffer_alignment_bytes = 4096;

}  // namespace

BufferMemory::BufferMemory(std::span<std::byte> memory) : memory_(memory) {
  if (!memory.empty()) free_.emplace(0, memory.size());
}

std::span<std::byte> BufferMemory::take(uint64_t bytes) {
  if (bytes > memory_.size()) return {};  // rounding up could wrap
  const uint64_t wanted =
      (bytes + buffer_alignment_bytes - 1) / buffer_alignment_bytes * buffer_alignment_bytes;
  for (const auto& [offset, size] : free_) {
    if (size < wanted) continue;
    const uint64_t taken_at = offset;
    const uint64_t rest = size - wanted;
    free_.erase(offset);
    if (rest > 0) free_.emplace(taken_at + wanted, rest);
    return memory_.subspan(taken_at, bytes);
  }
  return {};
}

void BufferMemory::give_back(std::span<std::byte> part) {
  if (part.empty()) return;
  uint64_t offset = static_cast<uint64_t>(part.data() - memory_.data());
  uint64_t size =
      (part.size() + buffer_alignment_bytes - 1) / buffer_alignment_bytes * buffer_alignment_bytes;
  const auto next = free_.lower_bound(offset);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      offset = before->first;
      size += before->second;
      free_.erase(before);
    }
  }
  if (next != free_.end() && offset + size == next->first) {
    size += next->second;
    free_.erase(next);
  }
  free_.emplace(offset, size);
}

uint64_t BufferMemory::largest_free_bytes() const {
  uint64_t largest = 0;
  for (const auto& [offset, size] : free_) largest = std::max(largest, size);
  return largest;
}

}  // namespace kvpool

using kvpool::Errc;
using kvpool::Geometry;

kvpool_pool::kvpool_pool(std::unique_ptr<kvpool::Pieces> made)
    : pieces(std::move(made)), buffers(pieces->buffers) {}

kvpool::Result<std::unique_ptr<kvpool_pool>> kvpool_pool::start(std::unique_ptr<kvpool::Pieces> made) {
  auto pool = std::make_unique<kvpool_pool>(std::move(made));
  if (auto status = pool->reactor().start(); !status) return tl::unexpected(status.error());
  if (auto status = pool->add_configured_namespaces(); !status) return tl::unexpected(status.error());
  return pool;
}

kvpool::Status kvpool_pool::add_configured_namespaces() {
  for (const kvpool::NamespaceConfig& configured : pieces->config.namespaces) {
    Geometry geometry = configured.geometry;
    geometry.name = configured.name;
    if (const auto opened = open_namespace(geometry, configured.flat); !opened) {
      return tl::unexpected(opened.error());
    }
  }
  return {};
}

kvpool::Result<uint32_t> kvpool_pool::open_namespace(const Geometry& geometry, bool is_flat) {
  const std::lock_guard lock(mutex);
  if (const auto found = namespaces.find(geometry.name); found != namespaces.end()) {
    const Geometry& known =
        pieces->catalog->geometry(kvpool::NamespaceId(static_cast<uint16_t>(found->second)));
    if (known == geometry && flat[found->second] == is_flat) return found->second;
    return kvpool::fail(
        Errc::invalid_argument,
        fmt::format("namespace '{}' exists with another shape; give this one another name", geometry.name));
  }
  kvpool::Result<kvpool::NamespaceId> added;
  reactor().run([&](kvpool::Engine& engine) { added = engine.add_namespace(geometry, is_flat); });
  if (!added) return tl::unexpected(added.error());
  namespaces.emplace(geometry.name, added->value);
  flat.resize(added->value + size_t{1});
  flat[added->value] = is_flat;
  return added->value;
}
