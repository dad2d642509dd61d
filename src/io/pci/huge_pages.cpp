#include "io/pci/huge_pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "base/units.h"
#include "io/block/sysfs.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view prefix = "hugepages-";  // and "2048kB"

fs::path folder_of(const Host& host, std::optional<int> node) {
  return node ? host.sys / fmt::format("devices/system/node/node{}/hugepages", *node)
              : host.sys / "kernel/mm/hugepages";
}

uint64_t page_bytes_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  uint64_t kib = 0;
  std::from_chars(name.data() + prefix.size(), name.data() + name.size(), kib);
  return kib << 10;
}

// The smallest: they are found most easily.
Result<fs::path> smallest_pages(const fs::path& folder) {
  std::error_code error;
  fs::path smallest;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    if (smallest.empty() || page_bytes_of(entry) < page_bytes_of(smallest)) smallest = entry.path();
  }
  if (!smallest.empty()) return smallest;
  return fail(Errc::unsupported,
              fmt::format("{}: this kernel has no huge pages; leave --huge-pages out", folder.string()));
}

size_t count_nodes(const Host& host) {
  std::error_code error;
  size_t nodes = 0;
  for (const auto& entry : fs::directory_iterator(host.sys / "devices/system/node", error)) {
    if (fs::exists(entry.path() / "hugepages", error)) ++nodes;
  }
  return nodes;
}

}  // namespace

Result<std::vector<HugePages>> plan_huge_pages(const Host& host, uint64_t bytes,
                                               const std::vector<int>& nodes) {
  std::set<std::optional<int>> places;
  for (const int node : nodes) {
    if (node >= 0 && count_nodes(host) > 1) places.insert(node);
  }
  if (places.empty()) places.insert(std::nullopt);
  std::vector<HugePages> plan;
  for (const std::optional<int> node : places) {
    const auto folder = smallest_pages(folder_of(host, node));
    if (!folder) return tl::unexpected(folder.error());
    HugePages pages{.node = node,
                    .page_bytes = page_bytes_of(*folder),
                    .pages_free = read_number(*folder / "free_hugepages").value_or(0)};
    const uint64_t unit = pages.page_bytes * places.size();
    pages.pages_wanted = bytes / unit + (bytes % unit != 0 ? 1 : 0);
    if (pages.pages_wanted > pages.pages_free) {
      const uint64_t there = read_number(*folder / "nr_hugepages").value_or(0);
      pages.step = {.path = (*folder / "nr_hugepages").string(),
                    .text = std::to_string(there + pages.pages_wanted - pages.pages_free)};
    }
    plan.push_back(std::move(pages));
  }
  return plan;
}

Result<uint64_t> reserve_huge_pages(const Host& host, const HugePages& pages) {
  if (!pages.step) return pages.pages_free;
  if (Status done = host.carry_out(*pages.step); !done) return tl::unexpected(done.error());
  return read_number(fs::path(pages.step->path).parent_path() / "free_hugepages").value_or(0);
}

}  // namespace kvpool
