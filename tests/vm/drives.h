// What the tests of the virtual machine share: how its drives are found, and how the tool is run there.

#pragma once

#include <gtest/gtest.h>
#include <sys/mount.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "base/units.h"

namespace kvpool {

namespace fs = std::filesystem;

// "ng2n1": controllers are numbered as they answer, so a drive is known by its serial number.
inline std::string name_of(const std::string& serial) {
  for (const auto& entry : fs::directory_iterator("/sys/class/nvme-generic")) {
    std::ifstream file(entry.path() / "device/serial");
    std::string line;
    std::getline(file, line);
    if (line.substr(0, line.find(' ')) == serial) return entry.path().filename().string();
  }
  ADD_FAILURE() << "no drive " << serial;
  return "none";
}
inline std::string path_of(const std::string& serial) { return "/dev/" + name_of(serial); }
inline std::string block_path_of(const std::string& serial) {
  return "/dev/nvme" + name_of(serial).substr(2);
}

// The kernel lets the files of an io_uring go some time after its process has ended.
inline int unmount(const char* path) {
  for (int tries = 0; tries < 200; ++tries) {
    if (umount(path) == 0) return 0;
    if (errno != EBUSY) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return -1;
}

// A drive's first bytes and its last, to see that nobody wrote there.
inline std::string edges_of_block(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(2 * mib, '\0');
  file.read(bytes.data(), mib);
  file.seekg(-static_cast<std::streamoff>(mib), std::ios::end);
  file.read(bytes.data() + mib, mib);
  return bytes;
}

struct Outcome {
  int status = -1;
  std::string output;
  std::string errors;
};
inline Outcome kvpool(const std::string& arguments) {
  Outcome outcome;
  FILE* pipe = popen(("/usr/bin/kvpool " + arguments + " 2>/tmp/errors").c_str(), "r");
  std::array<char, 4096> part;
  while (size_t count = fread(part.data(), 1, part.size(), pipe)) outcome.output.append(part.data(), count);
  outcome.status = WEXITSTATUS(pclose(pipe));
  std::ifstream file("/tmp/errors");
  outcome.errors.assign(std::istreambuf_iterator<char>(file), {});
  return outcome;
}

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

inline std::string edges_of(const std::string& serial) { return edges_of_block(block_path_of(serial)); }

// Tests that overwrite the machine's drives.
class VirtualMachine : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("KVPOOL_TEST_NVME_SERIAL") == nullptr) GTEST_SKIP() << "runs in make test-vm";
  }
};

}  // namespace kvpool
