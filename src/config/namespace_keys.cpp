#include <fmt/format.h>

#include <array>

#include "config/keys.h"

namespace kvpool {
namespace {

constexpr uint32_t segment_bytes_max = 1U << 30;
constexpr int64_t block_tokens_max = 1 << 20;
constexpr size_t name_length_max = 255;
constexpr uint32_t default_block_tokens = 256;

std::string set_segment_bytes(NamespaceDraft& draft, const Value& value) {
  const bool list = value.type == Value::Type::list;
  if (list && (value.list.empty() || value.list.size() > segments_max)) {
    return fmt::format("a list of {} sizes", value.list.size());
  }
  const std::span<const Value> values = list ? std::span(value.list) : std::span(&value, 1);
  draft.segment_bytes.clear();
  for (const Value& one : values) {
    const auto bytes = read_bytes(one);
    if (!bytes) return bytes.error();
    if (*bytes == 0 || *bytes > segment_bytes_max) {
      return describe(one) + (*bytes == 0 ? " is 0" : " is too large");
    }
    draft.segment_bytes.push_back(static_cast<uint32_t>(*bytes));
  }
  // A list stays a list even if it has one element: `segments` must then say 1 or nothing.
  if (list && draft.segments == 0) draft.segments = static_cast<uint32_t>(value.list.size());
  return {};
}

template <auto member>
std::string set_positive(NamespaceDraft& draft, const Value& value, int64_t most) {
  const auto read = read_integer(value, 1, most);
  if (!read) return read.error();
  draft.*member = static_cast<uint32_t>(*read);
  return {};
}

std::string set_window(NamespaceDraft& draft, const Value& value) {
  if (value.type != Value::Type::list) return describe(value) + " is not a list";
  draft.window.clear();
  for (const Value& one : value.list) {
    const auto segment = read_integer(one, 0, int64_t{segments_max} - 1);
    if (!segment) return segment.error();
    const auto number = static_cast<uint32_t>(*segment);
    if (std::ranges::find(draft.window, number) != draft.window.end()) {
      return fmt::format("{} stands in it twice", number);
    }
    draft.window.push_back(number);
  }
  return {};
}

std::string set_flat(NamespaceDraft& draft, const Value& value) {
  const auto read = read_flag(value);
  if (!read) return read.error();
  draft.flat = *read;
  return {};
}

std::string set_model(NamespaceDraft& draft, const Value& value) {
  const std::vector<std::string> known = preset_names();
  const std::vector<std::string_view> names(known.begin(), known.end());
  const auto read = read_choice(value, names);
  if (read) {
    draft.model = known[*read];
    return {};
  }
  const std::string_view near = value.type == Value::Type::text ? nearest(value.text, names) : "";
  return near.empty() ? describe(value) + " is not a known model"
                      : fmt::format("{} is not a known model, did you mean '{}'?", describe(value), near);
}

std::string get_segment_bytes(const NamespaceDraft& draft) {
  if (draft.segment_bytes.empty()) return {};
  if (draft.segment_bytes.size() == 1) return toml_bytes(draft.segment_bytes[0]);
  std::string out;
  for (const uint32_t bytes : draft.segment_bytes) out += (out.empty() ? "" : ", ") + toml_bytes(bytes);
  return "[" + out + "]";
}

const std::string models_allowed = fmt::format("{}", fmt::join(preset_names(), ", "));

using N = NamespaceDraft;
const std::array<Key<N>, 7> namespace_key_list = {{
    {"name", "a text of 1 to 255 bytes without control characters, unique", set_text<&N::name>, nullptr,
     get_text<&N::name>},
    {"model", models_allowed, set_model, nullptr, get_text<&N::model>},
    {"block_tokens", "a whole number from 1 to 1048576",
     [](N& n, const Value& v) { return set_positive<&N::block_tokens>(n, v, block_tokens_max); }, nullptr,
     [](const N& n) { return n.block_tokens == 0 ? "" : std::to_string(n.block_tokens); }},
    {"segment_bytes", "a size up to 1GiB, or a list of 1 to 128 such sizes, one for each segment",
     set_segment_bytes, nullptr, get_segment_bytes},
    {"segments", "a whole number from 1 to 128",
     [](N& n, const Value& v) { return set_positive<&N::segments>(n, v, segments_max); }, nullptr,
     [](const N& n) { return n.segment_bytes.size() == 1 ? std::to_string(n.segments) : ""; }},
    {"window", "a list of segment numbers, counted from 0, each below the number of segments and there once",
     set_window, nullptr,
     [](const N& n) { return n.window.empty() ? "" : fmt::format("[{}]", fmt::join(n.window, ", ")); }},
    {"flat", "true, false", set_flat, nullptr,
     [](const N& n) { return std::string(n.flat ? "true" : "false"); }},
}};

// The shape that a draft without a model spells out.
Geometry make_geometry(const NamespaceDraft& draft, const std::string& path, Problems& problems) {
  Geometry geometry;
  geometry.block_tokens = draft.block_tokens == 0 ? default_block_tokens : draft.block_tokens;
  if (draft.segment_bytes.empty()) {
    problems.push_back({path, "it has neither 'model' nor 'segment_bytes'",
                        fmt::format("model = one of {}; or block_tokens, segment_bytes, segments and window",
                                    models_allowed),
                        0});
    return geometry;
  }
  geometry.segment_bytes = draft.segment_bytes;
  if (draft.segment_bytes.size() == 1 && draft.segments > 1) {
    geometry.segment_bytes.assign(draft.segments, draft.segment_bytes[0]);
  }
  if (draft.segments != 0 && draft.segments != geometry.segment_bytes.size()) {
    problems.push_back({path + ".segments",
                        fmt::format("{} differs from the {} sizes in segment_bytes", draft.segments,
                                    geometry.segment_bytes.size()),
                        "the length of that list, or no 'segments' at all", 0});
  }
  if (draft.segments == 0 && draft.segment_bytes.size() == 1) {
    problems.push_back({path + ".segments", "it is missing", "a whole number from 1 to 128", 0});
  }
  if (draft.window.empty()) return geometry;
  geometry.window.assign(geometry.segment_bytes.size(), false);
  for (const uint32_t segment : draft.window) {
    if (segment < geometry.window.size()) {
      geometry.window[segment] = true;
    } else {
      problems.push_back({path + ".window", fmt::format("there is no segment {}", segment),
                          fmt::format("segment numbers from 0 to {}", geometry.segment_bytes.size() - 1), 0});
    }
  }
  return geometry;
}

}  // namespace

std::span<const Key<NamespaceDraft>> namespace_keys() { return namespace_key_list; }

std::string check_namespace_name(const std::string& name) {
  if (name.empty()) return "it is empty or missing";
  if (name.size() > name_length_max) return "it is too long";
  if (!is_utf8(name)) return "it is not UTF-8";
  const auto control = [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7F; };
  return std::ranges::any_of(name, control) ? "it holds a control character" : "";
}

NamespaceConfig make_namespace(const NamespaceDraft& draft, const std::string& path, Problems& problems) {
  NamespaceConfig made;
  made.flat = draft.flat;
  made.name = draft.name.empty() ? draft.model : draft.name;
  if (draft.model.empty()) {
    made.geometry = make_geometry(draft, path, problems);
    made.geometry.name = made.name;
    return made;
  }
  made.geometry = *preset_geometry(draft.model);
  const std::array<std::pair<std::string_view, bool>, 4> shape = {{
      {"block_tokens", draft.block_tokens != 0},
      {"segment_bytes", !draft.segment_bytes.empty()},
      {"segments", draft.segments != 0},
      {"window", !draft.window.empty()},
  }};
  for (const auto& [key, given] : shape) {
    if (!given || (key == "segments" && !draft.segment_bytes.empty())) continue;
    problems.push_back({fmt::format("{}.{}", path, key),
                        fmt::format("the model '{}' already says it", draft.model),
                        "'model', or the shape of the blocks, not both", 0});
  }
  return made;
}

NamespaceDraft draft_of(const NamespaceConfig& ns) {
  NamespaceDraft draft;
  draft.name = ns.name;
  draft.flat = ns.flat;
  const auto preset = preset_geometry(ns.geometry.name);
  if (preset && *preset == ns.geometry) {
    draft.model = ns.geometry.name;
    return draft;
  }
  draft.block_tokens = ns.geometry.block_tokens;
  draft.segments = ns.geometry.segments();
  draft.segment_bytes = ns.geometry.segment_bytes;
  const bool same = std::ranges::all_of(draft.segment_bytes,
                                        [&](uint32_t bytes) { return bytes == draft.segment_bytes[0]; });
  if (same && !draft.segment_bytes.empty()) draft.segment_bytes.resize(1);
  for (uint32_t segment = 0; segment < ns.geometry.segments(); ++segment) {
    if (ns.geometry.is_window(segment)) draft.window.push_back(segment);
  }
  return draft;
}

}  // namespace kvpool
