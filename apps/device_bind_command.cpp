// kvpool device prepare, kvpool device release: NVMe drives to drivers in user space, and back to the kernel.
// Nothing is done without --yes.

#include <fmt/format.h>

#include <memory>

#include "apps/command.h"
#include "base/units.h"
#include "io/pci/binding.h"
#include "io/pci/huge_pages.h"

namespace kvpool {
namespace {

using nlohmann::ordered_json;

struct BindOptions {
  std::vector<std::string> drives;
  std::string huge_pages;
  bool yes = false;
};

// A drive or some huge pages, and what became of it.
struct DriveOutcome {
  DriveBinding drive;
  bool done = false;
  std::string error;
};
struct PagesOutcome {
  HugePages pages;
  uint64_t pages_free = 0;  // in the end
  std::string error;
};

struct Outcome {
  std::vector<DriveOutcome> drives;
  std::vector<PagesOutcome> pages;
  [[nodiscard]] int code() const {
    for (const DriveOutcome& one : drives) {
      if (!one.error.empty()) return exit_wrong;
    }
    for (const PagesOutcome& one : pages) {
      if (!one.error.empty()) return exit_wrong;
    }
    return exit_good;
  }
};

std::string group_path(const DriveBinding& drive) {
  // Without an IOMMU the kernel makes the group, and its number, when the drive is bound.
  return drive.iommu_group.empty() ? "/dev/vfio/noiommu-N" : "/dev/vfio/" + drive.iommu_group;
}

std::string place_of(const HugePages& pages) {
  return pages.node ? fmt::format("NUMA node {}", *pages.node) : "the machine";
}

ordered_json to_json(const DriveOutcome& one) {
  ordered_json steps = ordered_json::array();
  for (const HostStep& step : one.drive.steps) steps.push_back(to_string(step));
  const auto text = [](const std::string& value) {
    return value.empty() ? ordered_json(nullptr) : ordered_json(value);
  };
  return {{"address", one.drive.address},     {"controller", text(one.drive.controller)},
          {"numa_node", one.drive.numa_node}, {"iommu_group", text(one.drive.iommu_group)},
          {"from", text(one.drive.from)},     {"to", one.drive.to},
          {"steps", std::move(steps)},        {"done", one.done},
          {"error", text(one.error)}};
}

ordered_json to_json(const PagesOutcome& one) {
  const HugePages& pages = one.pages;
  return {{"numa_node", pages.node ? ordered_json(*pages.node) : ordered_json(nullptr)},
          {"page_bytes", pages.page_bytes},
          {"pages_wanted", pages.pages_wanted},
          {"pages_free_before", pages.pages_free},
          {"pages_free", one.pages_free},
          {"step", pages.step ? ordered_json(to_string(*pages.step)) : ordered_json(nullptr)},
          {"error", one.error.empty() ? ordered_json(nullptr) : ordered_json(one.error)}};
}

void print_drive(const DriveOutcome& one) {
  const DriveBinding& drive = one.drive;
  const std::string name =
      drive.controller.empty() ? drive.address : fmt::format("{} ({})", drive.address, drive.controller);
  if (drive.steps.empty()) {
    fmt::print("{}: is bound to {} already\n", name, drive.to);
  } else if (one.done) {
    fmt::print("{}: is bound to {} now\n", name, drive.to);
  } else {
    fmt::print("{}: from {} to {}{}\n", name, drive.from.empty() ? "no driver" : drive.from, drive.to,
               drive.iommu_group.empty() ? ", without an IOMMU" : ", IOMMU group " + drive.iommu_group);
    for (const HostStep& step : drive.steps) fmt::print("  {}\n", to_string(step));
  }
  if (drive.to != user_driver || (!one.done && !drive.steps.empty())) return;
  fmt::print(
      "  its driver opens {}: give that file to the driver's user, and enough locked memory (ulimit -l)\n",
      group_path(drive));
}

void print_pages(const PagesOutcome& one, bool yes) {
  const HugePages& pages = one.pages;
  fmt::print("{}: {} huge pages of {} free, {} wanted\n", place_of(pages),
             yes ? one.pages_free : pages.pages_free, format_bytes(pages.page_bytes), pages.pages_wanted);
  if (pages.step && !yes) fmt::print("  {}\n", to_string(*pages.step));
}

Result<Outcome> plan(const Host& host, const BindOptions& options, bool prepare) {
  uint64_t huge_bytes = 0;
  if (!options.huge_pages.empty()) {
    const auto bytes = parse_bytes(options.huge_pages);
    if (!bytes) return fail(bytes.error().code, "--huge-pages " + bytes.error().message);
    huge_bytes = *bytes;
  }
  auto drives = prepare ? plan_prepare(host, options.drives) : plan_release(host, options.drives);
  if (!drives) return tl::unexpected(drives.error());
  Outcome outcome;
  std::vector<int> nodes;
  for (DriveBinding& drive : *drives) {
    nodes.push_back(drive.numa_node);
    outcome.drives.push_back({.drive = std::move(drive)});
  }
  if (huge_bytes == 0) return outcome;
  auto pages = plan_huge_pages(host, huge_bytes, nodes);
  if (!pages) return tl::unexpected(pages.error());
  for (HugePages& one : *pages) outcome.pages.push_back({.pages = one, .pages_free = one.pages_free});
  return outcome;
}

// Ends at the first drive that fails: what disturbed it may disturb the others.
void carry_out(const Host& host, Outcome& outcome) {
  for (DriveOutcome& one : outcome.drives) {
    const Status bound = bind_drive(host, one.drive);
    one.done = bound.has_value();
    if (bound) continue;
    one.error = bound.error().message;
    return;
  }
  for (PagesOutcome& one : outcome.pages) {
    const auto free = reserve_huge_pages(host, one.pages);
    if (!free) {
      one.error = free.error().message;
    } else if (one.pages_free = *free; *free < one.pages.pages_wanted) {
      one.error = fmt::format(
          "{}: only {} of {} huge pages are free; memory is short or in pieces: free some, or "
          "reserve them when the machine starts",
          place_of(one.pages), *free, one.pages.pages_wanted);
    }
  }
}

int run(const Tool& tool, const BindOptions& options, bool prepare) {
  const Host host = this_host();
  auto outcome = plan(host, options, prepare);
  if (!outcome) return print_error(outcome.error().message);
  if (options.yes) carry_out(host, *outcome);
  for (const DriveOutcome& one : outcome->drives) {
    if (!one.error.empty()) print_error(one.error);
  }
  for (const PagesOutcome& one : outcome->pages) {
    if (!one.error.empty()) print_error(one.error);
  }
  if (tool.json()) {
    ordered_json drives = ordered_json::array();
    ordered_json pages = ordered_json::array();
    for (const DriveOutcome& one : outcome->drives) drives.push_back(to_json(one));
    for (const PagesOutcome& one : outcome->pages) pages.push_back(to_json(one));
    print_json(
        {{"carried_out", options.yes}, {"drives", std::move(drives)}, {"huge_pages", std::move(pages)}});
    return outcome->code();
  }
  for (const DriveOutcome& one : outcome->drives) {
    if (one.error.empty()) print_drive(one);
  }
  for (const PagesOutcome& one : outcome->pages) print_pages(one, options.yes);
  if (!options.yes) fmt::print("nothing was done; --yes does it\n");
  return outcome->code();
}

void add(Tool& tool, bool prepare) {
  CLI::App* group = tool.group("device", "the drives of this machine");
  CLI::App* command =
      prepare ? group->add_subcommand("prepare", "gives NVMe drives to drivers in user space (vfio-pci)")
              : group->add_subcommand("release", "gives NVMe drives back to the kernel's nvme driver");
  auto options = std::make_shared<BindOptions>();
  command->add_option("DRIVE", options->drives, "a PCI address, a controller or a namespace")->required();
  command->add_flag("--yes", options->yes, "do it; without, it is only printed");
  if (prepare) {
    command->add_option("--huge-pages", options->huge_pages, "so much memory in huge pages, near the drives")
        ->type_name("SIZE");
  }
  tool.on(command, [&tool, options, prepare] { return run(tool, *options, prepare); });
}

}  // namespace

void add_device_bind(Tool& tool) {
  add(tool, true);
  add(tool, false);
}

}  // namespace kvpool
