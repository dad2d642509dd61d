#include "io/pci/host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>

namespace kvpool {
namespace {

Status write_to(const HostStep& step) {
  const int fd = open(step.path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return fail_errno(errno, step.path);
  const std::string line = step.text + "\n";
  const bool written = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  close(fd);
  if (!written) return fail_errno(error, to_string(step));
  return {};
}

// Words between single blanks; none of ours holds one itself.
Status run(const HostStep& step) {
  std::array<std::string, 2> words = {step.text.substr(0, step.text.find(' ')),
                                      step.text.substr(step.text.find(' ') + 1)};
  std::array<char*, 3> arguments = {words[0].data(), words[1].data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ);
  if (error != 0) return fail_errno(error, step.text);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail(Errc::system, fmt::format("{}: failed", step.text));
}

}  // namespace

std::string to_string(const HostStep& step) {
  if (step.path.empty()) return step.text;
  return fmt::format("echo {}> {}", step.text.empty() ? "" : step.text + " ", step.path);
}

Host this_host() {
  utsname about{};
  uname(&about);
  return {.modules = std::filesystem::path("/lib/modules") / about.release,
          .is_root = geteuid() == 0,
          .carry_out = [](const HostStep& step) { return step.path.empty() ? run(step) : write_to(step); }};
}

bool has_pci_driver(const Host& host, const std::string& driver) {
  std::error_code ignored;
  return std::filesystem::exists(host.sys / "bus/pci/drivers" / driver, ignored);
}

// Each line of the list begins with the path of a module below the folder.
bool can_load(const Host& host, const std::string& module) {
  std::ifstream list(host.modules / "modules.dep");
  for (std::string line; std::getline(list, line);) {
    const std::string path = line.substr(0, line.find(':'));
    if (path.substr(path.rfind('/') + 1).starts_with(module + ".ko")) return true;
  }
  return false;
}

}  // namespace kvpool
