// kvpool plan: where a document would lie, and how long its retrieve would take. No device is opened.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>

#include "apps/command.h"
#include "apps/document_plan.h"
#include "apps/pool_options.h"
#include "apps/whole_number.h"
#include "base/log.h"
#include "base/units.h"
#include "layout/profile.h"
#include "probe/profile_file.h"

namespace kvpool {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t tokens_max = 16ULL << 20;

struct PlanOptions {
  PoolOptions pool;
  std::string model = "llama-3.1-8b";
  std::string tokens = "16k";
  std::string link;
  std::vector<std::string> bandwidths;
  uint64_t document = 1;
};

// What the plan is made of. A bandwidth of 0 is not known.
struct Inputs {
  Geometry geometry;
  uint64_t tokens = 0;
  Profile profile;
  std::vector<std::string> sources;  // of each device's bandwidth: given, profile, cap, simulated, none
};

Result<std::map<std::string, double>> read_bandwidths(const Config& config,
                                                      const std::vector<std::string>& texts) {
  std::map<std::string, double> out;
  for (const std::string& text : texts) {
    const size_t equals = text.rfind('=');
    const std::string name = text.substr(0, equals);
    const auto rate = parse_bytes_per_second(equals == std::string::npos ? "" : text.substr(equals + 1));
    if (!rate || *rate == 0) {
      return fail(Errc::invalid_argument,
                  fmt::format("--bandwidth '{}': not NAME=RATE above 0, such as file0=2.5GB/s", text));
    }
    if (std::ranges::find(config.devices, name, &DeviceConfig::name) == config.devices.end()) {
      return fail(Errc::invalid_argument,
                  fmt::format("--bandwidth '{}': no device has that name; there are {}", text,
                              fmt::join(config.device_names(), ", ")));
    }
    if (!out.emplace(name, static_cast<double>(*rate)).second) {
      return fail(Errc::invalid_argument, fmt::format("--bandwidth '{}': '{}' was given before", text, name));
    }
  }
  return out;
}

void add_device(const DeviceConfig& device, const std::map<std::string, double>& given,
                const DeviceProfile* measured, std::optional<double> in_place, Inputs& inputs) {
  DeviceProfile profile;
  profile.name = device.name;
  profile.storage = is_storage(device.kind) || device.kind == DeviceKind::sim;
  std::string source = "none";
  if (const auto found = given.find(device.name); found != given.end()) {
    profile.read_bytes_per_second = found->second;
    source = "given";
  } else if (device.kind == DeviceKind::sim || device.kind == DeviceKind::null) {
    profile.read_bytes_per_second = device.sim_read_bytes_per_second;
    source = "simulated";
  } else if (device.kind == DeviceKind::memory && in_place) {
    profile.read_bytes_per_second = *in_place;
    source = "link";
  } else if (measured != nullptr) {
    profile.read_bytes_per_second = measured->retrieve_bytes_per_second();
    source = "profile";
  }
  if (device.limit_read_bytes_per_second) {
    const double bounded = bounded_by_cap(profile.read_bytes_per_second, device.limit_read_bytes_per_second);
    if (bounded != profile.read_bytes_per_second) source = "cap";
    profile.read_bytes_per_second = bounded;
  }
  inputs.profile.devices.push_back(std::move(profile));
  inputs.sources.push_back(std::move(source));
}

Result<Inputs> gather(const PlanOptions& options, const Config& config) {
  Inputs inputs;
  auto geometry = find_geometry(config, options.model);
  if (!geometry) return tl::unexpected(geometry.error());
  inputs.geometry = std::move(*geometry);
  const auto tokens = parse_tokens(options.tokens);
  if (!tokens) return fail(Errc::invalid_argument, "--tokens: " + tokens.error().message);
  if (*tokens == 0 || *tokens > tokens_max) {
    return fail(Errc::invalid_argument, fmt::format("--tokens: {} is not from 1 to {}", *tokens, tokens_max));
  }
  inputs.tokens = *tokens;
  const auto given = read_bandwidths(config, options.bandwidths);
  if (!given) return tl::unexpected(given.error());
  const auto found = stored_profile(config.profile_path, config.unmeasured());
  if (!found) return tl::unexpected(found.error());
  const std::optional<Profile>& stored = *found;
  if (stored) inputs.profile.link_bytes_per_second = stored->link_bytes_per_second;
  std::optional<double> in_place;
  if (config.link_bytes_per_second) {
    inputs.profile.link_bytes_per_second = static_cast<double>(*config.link_bytes_per_second);
    in_place = config.in_place_bytes_per_second(*config.link_bytes_per_second);
  }
  if (!options.link.empty()) {
    const auto link = parse_bytes_per_second(options.link);
    if (!link || *link == 0) {
      return fail(Errc::invalid_argument,
                  fmt::format("--link: '{}' is not a rate above 0, such as 55GB/s", options.link));
    }
    inputs.profile.link_bytes_per_second = static_cast<double>(*link);
    in_place = config.in_place_bytes_per_second(*link);
  }
  for (size_t i = 0; i < config.devices.size(); ++i) {
    add_device(config.devices[i], *given, stored ? &stored->devices[i] : nullptr, in_place, inputs);
    if (inputs.sources.back() != "none" || config.placement == PlacementRule::equal) continue;
    const std::string probe =
        config.file.empty() ? "" : fmt::format("run `kvpool probe --config {}`, or ", config.file);
    return fail(Errc::invalid_argument,
                fmt::format("no bandwidth of device '{0}' is known: {1}give --bandwidth {0}=2GB/s",
                            config.devices[i].name, probe));
  }
  return inputs;
}

uint64_t total_bytes(const Config& config) {
  uint64_t bytes = 0;
  for (const DeviceConfig& device : config.devices) bytes += device.size_bytes;
  return bytes;
}

// Of that model alone, at most.
uint64_t blocks_held(const Config& config, const Geometry& geometry) {
  return total_bytes(config) / geometry.block_bytes();
}

uint64_t tokens_held(const Config& config, const Geometry& geometry) {
  return blocks_held(config, geometry) * geometry.block_tokens;
}

void warn_of_link(const Config& config, const Inputs& inputs) {
  if (config.placement != PlacementRule::link || inputs.profile.link_bytes_per_second > 0) return;
  log_warn(
      "placement \"link\": no link is known (--link, or pool.link), so shares are as with \"bandwidth\"");
}

bool fits(const Config& config, const DocumentPlan& plan, size_t device) {
  return plan.devices[device].bytes_stored <= config.devices[device].size_bytes;
}

void warn_of_room(const Config& config, const Inputs& inputs, const DocumentPlan& plan) {
  const uint64_t held = blocks_held(config, inputs.geometry);
  if (plan.blocks > held) {
    log_warn("the document does not fit: {} blocks, and the pool holds {} of them at most", plan.blocks,
             held);
    return;
  }
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    if (fits(config, plan, i)) continue;
    log_warn("the document's share of '{}' is above its size: the rest spills to devices that have room",
             config.devices[i].name);
  }
}

// The bytes on each device when those that are full have spilled to the others, by their shares as the
// catalog does it (catalog/planner.h), or, about so, by their room where no other has a share. REQUIRES: all
// of them together hold the document.
std::vector<double> bytes_after_spill(const Config& config, const DocumentPlan& plan) {
  const size_t devices = plan.devices.size();
  std::vector<double> bytes;
  for (const DeviceShare& share : plan.devices) bytes.push_back(static_cast<double>(share.bytes_stored));
  for (size_t round = 0; round <= devices; ++round) {  // each fills a device, or is the last
    double homeless = 0;
    double shares = 0;
    double room = 0;
    for (size_t i = 0; i < devices; ++i) {
      const double size = static_cast<double>(config.devices[i].size_bytes);
      homeless += std::max(0.0, bytes[i] - size);
      bytes[i] = std::min(bytes[i], size);
      if (bytes[i] < size) shares += plan.devices[i].planned;
      room += size - bytes[i];
    }
    if (homeless == 0 || room == 0) break;
    for (size_t i = 0; i < devices; ++i) {
      const double free = static_cast<double>(config.devices[i].size_bytes) - bytes[i];
      if (free > 0) bytes[i] += homeless * (shares > 0 ? plan.devices[i].planned / shares : free / room);
    }
  }
  return bytes;
}

double ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Until the last device is done, or the link has carried everything; nothing where a bandwidth is not known.
std::optional<double> predicted_seconds(const DocumentPlan& plan, const Profile& profile) {
  double seconds = 0;
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    if (plan.devices[i].bytes_read == 0) continue;
    if (profile.devices[i].read_bytes_per_second <= 0) return std::nullopt;
    seconds = std::max(
        seconds, static_cast<double>(plan.devices[i].bytes_read) / profile.devices[i].read_bytes_per_second);
  }
  if (profile.link_bytes_per_second > 0) {
    seconds = std::max(seconds, static_cast<double>(plan.bytes_read) / profile.link_bytes_per_second);
  }
  return seconds;
}

// The same where a planned share does not fit its device, but the document fits them all.
std::optional<double> seconds_after_spill(const Config& config, const Inputs& inputs,
                                          const DocumentPlan& plan) {
  bool spills = false;
  for (size_t i = 0; i < plan.devices.size(); ++i) spills |= !fits(config, plan, i);
  if (!spills || plan.blocks > blocks_held(config, inputs.geometry)) return std::nullopt;
  const double read_of_stored = ratio(plan.bytes_read, plan.bytes_stored);
  const std::vector<double> bytes = bytes_after_spill(config, plan);
  DocumentPlan spilled = plan;
  for (size_t i = 0; i < bytes.size(); ++i) {
    spilled.devices[i].bytes_read = static_cast<uint64_t>(bytes[i] * read_of_stored);
  }
  return predicted_seconds(spilled, inputs.profile);
}

// Of the prefixes that a layer-wise reader waits for, those of at least a quarter of the segments.
double worst_prefix(const DocumentPlan& plan) {
  double worst = 0;
  for (const PrefixBalance& prefix : plan.prefixes) {
    if (prefix.segments * 4 >= plan.prefixes.size()) worst = std::max(worst, prefix.busiest_over_ideal);
  }
  return worst;
}

ordered_json known(double value) { return value > 0 ? ordered_json(value) : ordered_json(nullptr); }

void print_as_json(const PlanOptions& options, const Config& config, const Inputs& inputs,
                   const DocumentPlan& plan) {
  ordered_json devices = ordered_json::array();
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    const DeviceShare& share = plan.devices[i];
    const double rate = inputs.profile.devices[i].read_bytes_per_second;
    devices.push_back({{"name", config.devices[i].name},
                       {"kind", to_string(config.devices[i].kind)},
                       {"planned_share", share.planned},
                       {"share", ratio(share.bytes_stored, plan.bytes_stored)},
                       {"segments", share.segments},
                       {"bytes", share.bytes_stored},
                       {"bytes_read", share.bytes_read},
                       {"read_bytes_per_second", known(rate)},
                       {"bandwidth_from", inputs.sources[i]},
                       {"fits", fits(config, plan, i)},
                       {"seconds", rate > 0 ? ordered_json(static_cast<double>(share.bytes_read) / rate)
                                            : ordered_json(nullptr)}});
  }
  ordered_json prefixes = ordered_json::array();
  for (const PrefixBalance& prefix : plan.prefixes) {
    prefixes.push_back({{"segments", prefix.segments}, {"busiest_over_ideal", prefix.busiest_over_ideal}});
  }
  const auto seconds = predicted_seconds(plan, inputs.profile);
  const auto spilled = seconds_after_spill(config, inputs, plan);
  print_json({{"model", options.model},
              {"tokens", inputs.tokens},
              {"placement", to_string(config.placement)},
              {"blocks", plan.blocks},
              {"segments", plan.blocks * inputs.geometry.segments()},
              {"bytes", plan.bytes_stored},
              {"bytes_read", plan.bytes_read},
              {"pool_tokens_max", tokens_held(config, inputs.geometry)},
              {"link_bytes_per_second", known(inputs.profile.link_bytes_per_second)},
              {"seconds", seconds ? ordered_json(*seconds) : ordered_json(nullptr)},
              {"seconds_after_spill", spilled ? ordered_json(*spilled) : ordered_json(nullptr)},
              {"prefix_busiest_over_ideal_max", worst_prefix(plan)},
              {"devices", std::move(devices)},
              {"prefixes", std::move(prefixes)}});
}

void print_as_table(const PlanOptions& options, const Config& config, const Inputs& inputs,
                    const DocumentPlan& plan) {
  fmt::print("{}, {} tokens: {} blocks of {} segments, {}; a retrieve reads {}\n", options.model,
             inputs.tokens, plan.blocks, inputs.geometry.segments(), format_bytes(plan.bytes_stored),
             format_bytes(plan.bytes_read));
  fmt::print("the pool holds {} tokens of it at most, in {}\n", tokens_held(config, inputs.geometry),
             format_bytes(total_bytes(config)));
  fmt::print("{:<16} {:>8} {:>8} {:>9} {:>11} {:>12} {:>10} {:>9}\n", "device", "planned", "share",
             "segments", "bytes", "bandwidth", "from", "seconds");
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    const DeviceShare& share = plan.devices[i];
    const double rate = inputs.profile.devices[i].read_bytes_per_second;
    fmt::print("{:<16} {:>7.2f}% {:>7.2f}% {:>9} {:>11} {:>12} {:>10} {:>9}\n", config.devices[i].name,
               100 * share.planned, 100 * ratio(share.bytes_stored, plan.bytes_stored), share.segments,
               format_bytes(share.bytes_stored), rate > 0 ? format_bytes_per_second(rate) : "-",
               inputs.sources[i],
               rate > 0 ? fmt::format("{:.4f}", static_cast<double>(share.bytes_read) / rate) : "-");
  }
  if (const auto seconds = predicted_seconds(plan, inputs.profile); seconds && *seconds > 0) {
    fmt::print("predicted, where the planned shares fit the devices: {:.4f} s, {}\n", *seconds,
               format_bytes_per_second(static_cast<double>(plan.bytes_read) / *seconds));
  } else {
    fmt::print("predicted: nothing, as a bandwidth is not known (--bandwidth, or kvpool probe --config)\n");
  }
  if (const auto seconds = seconds_after_spill(config, inputs, plan); seconds && *seconds > 0) {
    fmt::print("predicted, as what does not fit spills to the other devices: {:.4f} s, {}\n", *seconds,
               format_bytes_per_second(static_cast<double>(plan.bytes_read) / *seconds));
  }
  fmt::print("prefixes of a quarter of the segments or more: the busiest device has {:.3f} of its share\n",
             worst_prefix(plan));
}

int run_plan(const Tool& tool, const PlanOptions& options) {
  const auto config = options.pool.config();
  if (!config) return print_error(config.error().message);
  const auto inputs = gather(options, *config);
  if (!inputs) return print_error(inputs.error().message);
  const std::vector<double> shares = planned_shares(config->placement, inputs->profile);
  const DocumentPlan plan = plan_document(inputs->geometry, shares, inputs->tokens, options.document);
  warn_of_link(*config, *inputs);
  warn_of_room(*config, *inputs, plan);
  if (tool.json()) {
    print_as_json(options, *config, *inputs, plan);
  } else {
    print_as_table(options, *config, *inputs, plan);
  }
  return exit_good;
}

}  // namespace

void add_plan(Tool& tool) {
  CLI::App* command = tool.parser().add_subcommand(
      "plan", "where a document would lie, and how long its retrieve would take");
  auto options = std::make_shared<PlanOptions>();
  options->pool.add_to(*command);
  command->add_option("--model", options->model, "a namespace of the configuration, or a preset")
      ->type_name("NAME");
  command->add_option("--tokens", options->tokens, "of the document; k = 1024")->type_name("N");
  command
      ->add_option("--bandwidth", options->bandwidths,
                   "NAME=RATE, a device's read bandwidth instead of the profile's; once for each")
      ->type_name("NAME=RATE")
      ->type_size(1)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--link", options->link, "pool memory to the consumer, instead of the profile's")
      ->type_name("RATE");
  command->add_option("--document", options->document, "which document: it seeds the chain's phase")
      ->type_name("N")
      ->check(whole_number());
  tool.on(command, [&tool, options] { return run_plan(tool, *options); });
}

}  // namespace kvpool
