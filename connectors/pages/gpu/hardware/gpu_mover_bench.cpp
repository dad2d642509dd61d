// Loads and stores through a whole PageMover: a pool, its engine, pages in GPU memory, and all bytes compared
// at the end. The link is one large copy of CUDA's in the same round. Says SKIP, with exit status 77, where
// there is no GPU.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/median.h"
#include "connectors/pages/gpu/gpu_copier.h"
#include "connectors/pages/page_mover.h"
#include "probe/profile_file.h"
#include "xfer/cuda/cuda_plugin.h"
#include "xfer/cuda/plugin/cuda_handles.h"
#include "xfer/cuda/plugin/hardware/test_kernels.h"

namespace kvpool::pages {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t layers = 32;
constexpr uint32_t block_pages = 16;  // of a layer
constexpr uint64_t patience_us = 60'000'000;

void expect(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}
void expect(cudaError_t error, const std::string& what) {
  expect(error == cudaSuccess, error == cudaSuccess ? what : cuda_words(error, what));
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double processor_seconds() {
  timespec spent{};
  (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return static_cast<double>(spent.tv_sec) + static_cast<double>(spent.tv_nsec) / 1e9;
}

struct Settings {
  uint32_t rounds = 5;
  uint64_t gib = 4;
  uint32_t threads = 8;
  std::string folder = "/tmp";
  bool with_file = false;
};

struct Device {
  std::string kind;
  double gb_per_s;  // of its profile
  std::string limit;
};
struct Case {
  std::string name;
  uint64_t page_bytes;
  std::string verify;
  std::vector<Device> devices;
};

class Bench {
 public:
  Bench(Case wanted, const Settings& settings)
      : case_(std::move(wanted)), block_bytes_(layers * block_pages * case_.page_bytes) {
    blocks_ = static_cast<uint32_t>((settings.gib << 30) / block_bytes_);
    total_bytes_ = blocks_ * block_bytes_;
    layer_bytes_ = total_bytes_ / layers;
    open_pool(settings);
    expect(cudaMalloc(reinterpret_cast<void**>(&device_), total_bytes_), "GPU memory");
    open_mover();
    // Neighbours nowhere.
    const uint32_t pages = blocks_ * block_pages;
    for (uint32_t i = 0; i < pages; ++i) {
      pages_.push_back(static_cast<int32_t>(uint64_t{i} * 7919 % pages));
    }
  }
  ~Bench() {
    kvpool_error ignored{};
    (void)mover_->close(patience_us, &ignored);
    mover_.reset();
    (void)kvpool_consumer_close(asker_, patience_us, &ignored);
    (void)kvpool_close(pool_, patience_us, &ignored);
    (void)cudaFree(device_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void run(uint32_t rounds, const std::vector<std::byte*>& link);

 private:
  void open_pool(const Settings& settings);
  void open_mover();
  kvpool_completion ask(kvpool_status (*call)(kvpool_consumer*, const kvpool_request*, kvpool_ticket*),
                        kvpool_request request);
  [[nodiscard]] double store(double* gathered_s);
  [[nodiscard]] double load(kvpool_pin pin, uint32_t jobs);
  [[nodiscard]] double load_one(kvpool_pin pin);
  struct BehindStep {
    double launch_s;  // the engine's longest meanwhile
    double load_s;    // from the step's end on
  };
  [[nodiscard]] BehindStep load_behind_step(kvpool_pin pin);
  void ended(uint64_t id, EventKind kind, uint32_t blocks);
  [[nodiscard]] double link(std::byte* pinned, uint64_t bytes, bool load) const;
  void fill_pages();
  void clear_pages();
  void expect_pages();
  [[nodiscard]] uint64_t word(uint64_t index, uint32_t layer) const {
    return (index + 1) * 0x9e3779b97f4a7c15ULL + layer;
  }

  Case case_;
  uint64_t block_bytes_;
  uint32_t blocks_ = 0;
  uint64_t total_bytes_ = 0;
  uint64_t layer_bytes_ = 0;
  kvpool_pool* pool_ = nullptr;
  uint32_t ns_ = 0;
  kvpool_consumer* asker_ = nullptr;
  std::span<kvpool_key> keys_;
  std::byte* device_ = nullptr;
  std::shared_ptr<PageMover> mover_;
  std::vector<int32_t> pages_;
  uint64_t ids_ = 0;
  uint64_t chain_ = 0;
  std::vector<Event> events_;
};

void Bench::open_pool(const Settings& settings) {
  Profile profile{.devices = {}, .measured_at = "2026-01-01T00:00:00Z", .conditions = "made up"};
  const std::string path = settings.folder + "/profile.json";
  std::string text = "[pool]\nplacement = \"bandwidth\"\nstaging = \"64MiB\"\nbuffers = \"1GiB\"\n";
  text += "transfer_threads = " + std::to_string(settings.threads) + "\nverify = \"" + case_.verify +
          "\"\nprofile = \"" + path + "\"\n";
  double sum = 0;
  for (const Device& device : case_.devices) sum += device.gb_per_s;
  for (size_t i = 0; i < case_.devices.size(); ++i) {
    const Device& device = case_.devices[i];
    const std::string name = device.kind + std::to_string(i);
    const double wanted = static_cast<double>(total_bytes_) * (device.gb_per_s / sum * 1.1) + 256e6;
    const auto mib = static_cast<uint64_t>(wanted) >> 20;
    text += "[[device]]\nkind = \"" + device.kind + "\"\nname = \"" + name + "\"\nsize = \"" +
            std::to_string(mib) + "MiB\"\n";
    if (device.kind == "file") text += "path = \"" + settings.folder + "/pool.kv\"\n";
    if (!device.limit.empty()) text += "limit_read = \"" + device.limit + "\"\n";
    profile.devices.push_back({.name = name,
                               .read_bytes_per_second = device.gb_per_s * 1e9,
                               .write_bytes_per_second = device.gb_per_s * 1e9,
                               .read_latency = std::chrono::microseconds(100),
                               .write_latency = std::chrono::microseconds(100),
                               .queue_bytes = 32 << 20,
                               .storage = device.kind != "memory"});
  }
  expect(bool{save_profile(path, profile)}, "no profile in " + path);
  const kvpool_options options{
      .struct_size = sizeof options, .config_path = nullptr, .config_toml = text.c_str()};
  kvpool_error error{};
  expect(kvpool_open(&options, &pool_, &error) == KVPOOL_OK, error.message);
  const std::vector<uint32_t> bytes(layers, static_cast<uint32_t>(block_pages * case_.page_bytes));
  const kvpool_geometry geometry{.struct_size = sizeof geometry,
                                 .name = "bench",
                                 .block_tokens = 256,
                                 .segments = layers,
                                 .segment_bytes = bytes.data()};
  expect(kvpool_namespace_open(pool_, &geometry, &ns_, &error) == KVPOOL_OK, error.message);
  const kvpool_consumer_options asker{.struct_size = sizeof asker, .name = "bench", .region_bytes = 1 << 20};
  expect(kvpool_consumer_open(pool_, &asker, &asker_, &error) == KVPOOL_OK, error.message);
  uint64_t region_bytes = 0;
  keys_ = {static_cast<kvpool_key*>(kvpool_region(asker_, &region_bytes)), blocks_};
}

void Bench::open_mover() {
  MoverOptions options{.pool = pool_, .ns = ns_};
  options.pages.of_group = {block_pages};
  for (uint32_t layer = 0; layer < layers; ++layer) {
    options.layers.push_back({.base = device_ + layer * layer_bytes_,
                              .page_stride_bytes = case_.page_bytes,
                              .pages = blocks_ * block_pages,
                              .pieces = {{0, case_.page_bytes}}});
  }
  options.copier = gpu_copier(0);
  kvpool_status status = KVPOOL_OK;
  kvpool_error error{};
  const auto begin = Clock::now();
  mover_ = PageMover::open(std::move(options), &status, &error);
  expect(status == KVPOOL_OK, error.message);
  (void)std::printf("%s: opened and registered in %.2f s\n", case_.name.c_str(), seconds_since(begin));
}

kvpool_completion Bench::ask(kvpool_status (*call)(kvpool_consumer*, const kvpool_request*, kvpool_ticket*),
                             kvpool_request request) {
  request.struct_size = sizeof request;
  request.ns = ns_;
  kvpool_ticket ticket = 0;
  expect(call(asker_, &request, &ticket) == KVPOOL_OK, "a request was refused");
  std::array<kvpool_completion, 2> ends{};
  for (uint32_t taken = 0; taken < 2;) {
    kvpool_wait(asker_, 100'000);
    taken += kvpool_poll(asker_, &ends[taken], 2 - taken);
  }
  return ends[0];
}

void Bench::ended(uint64_t id, EventKind kind, uint32_t blocks) {
  expect(mover_->wait_ended(id, patience_us), "a job hangs");
  for (const Event& event : mover_->take_events()) events_.push_back(event);
  const bool whole = std::ranges::any_of(events_, [&](const Event& event) {
    return event.id == id && event.kind == kind && event.blocks == blocks;
  });
  expect(whole, "a job is not whole");
}

// Seconds. The pool is empty before.
double Bench::store(double* gathered_s) {
  ++chain_;
  for (uint32_t block = 0; block < blocks_; ++block) keys_[block] = {.high = chain_, .low = block + 1};
  StoreJob job{.id = ++ids_, .chain = chain_, .keys = {keys_.begin(), keys_.end()}, .pages = pages_};
  const auto begin = Clock::now();
  expect(mover_->store(std::move(job)) == KVPOOL_OK, "a store was refused");
  expect(mover_->wait_gathered(ids_, patience_us), "a store hangs");
  *gathered_s = seconds_since(begin);
  expect(mover_->wait_ended(ids_, patience_us), "a store hangs");
  const double taken = seconds_since(begin);
  ended(ids_, EventKind::stored, blocks_);
  return taken;
}

double Bench::load(kvpool_pin pin, uint32_t jobs) {
  const uint32_t each = blocks_ / jobs;
  std::vector<LoadJob> made;
  for (uint32_t i = 0; i < jobs; ++i) {
    const auto first = pages_.begin() + int64_t{i} * each * block_pages;
    made.push_back({.id = ++ids_, .pin = pin, .block_first = i * each, .blocks = each, .pages = {}});
    made.back().pages.assign(first, first + int64_t{each} * block_pages);
  }
  std::vector<uint64_t> ids;
  const auto begin = Clock::now();
  for (LoadJob& job : made) {
    ids.push_back(job.id);
    expect(mover_->load(std::move(job)) == KVPOOL_OK, "a load was refused");
  }
  for (const uint64_t id : ids) expect(mover_->wait_ended(id, patience_us), "a load hangs");
  const double taken = seconds_since(begin);
  for (const uint64_t id : ids) ended(id, EventKind::loaded, each);
  return taken;
}

double Bench::load_one(kvpool_pin pin) {
  const auto begin = Clock::now();
  expect(
      mover_->load(
          {.id = ++ids_, .pin = pin, .blocks = 1, .pages = {pages_.begin(), pages_.begin() + block_pages}}) ==
          KVPOOL_OK,
      "a load was refused");
  ended(ids_, EventKind::loaded, 1);
  return seconds_since(begin);
}

// All of it is given to the GPU while a step of an engine runs there, whose next launches must not wait for
// that.
Bench::BehindStep Bench::load_behind_step(kvpool_pin pin) {
  constexpr double step_s = 0.3;
  Stream stream;
  kvpool::Event ended_step;
  Pinned<uint32_t> open;
  DeviceMemory word;
  expect(make_stream(stream) && make_event(ended_step) && make_pinned(open, 1) && make_device_memory(word, 4),
         "a step");
  *open = 1;
  expect(launch_gate(open.get(), stream.get()), "a step");
  expect(cudaStreamSynchronize(stream.get()), "a step");  // a first launch waits
  __atomic_store_n(open.get(), 0, __ATOMIC_RELEASE);
  expect(launch_gate(open.get(), stream.get()), "a step");
  expect(cudaEventRecord(ended_step.get(), stream.get()), "a step");
  BehindStep made{};
  const auto begin = Clock::now();
  expect(mover_->load({.id = ++ids_,
                       .pin = pin,
                       .blocks = blocks_,
                       .pages = pages_,
                       .after = reinterpret_cast<uintptr_t>(ended_step.get())}) == KVPOOL_OK,
         "a load was refused");
  while (seconds_since(begin) < step_s) {
    const auto launched = Clock::now();
    expect(cudaMemsetAsync(word.get(), 0, 4, stream.get()), "a launch");
    made.launch_s = std::max(made.launch_s, seconds_since(launched));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  __atomic_store_n(open.get(), 1, __ATOMIC_RELEASE);
  const auto opened = Clock::now();
  ended(ids_, EventKind::loaded, blocks_);
  made.load_s = seconds_since(opened);
  expect(cudaStreamSynchronize(stream.get()), "a step");
  return made;
}

double Bench::link(std::byte* pinned, uint64_t bytes, bool load) const {
  const auto begin = Clock::now();
  expect(load ? cudaMemcpy(device_, pinned, bytes, cudaMemcpyHostToDevice)
              : cudaMemcpy(pinned, device_, bytes, cudaMemcpyDeviceToHost),
         "the link");
  return static_cast<double>(bytes) / seconds_since(begin);
}

void Bench::fill_pages() {
  std::vector<uint64_t> words(layer_bytes_ / 8);
  for (uint32_t layer = 0; layer < layers; ++layer) {
    for (uint64_t i = 0; i < words.size(); ++i) words[i] = word(i, layer);
    expect(cudaMemcpy(device_ + layer * layer_bytes_, words.data(), layer_bytes_, cudaMemcpyHostToDevice),
           "pages");
  }
}

void Bench::clear_pages() {
  expect(cudaMemset(device_, 0, total_bytes_), "pages");
  expect(cudaDeviceSynchronize(), "pages");
}

void Bench::expect_pages() {
  std::vector<uint64_t> words(layer_bytes_ / 8);
  for (uint32_t layer = 0; layer < layers; ++layer) {
    expect(cudaMemcpy(words.data(), device_ + layer * layer_bytes_, layer_bytes_, cudaMemcpyDeviceToHost),
           "pages");
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < words.size(); ++i) wrong |= words[i] ^ word(i, layer);
    expect(wrong == 0, "bytes differ in layer " + std::to_string(layer));
  }
}

void Bench::run(uint32_t rounds, const std::vector<std::byte*>& pinned) {
  constexpr uint64_t link_bytes = 1 << 30;
  std::vector<double> links[2], rates[5], ratios[5], first_ms, launch_ms, cores;
  const auto bytes = static_cast<double>(total_bytes_);
  for (uint32_t round = 0; round <= rounds; ++round) {
    fill_pages();
    const double store_link = link(pinned[1], std::min(link_bytes, total_bytes_), false);
    double gathered_s = 0;
    const double store_s = store(&gathered_s);
    const kvpool_pin pin =
        ask(kvpool_match, {.flags = KVPOOL_PIN, .keys = keys_.data(), .blocks = blocks_}).pin;
    const bool compared = round == 0 || round == rounds;
    clear_pages();
    const double load_link = link(pinned[0], std::min(link_bytes, total_bytes_), true);
    const double spent_before_s = processor_seconds();
    const double load_s = load(pin, 1);
    const double spent_s = processor_seconds() - spent_before_s;
    if (compared) {
      expect_pages();
      clear_pages();
    }
    const double many_s = load(pin, 8);
    const double one_s = load_one(pin);
    if (compared) {
      expect_pages();
      clear_pages();
    }
    const BehindStep behind = load_behind_step(pin);
    if (compared) expect_pages();
    ask(kvpool_unpin, {.pin = pin});
    ask(kvpool_delete, {.keys = keys_.data(), .blocks = 1});
    if (round == 0) continue;  // memory is touched for the first time
    links[0].push_back(load_link / 1e9);
    links[1].push_back(store_link / 1e9);
    cores.push_back(spent_s / (bytes / load_link));
    const std::array<double, 5> rate = {bytes / load_s, bytes / many_s, bytes / behind.load_s,
                                        bytes / store_s, bytes / gathered_s};
    for (size_t i = 0; i < rate.size(); ++i) {
      rates[i].push_back(rate[i] / 1e9);
      ratios[i].push_back(rate[i] / (i < 3 ? load_link : store_link));
    }
    first_ms.push_back(one_s * 1e3);
    launch_ms.push_back(behind.launch_s * 1e3);
  }
  const std::array<const char*, 5> names = {"load", "load, 8 jobs", "load, behind step", "store",
                                            "store, gathered"};
  (void)std::printf("%s: %u blocks of %.0f MiB, link %.1f GB/s to the GPU, %.1f from it\n",
                    case_.name.c_str(), blocks_, static_cast<double>(block_bytes_) / (1 << 20),
                    median(links[0]), median(links[1]));
  for (size_t i = 0; i < names.size(); ++i) {
    (void)std::printf("  %-17s %6.1f GB/s  %.3f of the link (%.3f to %.3f)\n", names[i], median(rates[i]),
                      median(ratios[i]), std::ranges::min(ratios[i]), std::ranges::max(ratios[i]));
  }
  (void)std::printf("  a load takes %.2f cores at the link's rate (%.2f to %.2f)\n", median(cores),
                    std::ranges::min(cores), std::ranges::max(cores));
  (void)std::printf("  one block         %6.2f ms\n", median(first_ms));
  (void)std::printf("  an engine's longest launch behind that step %.2f ms (up to %.2f)\n", median(launch_ms),
                    std::ranges::max(launch_ms));
  (void)std::fflush(stdout);
}

void run_all(Settings settings) {
  settings.folder += "/kvpool-bench-" + std::to_string(getpid());
  std::filesystem::create_directories(settings.folder);
  const std::vector<Device> memory = {{"memory", 50, ""}};
  const std::vector<Device> mixed = {{"memory", 32, ""}, {"memory", 20, "20GB/s"}, {"memory", 12, "12GB/s"}};
  std::vector<Case> cases = {
      {"memory, 32 KiB", 32 << 10, "never", memory},
      {"memory, 64 KiB", 64 << 10, "never", memory},
      {"memory, 64 KiB, verified", 64 << 10, "always", memory},
      {"mixed (capped at 20 and 12 GB/s), 64 KiB", 64 << 10, "never", mixed},
  };
  if (settings.with_file) {
    cases.push_back({"memory and file, 64 KiB", 64 << 10, "storage", {{"memory", 60, ""}, {"file", 1, ""}}});
  }
  std::vector<std::byte*> pinned(2);
  for (std::byte*& memory_of_one : pinned) {
    expect(cudaHostAlloc(reinterpret_cast<void**>(&memory_of_one), 1 << 30, cudaHostAllocPortable), "pinned");
  }
  for (const Case& wanted : cases) Bench(wanted, settings).run(settings.rounds, pinned);
  std::filesystem::remove_all(settings.folder);
}

}  // namespace
}  // namespace kvpool::pages

int main(int argc, char** argv) try {
  kvpool::pages::Settings settings;
  CLI::App app("Loads and stores through a whole PageMover, beside one large copy");
  app.option_defaults()->always_capture_default();
  app.add_option("--rounds", settings.rounds, "of each case, and one before that does not count")
      ->check(CLI::Range(1, 10'000));
  app.add_option("--gib", settings.gib, "moved at a time")->check(CLI::Range(1, 1024));
  app.add_option("--threads", settings.threads, "that copy and sum in the pool")->check(CLI::Range(1, 256));
  app.add_option("--folder", settings.folder, "of the pool's profile and file")
      ->check(CLI::ExistingDirectory);
  app.add_flag("--file", settings.with_file, "a case with a file device, too");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const auto plugin = kvpool::load_cuda();
  const auto transfer =
      plugin ? (*plugin)->open({.batches_max = 1, .pieces_max = 1}) : tl::unexpected(plugin.error());
  if (!transfer && transfer.error().code == kvpool::Errc::unsupported) {
    (void)std::printf("SKIP: %s\n", transfer.error().message.c_str());
    return 77;
  }
  kvpool::pages::run_all(settings);
  return 0;
} catch (const std::exception& error) {
  (void)std::fprintf(stderr, "gpu_mover_bench: %s\n", error.what());
  return 1;
}
