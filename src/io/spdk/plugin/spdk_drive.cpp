#include "io/spdk/plugin/spdk_drive.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "io/spdk/plugin/spdk_env.h"

namespace kvpool {
namespace {

using std::chrono::milliseconds;

constexpr Nanos attach_step = milliseconds(1);
constexpr Nanos serve_step = milliseconds(100);
constexpr Nanos again_after = milliseconds(500);
// One command moves that much at most: a power of two, so that segments are cut into equal pieces.
constexpr uint32_t transfer_bytes_max_allowed = 1U << 20;

uint64_t to_us(Nanos time) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}
uint32_t to_ms(Nanos time) { return static_cast<uint32_t>(to_us(time) / 1000); }

// ": what SPDK said", or nothing.
std::string spdk_says() {
  const std::string said = first_spdk_error();
  return said.empty() ? "" : ": " + said;
}

// As nvme-cli and the kernel's own initiator keep it; else empty, and SPDK makes one up for each process.
std::string host_nqn_of_machine() {
  std::ifstream file("/etc/nvme/hostnqn");
  std::string line;
  std::getline(file, line);
  return line;
}

// SPDK hands its options back as the only context of a connection.
struct Connection {
  spdk_nvme_ctrlr_opts options{};
  spdk_nvme_ctrlr* controller = nullptr;
};

// Of all drives of the process.
std::mutex pci_mutex;
std::mutex controllers_mutex;
std::set<std::string> controllers;

}  // namespace

SpdkDrive::SpdkDrive(const SpdkDeviceOptions& options, News& news, std::function<void()> all_ended)
    : options_(options), news_(news), all_ended_(std::move(all_ended)) {
  id_is_good_ = spdk_nvme_transport_id_parse(&id_, options_.address.c_str()) == 0;
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "kvpool-spdk");
    run();
  });
}

SpdkDrive::~SpdkDrive() { close(); }

void SpdkDrive::close() {
  if (!thread_.joinable()) return;
  stopping_.store(true, std::memory_order_release);
  // Whoever had the queue pair has it no more.
  State up = State::up;
  state_.compare_exchange_strong(up, State::lost, std::memory_order_acq_rel);
  wake_.notify();
  thread_.join();
  if (lock_fd_ >= 0) ::close(lock_fd_);
  if (!claimed_) return;
  const std::lock_guard lock(controllers_mutex);
  controllers.erase(controller_key());
}

Status SpdkDrive::attached() { return first_.get_future().get(); }

void SpdkDrive::give_back(std::string_view why) {
  KVPOOL_ASSERT(state() == State::up);
  lost_because_ = why;
  state_.store(State::lost, std::memory_order_release);
  wake_.notify();
}

void SpdkDrive::rest(Nanos most) {
  wake_.prepare();
  if (!stopping_.load(std::memory_order_acquire) && state() != State::lost) {
    pollfd readable{.fd = wake_.fd(), .events = POLLIN, .revents = 0};
    const timespec timeout{.tv_sec = 0, .tv_nsec = most.count()};
    ppoll(&readable, 1, &timeout, nullptr);
  }
  wake_.done();
}

void SpdkDrive::run() {
  Status first = attach();
  const bool good = first.has_value();
  good ? lend() : let_go(true);
  first_.set_value(std::move(first));
  if (!good) return;
  while (true) {
    if (queue_pair_ != nullptr) serve();
    if (stopping_.load(std::memory_order_acquire)) break;
    if (queue_pair_ == nullptr) {
      const Nanos until = SteadyClock().now() + again_after;
      while (!stopping_.load(std::memory_order_acquire) && SteadyClock().now() < until) rest(again_after);
      if (stopping_.load(std::memory_order_acquire)) break;
    }
    Status back = attach();
    if (back) {
      log_warn("{}: it is back", options_.name);
      last_refusal_.clear();
      lend();
      continue;
    }
    let_go(true);
    if (back.error().message == last_refusal_) continue;
    last_refusal_ = back.error().message;
    log_warn("{}; trying again", last_refusal_);
  }
  let_go(failure() != nullptr);
}

// From nothing to a queue pair that the engine may have.
Status SpdkDrive::attach() {
  failure_.store(nullptr, std::memory_order_relaxed);
  (void)first_spdk_error();
  if (Status done = claim(); !done) return done;
  if (Status done = connect(); !done) return done;
  if (Status done = look_at_namespace(); !done) return done;
  if (Status done = connect_queue_pair(); !done) return done;
  return taken_ ? come_back() : take_namespace();
}

void SpdkDrive::on_attach(void* context, const spdk_nvme_transport_id* /*id*/, spdk_nvme_ctrlr* controller,
                          const spdk_nvme_ctrlr_opts* /*options*/) {
  static_cast<Connection*>(context)->controller = controller;
}

// However the address is spelled.
std::string SpdkDrive::controller_key() const {
  return fmt::format("{} {} {} {}", static_cast<int>(id_.trtype), id_.traddr, id_.trsvcid, id_.subnqn);
}

// SPDK shares a controller between those who attach it at one address: what one of them does to it, another
// would feel.
Status SpdkDrive::claim() {
  const std::lock_guard lock(controllers_mutex);
  claimed_ = claimed_ || controllers.insert(controller_key()).second;
  if (claimed_) return {};
  return fail(Errc::in_use,
              fmt::format("{}: the controller at '{}' is another device's in this process; a pool has one "
                          "namespace of a controller, and a process one pool of it",
                          options_.name, options_.address));
}

// SPDK looks after PCIe devices on one thread at a time.
std::unique_lock<std::mutex> SpdkDrive::alone() const {
  return id_.trtype == SPDK_NVME_TRANSPORT_PCIE ? std::unique_lock(pci_mutex)
                                                : std::unique_lock<std::mutex>();
}

Status SpdkDrive::connect() {
  if (!id_is_good_) {
    return fail(Errc::invalid_argument, fmt::format("{}: SPDK does not understand the address '{}'{}",
                                                    options_.name, options_.address, spdk_says()));
  }
  if (!spdk_nvme_transport_available_by_name(id_.trstring)) {
    return fail(Errc::unsupported,
                fmt::format("{}: this build of SPDK has no transport {} (its configure has --with-rdma and "
                            "--with-vfio-user)",
                            options_.name, id_.trstring));
  }
  auto connection = std::make_unique<Connection>();
  static_assert(offsetof(Connection, options) == 0);
  spdk_nvme_ctrlr_get_default_ctrlr_opts(&connection->options, sizeof connection->options);
  // A target drops us after that time without a word; shorter than what a command may take, as SPDK wants it.
  connection->options.keep_alive_timeout_ms = to_ms(options_.io_timeout) * 3 / 4;
  connection->options.admin_timeout_ms = to_ms(options_.io_timeout);
  connection->options.fabrics_connect_timeout_us = to_us(options_.io_timeout);
  connection->options.disable_error_logging = true;
  const std::string host = options_.host_nqn.empty() ? host_nqn_of_machine() : options_.host_nqn;
  if (!host.empty()) {
    const size_t length = std::min(host.size(), sizeof connection->options.hostnqn - 1);
    std::memcpy(connection->options.hostnqn, host.data(), length);
    connection->options.hostnqn[length] = '\0';
  }
  spdk_nvme_probe_ctx* probe = nullptr;
  {
    const auto lock = alone();
    probe = spdk_nvme_connect_async(&id_, &connection->options, on_attach);
  }
  const Nanos until = SteadyClock().now() + 2 * options_.io_timeout;
  while (probe != nullptr && !is_over(probe)) {
    if (stopping_.load(std::memory_order_acquire) || (!taken_ && SteadyClock().now() > until)) {
      // SPDK waits for some answers without end, and cannot be told to leave it; what it may write to stays.
      (void)connection.release();
      return fail(Errc::timed_out, fmt::format("{}: '{}' does not answer", options_.name, options_.address));
    }
    std::this_thread::sleep_for(attach_step);
  }
  controller_ = connection->controller;
  if (controller_ == nullptr) {
    return fail(
        Errc::system,
        fmt::format("{}: no controller can be attached at '{}'{}; {}", options_.name, options_.address,
                    spdk_says(),
                    id_.trtype == SPDK_NVME_TRANSPORT_PCIE
                        ? "is a drive there and bound to vfio-pci (kvpool device prepare), and may this "
                          "user have its group in /dev/vfio?"
                        : "is the target up, and may this host connect?"));
  }
  const uint64_t timeout_us = to_us(options_.io_timeout);
  spdk_nvme_ctrlr_register_timeout_callback(controller_, timeout_us, timeout_us, on_timeout, this);
  spdk_nvme_ctrlr_register_aer_callback(controller_, on_event, this);
  return {};
}

bool SpdkDrive::is_over(spdk_nvme_probe_ctx* probe) const {
  const auto lock = alone();
  return spdk_nvme_probe_poll_async(probe) != -EAGAIN;
}

// On the engine's thread for a command of its own, else on the drive's.
void SpdkDrive::on_timeout(void* context, spdk_nvme_ctrlr* /*controller*/, spdk_nvme_qpair* /*queue_pair*/,
                           uint16_t /*command*/) {
  static_cast<SpdkDrive*>(context)->failure_.store("it does not answer", std::memory_order_relaxed);
}

// The number of our namespace may mean another one by now: it is looked at as one that came back.
void SpdkDrive::on_event(void* context, const spdk_nvme_cpl* completion) {
  constexpr uint32_t notice = 2;
  constexpr uint32_t namespaces_changed = 0;
  if ((completion->cdw0 & 7U) != notice || ((completion->cdw0 >> 8) & 0xffU) != namespaces_changed) return;
  static_cast<SpdkDrive*>(context)->failure_.store("its namespaces have changed", std::memory_order_relaxed);
}

Status SpdkDrive::look_at_namespace() {
  namespace_ = spdk_nvme_ctrlr_get_ns(controller_, options_.namespace_id);
  const auto bad = [&](Errc code, std::string_view what) {
    return fail(code, fmt::format("{}: namespace {} of '{}' {}", options_.name, options_.namespace_id,
                                  options_.address, what));
  };
  if (namespace_ == nullptr || !spdk_nvme_ns_is_active(namespace_)) {
    const uint32_t other = spdk_nvme_ctrlr_get_first_active_ns(controller_);
    return bad(Errc::invalid_argument,
               other == 0 ? std::string("is not there; the controller has none")
                          : fmt::format("is not there; the first of the controller is ns:{}", other));
  }
  const uint32_t block_bytes = spdk_nvme_ns_get_sector_size(namespace_);
  if (spdk_nvme_ns_get_md_size(namespace_) != 0) {
    return bad(Errc::unsupported,
               fmt::format("has blocks with {} bytes of metadata each; give it a plain format of 512 or 4096 "
                           "bytes (nvme format, which erases it) or use another drive",
                           spdk_nvme_ns_get_md_size(namespace_)));
  }
  if (!std::has_single_bit(block_bytes) || block_bytes < 512 || block_bytes > 65536) {
    return bad(Errc::unsupported, fmt::format("has blocks of {} bytes", block_bytes));
  }
  const uint64_t size = spdk_nvme_ns_get_size(namespace_);
  const uint32_t most =
      std::bit_floor(std::min(spdk_nvme_ns_get_max_io_xfer_size(namespace_), transfer_bytes_max_allowed));
  if (most < std::max(io_page_bytes, block_bytes)) {
    return bad(Errc::unsupported, fmt::format("moves {} bytes at once, less than a block or a page", most));
  }
  // A queue of the controller's has one entry that is never used.
  queue_entries_max_ = uint32_t{spdk_nvme_ctrlr_get_regs_cap(controller_).bits.mqes} + 1;
  const uint32_t depth = std::clamp(options_.queue_depth, 1U, queue_entries_max_ - 1);
  if (taken_ && (depth < queue_depth_ || block_bytes != block_bytes_ || size < size_bytes_ ||
                 most < transfer_bytes_max_)) {
    return bad(Errc::unsupported, "has another shape than before; close the pool and open it anew");
  }
  block_bytes_ = block_bytes;
  if (taken_) return {};
  queue_depth_ = depth;
  size_bytes_ = size;
  transfer_bytes_max_ = most;
  return {};
}

Status SpdkDrive::connect_queue_pair() {
  spdk_nvme_io_qpair_opts options{};
  spdk_nvme_ctrlr_get_default_io_qpair_opts(controller_, &options, sizeof options);
  // SPDK keeps a quarter of a queue's entries to itself.
  options.io_queue_size = std::min(queue_entries_max_, (queue_depth_ + 1) * 4 / 3 + 2);
  options.io_queue_requests = 4 * options.io_queue_size;
  options.delay_cmd_submit = true;
  options.create_only = true;
  options.async_mode = true;
  const auto bad = [&] {
    return fail(Errc::system, fmt::format("{}: no queue pair can be had of '{}'{}", options_.name,
                                          options_.address, spdk_says()));
  };
  queue_pair_ = spdk_nvme_ctrlr_alloc_io_qpair(controller_, &options, sizeof options);
  if (queue_pair_ == nullptr || spdk_nvme_ctrlr_connect_io_qpair(controller_, queue_pair_) != 0) return bad();
  const Nanos until = SteadyClock().now() + options_.io_timeout;
  while (!spdk_nvme_qpair_is_connected(queue_pair_)) {
    if (SteadyClock().now() > until) return bad();
    if (spdk_nvme_qpair_process_completions(queue_pair_, 0) < 0) return bad();
    if (spdk_nvme_ctrlr_process_admin_completions(controller_) < 0) return bad();
    std::this_thread::sleep_for(attach_step);
  }
  return {};
}

void SpdkDrive::lend() {
  state_.store(State::up, std::memory_order_release);
  news_.tell();
}

// Until the engine gives the queue pair back or the pool closes.
void SpdkDrive::serve() {
  bool told = false;
  while (!stopping_.load(std::memory_order_acquire) && state() != State::lost) {
    if (failure() == nullptr && spdk_nvme_ctrlr_process_admin_completions(controller_) < 0) {
      failure_.store("the connection broke", std::memory_order_relaxed);
    }
    if (failure() != nullptr && !std::exchange(told, true)) news_.tell();
    rest(serve_step);
  }
  if (stopping_.load(std::memory_order_acquire)) return;
  log_error(
      "{}: '{}' has failed ({}{}); what is under way on it ends with an error, and it is attached again "
      "when it is back",
      options_.name, options_.address, lost_because_, spdk_says());
  // Over a network nothing reaches our memory once the queue pair is gone. A controller with DMA of its own
  // must be gone too.
  free_queue_pair(true);
  if (has_dma()) detach();
  all_ended_();
  state_.store(State::away, std::memory_order_release);
  news_.tell();
  detach();
}

void SpdkDrive::let_go(bool controller_failed) {
  free_queue_pair(controller_failed);
  detach();
}

// A controller that has failed is told so first: its queue pairs are then freed without asking it. A drive
// that was only slow is reset before that, so that it cannot use their memory when it is somebody else's.
void SpdkDrive::free_queue_pair(bool controller_failed) {
  if (controller_ == nullptr) return;
  if (controller_failed && id_.trtype == SPDK_NVME_TRANSPORT_PCIE) {
    const auto lock = alone();
    [[maybe_unused]] const int ignored = spdk_nvme_ctrlr_reset(controller_);
  }
  if (controller_failed) spdk_nvme_ctrlr_fail(controller_);
  if (queue_pair_ != nullptr) spdk_nvme_ctrlr_free_io_qpair(queue_pair_);
  queue_pair_ = nullptr;
}

// A target that says nothing would be waited for without end: after a time it is given up.
void SpdkDrive::detach() {
  if (controller_ == nullptr) return;
  spdk_nvme_detach_ctx* context = nullptr;
  {
    const auto lock = alone();
    if (spdk_nvme_detach_async(controller_, &context) != 0) context = nullptr;
  }
  Nanos until = SteadyClock().now() + options_.io_timeout;
  for (int given_up = 0; context != nullptr && given_up < 2;) {
    {
      const auto lock = alone();
      if (spdk_nvme_detach_poll_async(context) != -EAGAIN) break;
    }
    std::this_thread::sleep_for(attach_step);
    if (SteadyClock().now() < until) continue;
    spdk_nvme_ctrlr_fail(controller_);
    until += options_.io_timeout;
    ++given_up;
  }
  namespace_ = nullptr;
  controller_ = nullptr;
}

}  // namespace kvpool
