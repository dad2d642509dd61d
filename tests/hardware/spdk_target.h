// SpdkTarget: SPDK's own NVMe-oF target in a process of its own, with drives in memory of known speed and
// known faults, for tests and benchmarks of `spdk` devices on machines without NVMe drives.
//
// It needs SPDK's nvmf_tgt (KVPOOL_NVMF_TGT, or in PATH) and huge pages. Thread: any one.
// Failure: start() says what is missing, for a SKIP; what fails afterwards fails the test.

#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace kvpool {

class SpdkTarget {
 public:
  using json = nlohmann::json;

  struct Drive {
    uint64_t size_mib = 64;
    uint64_t megabytes_per_second = 0;  // 0: as fast as it goes
    uint64_t delay_us = 0;
    bool with_faults = false;  // inject() may be called
  };
  struct Options {
    std::string name;  // of the subsystem; one a target
    std::string transport = "TCP";
    uint16_t port = 4420;
    int cpu = 0;
    Drive drive;
  };

  // Why it cannot run here; empty: it can.
  static std::string missing() {
    if (program().empty()) return "SPDK's nvmf_tgt is not here (KVPOOL_NVMF_TGT, or PATH)";
    uint64_t free_pages = 0;
    std::ifstream("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") >> free_pages;
    if (free_pages < 640)
      return fmt::format("{} huge pages are free, it takes 640 (vm.nr_hugepages)", free_pages);
    return {};
  }

  SpdkTarget(const Options& options, const std::string& folder)
      : options_(options), folder_(folder + "/" + options.name) {
    start();
  }
  SpdkTarget(const SpdkTarget&) = delete;
  SpdkTarget& operator=(const SpdkTarget&) = delete;
  ~SpdkTarget() { kill(); }

  // What the device of a pool is told.
  [[nodiscard]] std::string address() const {
    if (options_.transport == "TCP") {
      return fmt::format("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{}", options_.port,
                         nqn());
    }
    return fmt::format("trtype:VFIOUSER traddr:{} subnqn:{}", socket_folder(), nqn());
  }

  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  void stop() const { ::kill(pid_, SIGSTOP); }
  void go_on() const { ::kill(pid_, SIGCONT); }
  // Empty again: its drives are in memory.
  void start() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(socket_folder());
    spawn();
    if (wait_until_up()) set_up();
  }
  // The next `count` reads or writes fail.
  void fail_next(const std::string& kind, uint32_t count) {
    call("bdev_error_inject_error",
         {{"name", "EE_base"}, {"io_type", kind}, {"error_type", "failure"}, {"num", count}});
  }

 private:
  static std::string program() {
    if (const char* named = std::getenv("KVPOOL_NVMF_TGT"); named != nullptr) return named;
    const char* path = std::getenv("PATH");
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');) {
      if (access((folder + "/nvmf_tgt").c_str(), X_OK) == 0) return folder + "/nvmf_tgt";
    }
    return {};
  }
  [[nodiscard]] std::string nqn() const { return "nqn.2026-01.io.kvpool:" + options_.name; }
  [[nodiscard]] std::string socket_folder() const { return folder_ + "/vfio"; }
  [[nodiscard]] std::string control() const { return folder_ + "/rpc"; }

  void spawn() {
    std::vector<std::string> words = {program(), "-m", fmt::format("[{}]", options_.cpu), "-r", control(),
                                      "-s", std::to_string(options_.drive.size_mib + 384), "--no-pci",
                                      // Two targets may share a processor here.
                                      "--disable-cpumask-locks"};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, (folder_ + "/log").c_str(), O_WRONLY | O_CREAT, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    ASSERT_EQ(posix_spawn(&pid_, words[0].c_str(), &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }

  bool wait_until_up() {
    for (int tries = 0; tries < 600; ++tries) {
      if (connect() >= 0) return true;
      if (waitpid(pid_, nullptr, WNOHANG) == pid_) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    std::ifstream log(folder_ + "/log");
    ADD_FAILURE() << "the target does not come up: "
                  << std::string(std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>());
    return false;
  }

  void set_up() {
    const Drive& drive = options_.drive;
    call("nvmf_create_transport", {{"trtype", options_.transport}});
    call("bdev_malloc_create", {{"name", "base"}, {"num_blocks", drive.size_mib << 8}, {"block_size", 4096}});
    std::string top = "base";
    if (drive.with_faults) {
      call("bdev_error_create", {{"base_name", top}});
      top = "EE_" + top;
    }
    if (drive.delay_us > 0) {
      call("bdev_delay_create", {{"name", "late"},
                                 {"base_bdev_name", top},
                                 {"avg_read_latency", drive.delay_us},
                                 {"p99_read_latency", drive.delay_us},
                                 {"avg_write_latency", drive.delay_us},
                                 {"p99_write_latency", drive.delay_us}});
      top = "late";
    }
    if (drive.megabytes_per_second > 0) {
      call("bdev_set_qos_limit", {{"name", top}, {"rw_mbytes_per_sec", drive.megabytes_per_second}});
    }
    call("nvmf_create_subsystem",
         {{"nqn", nqn()}, {"allow_any_host", true}, {"serial_number", options_.name}});
    call("nvmf_subsystem_add_ns", {{"nqn", nqn()}, {"namespace", {{"bdev_name", top}}}});
    json listen = {{"trtype", options_.transport}};
    if (options_.transport == "TCP") {
      listen.update(
          {{"adrfam", "IPv4"}, {"traddr", "127.0.0.1"}, {"trsvcid", std::to_string(options_.port)}});
    } else {
      listen.update({{"traddr", socket_folder()}, {"trsvcid", "0"}});
    }
    call("nvmf_subsystem_add_listener", {{"nqn", nqn()}, {"listen_address", listen}});
  }

  int connect() {
    if (fd_ >= 0) close(fd_);
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, control().c_str(), sizeof address.sun_path - 1);
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd_;
    close(fd_);
    return fd_ = -1;
  }

  void call(const std::string& method, const json& parameters) {
    const std::string text =
        json{{"jsonrpc", "2.0"}, {"id", 1}, {"method", method}, {"params", parameters}}.dump();
    ASSERT_EQ(write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size())) << method;
    std::string answer;
    std::array<char, 4096> part;
    while (!json::accept(answer)) {
      const ssize_t got = read(fd_, part.data(), part.size());
      ASSERT_GT(got, 0) << method;
      answer.append(part.data(), static_cast<size_t>(got));
    }
    ASSERT_FALSE(json::parse(answer).contains("error")) << method << ": " << answer;
  }

  Options options_;
  std::string folder_;
  pid_t pid_ = -1;
  int fd_ = -1;
};

}  // namespace kvpool
