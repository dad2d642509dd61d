// kvpool stat FILE: header, size and owner of a pool's file or device. Nothing is locked or written.

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "apps/command.h"
#include "base/units.h"
#include "io/file/pool_file.h"

namespace kvpool {
namespace {

std::string iso_time(uint64_t unix_ns) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(unix_ns / 1'000'000'000)));
}

// A text in a header ends at a zero byte or with its field.
template <size_t n>
std::string text_of(const std::array<char, n>& field) {
  return {field.begin(), std::ranges::find(field, '\0')};
}

void print_as_json(const std::string& path, const PoolFileInfo& info) {
  const PoolHeader& header = info.header;
  print_json({{"file", path},
              {"uuid", format_uuid(header.uuid)},
              {"version", header.version},
              {"size_bytes", header.size_bytes},
              {"data_offset_bytes", header.data_offset_bytes},
              {"alignment_bytes", header.alignment_bytes},
              {"file_bytes", info.file_bytes},
              {"allocated_bytes", info.allocated_bytes},
              {"created_at", iso_time(header.created_unix_ns)},
              {"in_use", info.in_use},
              {"owner_pid", header.owner_pid},
              {"owner_host", text_of(header.owner_host)}});
}

void print_as_text(const std::string& path, const PoolFileInfo& info) {
  const PoolHeader& header = info.header;
  fmt::print("{}: a pool's file, format {}, {}\n", path, header.version, format_uuid(header.uuid));
  fmt::print("  size       {} ({} bytes) from byte {} on, in units of {}\n", format_bytes(header.size_bytes),
             header.size_bytes, header.data_offset_bytes, header.alignment_bytes);
  fmt::print("  file       {} bytes, {} allocated\n", info.file_bytes, info.allocated_bytes);
  fmt::print("  created    {}\n", iso_time(header.created_unix_ns));
  fmt::print("  {}  process {} on {}\n", info.in_use ? "in use by " : "last owner", header.owner_pid,
             text_of(header.owner_host));
}

int run_stat(const Tool& tool, const std::string& path) {
  const auto info = inspect_pool_file(path);
  // Nobody wants to put a pool there: the refusal's advice would be wrong.
  if (!info && info.error().code == Errc::not_ours) {
    return print_error(fmt::format("{}: is no pool's file or device, or its header is damaged", path));
  }
  if (!info) return print_error(info.error().message);
  if (tool.json()) {
    print_as_json(path, *info);
  } else {
    print_as_text(path, *info);
  }
  return exit_good;
}

}  // namespace

void add_stat(Tool& tool) {
  CLI::App* command = tool.parser().add_subcommand("stat", "header, size and owner of a pool's file");
  auto path = std::make_shared<std::string>();
  command->add_option("FILE", *path, "the path of a file device: a file or a block device")->required();
  tool.on(command, [&tool, path] { return run_stat(tool, *path); });
}

}  // namespace kvpool
