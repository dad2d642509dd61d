#include "io/spdk/double/spdk_double.h"

#include <spdk/env.h>
#include <spdk/log.h>
#include <spdk/nvme.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using kvpool::spdk_double::Counts;
using kvpool::spdk_double::DriveOptions;

struct Drive {
  DriveOptions options;
  std::vector<std::byte> bytes;
  uint32_t failures_due = 0;
  bool silent = false;
  bool broken = false;
  bool changed = false;
};

struct Command {
  bool is_read = false;
  std::byte* buffer = nullptr;  // null: a flush
  uint64_t offset = 0;
  size_t bytes = 0;
  spdk_nvme_cmd_cb done = nullptr;
  void* context = nullptr;
  Clock::time_point sent_at;
  bool told_late = false;
};

// Held by whoever looks at or changes what follows; never while a callback runs.
std::mutex mutex;
std::map<std::string, std::shared_ptr<Drive>> drives;
bool iommu = false;
std::map<const std::byte*, size_t> reachable;  // registered, and allocated here
Counts counted;

constexpr uint16_t status_internal_error = 0x06;
constexpr uint16_t status_aborted = 0x08;

spdk_nvme_cpl completion_of(uint16_t status) {
  spdk_nvme_cpl completion{};
  completion.status.sc = status & 0xffU;
  return completion;
}

std::shared_ptr<Drive> find(const std::string& address) {
  const auto drive = drives.find(address);
  return drive == drives.end() ? nullptr : drive->second;
}

}  // namespace

struct spdk_nvme_ns {
  std::shared_ptr<Drive> drive;
};

struct spdk_nvme_ctrlr {
  std::shared_ptr<Drive> drive;
  spdk_nvme_ns ns;
  spdk_nvme_ctrlr_data about{};
  bool failed = false;
  std::chrono::microseconds timeout{0};
  spdk_nvme_timeout_cb on_timeout = nullptr;
  void* timeout_context = nullptr;
  spdk_nvme_aer_cb on_event = nullptr;
  void* event_context = nullptr;
};

struct spdk_nvme_qpair {
  spdk_nvme_ctrlr* controller = nullptr;
  uint32_t size = 0;
  bool connected = false;
  std::vector<Command> under_way;
};

struct spdk_nvme_detach_ctx {
  spdk_nvme_ctrlr* controller = nullptr;
};

struct spdk_nvme_probe_ctx {
  spdk_nvme_transport_id id{};
  const spdk_nvme_ctrlr_opts* options = nullptr;
  spdk_nvme_attach_cb attached = nullptr;
  bool asked = false;
};

namespace {

bool reaches(const Drive& drive, const std::byte* buffer, size_t bytes) {
  if (drive.options.any_memory) return true;
  const auto after = reachable.upper_bound(buffer);
  if (after == reachable.begin()) return false;
  const auto& [begin, size] = *std::prev(after);
  return buffer + bytes <= begin + size;
}

// What the drive does with a command, and the status that it answers.
uint16_t carry_out(Drive& drive, const Command& command) {
  if (drive.failures_due > 0) {
    --drive.failures_due;
    return status_internal_error;
  }
  if (command.buffer == nullptr) return 0;
  std::byte* const at = drive.bytes.data() + command.offset;
  std::memcpy(command.is_read ? command.buffer : at, command.is_read ? at : command.buffer, command.bytes);
  return 0;
}

int add_command(spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, Command command) {
  const std::lock_guard lock(mutex);
  Drive& drive = *ns->drive;
  if (!queue_pair->connected || queue_pair->controller->failed || drive.broken) return -ENXIO;
  if (queue_pair->under_way.size() >= queue_pair->size) return -ENOMEM;
  if (command.offset + command.bytes > drive.bytes.size()) return -EINVAL;
  if (command.buffer != nullptr && !reaches(drive, command.buffer, command.bytes)) return -EFAULT;
  counted.largest_command_bytes =
      std::max(counted.largest_command_bytes, static_cast<uint32_t>(command.bytes));
  if (command.bytes > drive.options.transfer_bytes_max) ++counted.commands_over_size;
  command.sent_at = Clock::now();
  queue_pair->under_way.push_back(command);
  return 0;
}

int add_io(bool is_read, spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, void* buffer, uint64_t first,
           uint32_t blocks, spdk_nvme_cmd_cb done, void* context) {
  const uint64_t block_bytes = ns->drive->options.block_bytes;
  return add_command(ns, queue_pair,
                     {.is_read = is_read,
                      .buffer = static_cast<std::byte*>(buffer),
                      .offset = first * block_bytes,
                      .bytes = blocks * block_bytes,
                      .done = done,
                      .context = context});
}

}  // namespace

// ---- the environment

void spdk_log_open(spdk_log_cb* /*log*/) {}
void spdk_log_set_print_level(spdk_log_level /*level*/) {}
void spdk_env_opts_init(spdk_env_opts* options) { *options = {.opts_size = options->opts_size}; }
int spdk_env_init(const spdk_env_opts* /*options*/) {
  const std::lock_guard lock(mutex);
  ++counted.env_inits;
  return 0;
}
void* spdk_zmalloc(size_t bytes, size_t alignment, uint64_t* /*unused*/, int /*numa_node*/,
                   uint32_t /*flags*/) {
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, whole);
  std::memset(memory, 0, whole);
  const std::lock_guard lock(mutex);
  reachable[static_cast<std::byte*>(memory)] = whole;
  return memory;
}
void spdk_free(void* memory) {
  const std::lock_guard lock(mutex);
  reachable.erase(static_cast<std::byte*>(memory));
  std::free(memory);
}
int spdk_mem_register(void* memory, size_t bytes) {
  const std::lock_guard lock(mutex);
  ++counted.registered_regions;
  return reachable.emplace(static_cast<std::byte*>(memory), bytes).second ? 0 : -EBUSY;
}
int spdk_mem_unregister(void* memory, size_t /*bytes*/) {
  const std::lock_guard lock(mutex);
  --counted.registered_regions;
  return reachable.erase(static_cast<std::byte*>(memory)) > 0 ? 0 : -EINVAL;
}

bool spdk_iommu_is_enabled() {
  const std::lock_guard lock(mutex);
  return iommu;
}

// ---- controllers

int spdk_nvme_transport_id_parse(spdk_nvme_transport_id* id, const char* text) {
  const std::string words(text);
  const auto value = [&](const std::string& key) {
    const size_t at = words.find(key);
    if (at == std::string::npos) return std::string();
    const size_t begin = at + key.size();
    return words.substr(begin, words.find(' ', begin) - begin);
  };
  const std::string transport = value("trtype:");
  if (transport.empty()) return -EINVAL;
  std::strncpy(id->trstring, transport.c_str(), sizeof id->trstring - 1);
  std::strncpy(id->traddr, value("traddr:").c_str(), sizeof id->traddr - 1);
  // Two addresses of one drive differ in this.
  std::strncpy(id->trsvcid, value("trsvcid:").c_str(), sizeof id->trsvcid - 1);
  id->trtype = transport == "TCP" ? SPDK_NVME_TRANSPORT_TCP : SPDK_NVME_TRANSPORT_PCIE;
  return 0;
}
bool spdk_nvme_transport_available_by_name(const char* name) { return std::strcmp(name, "RDMA") != 0; }
void spdk_nvme_ctrlr_get_default_ctrlr_opts(spdk_nvme_ctrlr_opts* options, size_t /*size*/) { *options = {}; }

spdk_nvme_probe_ctx* spdk_nvme_connect_async(const spdk_nvme_transport_id* id,
                                             const spdk_nvme_ctrlr_opts* options,
                                             spdk_nvme_attach_cb attached) {
  return new spdk_nvme_probe_ctx{.id = *id, .options = options, .attached = attached};
}

int spdk_nvme_probe_poll_async(spdk_nvme_probe_ctx* context) {
  if (!std::exchange(context->asked, true)) return -EAGAIN;
  const std::unique_ptr<spdk_nvme_probe_ctx> owned(context);
  spdk_nvme_ctrlr* controller = nullptr;
  {
    const std::lock_guard lock(mutex);
    const auto drive = find(context->id.traddr);
    if (!drive || drive->silent || drive->broken) return 0;
    controller = new spdk_nvme_ctrlr{.drive = drive, .ns = {drive}};
    std::strncpy(reinterpret_cast<char*>(controller->about.subnqn), context->id.traddr,
                 sizeof controller->about.subnqn - 1);
    ++counted.controllers;
  }
  context->attached(const_cast<spdk_nvme_ctrlr_opts*>(context->options), &context->id, controller,
                    context->options);
  return 0;
}

void spdk_nvme_ctrlr_register_timeout_callback(spdk_nvme_ctrlr* controller, uint64_t io_us,
                                               uint64_t /*admin_us*/, spdk_nvme_timeout_cb callback,
                                               void* context) {
  controller->timeout = std::chrono::microseconds(io_us);
  controller->on_timeout = callback;
  controller->timeout_context = context;
}
void spdk_nvme_ctrlr_register_aer_callback(spdk_nvme_ctrlr* controller, spdk_nvme_aer_cb callback,
                                           void* context) {
  controller->on_event = callback;
  controller->event_context = context;
}
int32_t spdk_nvme_ctrlr_process_admin_completions(spdk_nvme_ctrlr* controller) {
  bool changed = false;
  {
    const std::lock_guard lock(mutex);
    if (controller->failed || controller->drive->broken) return -ENXIO;
    changed = std::exchange(controller->drive->changed, false);
  }
  spdk_nvme_cpl event{};
  event.cdw0 = 2;
  if (changed) controller->on_event(controller->event_context, &event);
  return 0;
}
int spdk_nvme_ctrlr_reset(spdk_nvme_ctrlr* controller) {
  const std::lock_guard lock(mutex);
  ++counted.resets;
  return controller->drive->silent ? -EIO : 0;
}
void spdk_nvme_ctrlr_fail(spdk_nvme_ctrlr* controller) {
  const std::lock_guard lock(mutex);
  controller->failed = true;
}
int spdk_nvme_detach_async(spdk_nvme_ctrlr* controller, spdk_nvme_detach_ctx** context) {
  *context = new spdk_nvme_detach_ctx{controller};
  return 0;
}
// As a target over a network that says nothing: only one that was failed is detached.
int spdk_nvme_detach_poll_async(spdk_nvme_detach_ctx* context) {
  const std::lock_guard lock(mutex);
  if (context->controller->drive->silent && !context->controller->failed) return -EAGAIN;
  --counted.controllers;
  delete context->controller;
  delete context;
  return 0;
}
const spdk_nvme_ctrlr_data* spdk_nvme_ctrlr_get_data(spdk_nvme_ctrlr* controller) {
  return &controller->about;
}
spdk_nvme_cap_register spdk_nvme_ctrlr_get_regs_cap(spdk_nvme_ctrlr* controller) {
  spdk_nvme_cap_register capabilities{};
  capabilities.bits.mqes = static_cast<uint16_t>(controller->drive->options.queue_entries_max - 1);
  return capabilities;
}
uint32_t spdk_nvme_ctrlr_get_first_active_ns(spdk_nvme_ctrlr* /*controller*/) { return 1; }
spdk_nvme_ns* spdk_nvme_ctrlr_get_ns(spdk_nvme_ctrlr* controller, uint32_t number) {
  return number == 1 ? &controller->ns : nullptr;
}

// ---- namespaces

bool spdk_nvme_ns_is_active(spdk_nvme_ns* /*ns*/) { return true; }
uint32_t spdk_nvme_ns_get_sector_size(spdk_nvme_ns* ns) { return ns->drive->options.block_bytes; }
uint32_t spdk_nvme_ns_get_md_size(spdk_nvme_ns* ns) { return ns->drive->options.metadata_bytes; }
uint64_t spdk_nvme_ns_get_size(spdk_nvme_ns* ns) {
  const std::lock_guard lock(mutex);
  return ns->drive->options.size_bytes;
}
uint32_t spdk_nvme_ns_get_max_io_xfer_size(const spdk_nvme_ns* ns) {
  return ns->drive->options.transfer_bytes_max;
}

// ---- queue pairs

void spdk_nvme_ctrlr_get_default_io_qpair_opts(spdk_nvme_ctrlr* /*controller*/,
                                               spdk_nvme_io_qpair_opts* options, size_t /*size*/) {
  *options = {};
}
spdk_nvme_qpair* spdk_nvme_ctrlr_alloc_io_qpair(spdk_nvme_ctrlr* controller,
                                                const spdk_nvme_io_qpair_opts* options, size_t /*size*/) {
  const std::lock_guard lock(mutex);
  if (options->io_queue_size > controller->drive->options.queue_entries_max) return nullptr;
  ++counted.queue_pairs;
  return new spdk_nvme_qpair{.controller = controller, .size = options->io_queue_size - 1};
}
int spdk_nvme_ctrlr_connect_io_qpair(spdk_nvme_ctrlr* /*controller*/, spdk_nvme_qpair* queue_pair) {
  const std::lock_guard lock(mutex);
  queue_pair->connected = true;
  return 0;
}
bool spdk_nvme_qpair_is_connected(spdk_nvme_qpair* queue_pair) {
  const std::lock_guard lock(mutex);
  return queue_pair->connected && !queue_pair->controller->drive->broken;
}

int32_t spdk_nvme_qpair_process_completions(spdk_nvme_qpair* queue_pair, uint32_t /*most*/) {
  std::vector<std::pair<Command, uint16_t>> ended;
  bool is_late = false;
  spdk_nvme_ctrlr& controller = *queue_pair->controller;
  {
    const std::lock_guard lock(mutex);
    Drive& drive = *controller.drive;
    if (drive.broken || controller.failed) return -ENXIO;
    if (drive.silent) {
      for (Command& command : queue_pair->under_way) {
        if (command.told_late || Clock::now() < command.sent_at + controller.timeout) continue;
        is_late = command.told_late = true;
      }
    } else {
      for (const Command& command : queue_pair->under_way) {
        ended.emplace_back(command, carry_out(drive, command));
      }
      queue_pair->under_way.clear();
    }
  }
  if (is_late) controller.on_timeout(controller.timeout_context, &controller, queue_pair, 0);
  for (const auto& [command, status] : ended) {
    const spdk_nvme_cpl completion = completion_of(status);
    command.done(command.context, &completion);
  }
  return static_cast<int32_t>(ended.size());
}

int spdk_nvme_ctrlr_free_io_qpair(spdk_nvme_qpair* queue_pair) {
  {
    const std::lock_guard lock(mutex);
    --counted.queue_pairs;
    if (queue_pair->controller->drive->silent && !queue_pair->controller->failed) {
      ++counted.freed_before_failing;
    }
  }
  for (const Command& command : queue_pair->under_way) {
    const spdk_nvme_cpl completion = completion_of(status_aborted);
    command.done(command.context, &completion);
  }
  delete queue_pair;
  return 0;
}

int spdk_nvme_ns_cmd_read(spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, void* buffer, uint64_t first,
                          uint32_t blocks, spdk_nvme_cmd_cb done, void* context, uint32_t /*flags*/) {
  return add_io(true, ns, queue_pair, buffer, first, blocks, done, context);
}
int spdk_nvme_ns_cmd_write(spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, void* buffer, uint64_t first,
                           uint32_t blocks, spdk_nvme_cmd_cb done, void* context, uint32_t /*flags*/) {
  return add_io(false, ns, queue_pair, buffer, first, blocks, done, context);
}
int spdk_nvme_ns_cmd_flush(spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, spdk_nvme_cmd_cb done,
                           void* context) {
  return add_command(ns, queue_pair, {.done = done, .context = context});
}
const char* spdk_nvme_cpl_get_status_string(const spdk_nvme_status* status) {
  return status->sc == status_aborted ? "ABORTED" : "INTERNAL ERROR";
}

// ---- knobs

namespace kvpool::spdk_double {

void add_drive(const std::string& address, const DriveOptions& options) {
  const std::lock_guard lock(mutex);
  const auto drive = std::make_shared<Drive>();
  drive->options = options;
  drive->bytes.resize(options.size_bytes);
  drives[address] = drive;
}
void forget_drives() {
  const std::lock_guard lock(mutex);
  drives.clear();
  counted.largest_command_bytes = 0;
  counted.commands_over_size = 0;
  counted.freed_before_failing = 0;
}
std::vector<std::byte>& bytes_of(const std::string& address) {
  const std::lock_guard lock(mutex);
  return find(address)->bytes;
}
void set_iommu(bool on) {
  const std::lock_guard lock(mutex);
  iommu = on;
}
void fail_next(const std::string& address, uint32_t commands) {
  const std::lock_guard lock(mutex);
  find(address)->failures_due = commands;
}
void fall_silent(const std::string& address) {
  const std::lock_guard lock(mutex);
  find(address)->silent = true;
}
void break_connection(const std::string& address) {
  const std::lock_guard lock(mutex);
  find(address)->broken = true;
}
void come_back(const std::string& address, bool empty) {
  const std::lock_guard lock(mutex);
  const auto drive = std::make_shared<Drive>();
  drive->options = find(address)->options;
  drive->bytes = find(address)->bytes;
  if (empty) std::ranges::fill(drive->bytes, std::byte{0});
  drives[address] = drive;
}
void change_namespaces(const std::string& address) {
  const std::lock_guard lock(mutex);
  find(address)->changed = true;
}
Counts counts() {
  const std::lock_guard lock(mutex);
  return counted;
}

}  // namespace kvpool::spdk_double
