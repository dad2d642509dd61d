#include "io/spdk/plugin/spdk_env.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <spdk/env.h>
#include <spdk/log.h>
#include <spdk/nvme.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <fstream>
#include <system_error>
#include <thread>

#include "base/assert.h"
#include "base/log.h"
#include "base/units.h"

namespace kvpool {
namespace {

constexpr uint64_t huge_page_bytes = 2ULL << 20;
// For queues and requests of all drives.
constexpr uint64_t driver_bytes = 128ULL << 20;

thread_local std::string first_error;

// SPDK's lines go where ours go; what fails is said by us in our words, with its first line, which is nearest
// to the cause.
void take_log(int level, const char* /*file*/, int /*line*/, const char* /*function*/, const char* format,
              va_list arguments) {
  std::array<char, 512> text{};
  std::vsnprintf(text.data(), text.size(), format, arguments);
  std::string_view line(text.data());
  while (!line.empty() && line.back() == '\n') line.remove_suffix(1);
  if (level <= SPDK_LOG_ERROR && first_error.empty()) first_error = line;
  log_message(LogLevel::debug, fmt::format("spdk: {}", line));
}

uint64_t huge_pages_that_are(const std::string& what) {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/" + what);
  uint64_t pages = 0;
  file >> pages;
  return pages;
}
uint64_t free_huge_page_bytes() { return huge_pages_that_are("free_hugepages") * huge_page_bytes; }

// Some processor that this process may use.
int allowed_processor() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) return cpu;
  }
  return 0;
}

size_t whole_pages(size_t bytes) { return (bytes + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes; }

}  // namespace

std::string first_spdk_error() {
  std::string said;
  said.swap(first_error);
  return said;
}

SpdkEnv& SpdkEnv::instance() {
  static auto* const env = new SpdkEnv;  // its memory may be in use until the very end
  return *env;
}

Status SpdkEnv::check_wanted(const SpdkEnvironment& wanted) const {
  if (wanted.pci && !started_->pci) {
    return fail(
        Errc::unsupported,
        "SPDK runs in this process without PCIe already, for a pool that named no PCIe drive; open the "
        "pool with PCIe drives first, or in a process of its own");
  }
  if (wanted.own_memory_bytes > 0 && !has_huge_pages_) {
    return fail(Errc::unsupported, "SPDK runs in this process without huge pages already");
  }
  return {};
}

Status SpdkEnv::start(const SpdkEnvironment& wanted) {
  const std::lock_guard lock(mutex_);
  if (started_) return check_wanted(wanted);
  const uint64_t free = free_huge_page_bytes();
  const uint64_t needed = driver_bytes + wanted.own_memory_bytes;
  const bool must_have = wanted.pci || wanted.own_memory_bytes > 0;
  const bool huge_pages = free >= needed;
  if (must_have && !huge_pages) {
    return fail(
        Errc::system,
        fmt::format(
            "`spdk` devices of this kind need {} of huge pages, and {} are free; set more aside: "
            "sudo sysctl vm.nr_hugepages={}",
            format_bytes(needed), format_bytes(free),
            huge_pages_that_are("nr_hugepages") + (needed - free + huge_page_bytes - 1) / huge_page_bytes));
  }
  if (!huge_pages) {
    log_info("SPDK runs without huge pages ({} are free, it would take {})", format_bytes(free),
             format_bytes(needed));
  }
  Status done;
  // The environment pins whoever starts it.
  std::thread([&] { done = init(wanted, huge_pages); }).join();
  if (!done) return done;
  started_ = wanted;
  has_huge_pages_ = huge_pages;
  return {};
}

Status SpdkEnv::init(const SpdkEnvironment& wanted, bool huge_pages) {
  spdk_log_open(take_log);
  spdk_log_set_print_level(SPDK_LOG_NOTICE);
  const std::string lcores = fmt::format("0@{}", allowed_processor());
  spdk_env_opts options{};
  options.opts_size = sizeof options;
  spdk_env_opts_init(&options);
  options.name = "kvpool";
  options.core_mask = nullptr;
  options.lcore_map = lcores.c_str();
  options.shm_id = -1;
  options.mem_size = static_cast<int>(driver_bytes >> 20);
  options.no_pci = !wanted.pci;
  options.no_huge = !huge_pages;
  // A vfio-user target is given one file for a whole range of memory, whenever one is named.
  options.hugepage_single_segments = huge_pages;
  // Nothing of it is left in a file system when the process ends, and no other process may join it.
  std::string context = "--no-telemetry --log-level=lib.*:error";
  if (huge_pages) context = "--in-memory " + context;
  options.env_context = context.data();
  if (const int error = spdk_env_init(&options); error < 0) {
    return fail(
        Errc::system,
        fmt::format("SPDK's environment cannot be started: {}{}{}; it wants huge pages (vm.nr_hugepages), "
                    "locked memory (ulimit -l) and for PCIe drives the right to their /dev/vfio group",
                    std::generic_category().message(-error), first_error.empty() ? "" : ": ", first_error));
  }
  // Makes the driver's own state, which several drives would else make at once.
  spdk_nvme_ctrlr_opts unused{};
  spdk_nvme_ctrlr_get_default_ctrlr_opts(&unused, sizeof unused);
  return {};
}

Result<std::span<std::byte>> SpdkEnv::take(uint64_t bytes, int numa_node) {
  const std::lock_guard lock(mutex_);
  KVPOOL_ASSERT(started_ && bytes % huge_page_bytes == 0);
  auto* const memory = static_cast<std::byte*>(spdk_zmalloc(
      bytes, huge_page_bytes, nullptr, numa_node < 0 ? SPDK_ENV_NUMA_ID_ANY : numa_node, SPDK_MALLOC_DMA));
  if (memory == nullptr) {
    return fail(
        Errc::system,
        fmt::format("SPDK has no {} of memory in one piece ({} of huge pages are free; 16 GiB is the most "
                    "in one piece); set more huge pages aside, or make the parts of the pool smaller",
                    format_bytes(bytes), format_bytes(free_huge_page_bytes())));
  }
  regions_[memory] = {.bytes = bytes, .users = 0, .own = true};
  return std::span(memory, bytes);
}

void SpdkEnv::give_back(std::span<std::byte> memory) {
  const std::lock_guard lock(mutex_);
  const auto region = regions_.find(memory.data());
  KVPOOL_ASSERT(region != regions_.end() && region->second.own && region->second.users == 0);
  regions_.erase(region);
  spdk_free(memory.data());
}

Status SpdkEnv::add_memory(std::span<std::byte> memory) {
  const std::lock_guard lock(mutex_);
  KVPOOL_ASSERT(started_ && reinterpret_cast<uintptr_t>(memory.data()) % huge_page_bytes == 0);
  auto [region, fresh] = regions_.try_emplace(memory.data(), Region{.bytes = whole_pages(memory.size())});
  if (!fresh && memory.size() > region->second.bytes) {
    return fail(Errc::unsupported, "a smaller part of this memory is registered with SPDK already");
  }
  if (fresh) {
    if (const int error = spdk_mem_register(memory.data(), region->second.bytes); error != 0) {
      regions_.erase(region);
      return fail(Errc::system,
                  fmt::format("{} of pool memory cannot be registered with SPDK: {}; raise ulimit -l (locked "
                              "memory), or use huge pages",
                              format_bytes(memory.size()), std::generic_category().message(-error)));
    }
  }
  ++region->second.users;
  return {};
}

void SpdkEnv::drop_memory(std::span<std::byte> memory) {
  const std::lock_guard lock(mutex_);
  const auto region = regions_.find(memory.data());
  KVPOOL_ASSERT(region != regions_.end() && region->second.users > 0);
  if (--region->second.users > 0 || region->second.own) return;
  // Could it not be unregistered, it would stay mapped, and no more.
  [[maybe_unused]] const int ignored = spdk_mem_unregister(region->first, region->second.bytes);
  regions_.erase(region);
}

}  // namespace kvpool
