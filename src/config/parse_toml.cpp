#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "config/config.h"
#include "config/keys.h"

// The parser reports by value. Header-only, so that the same holds whatever the distribution's library was
// built with.
#undef TOML_SHARED_LIB
#undef TOML_HEADER_ONLY
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace kvpool {
namespace {

constexpr size_t file_bytes_max = 1 << 20;
constexpr std::array<std::string_view, 4> table_names = {"pool", "device", "namespace", "limits"};
constexpr std::string_view tables_allowed = "[pool], [[device]], [[namespace]], [limits]";

Value value_of(const toml::node& node) {
  Value value;
  if (const auto* text = node.as_string()) {
    value.type = Value::Type::text;
    value.text = text->get();
  } else if (const auto* integer = node.as_integer()) {
    value.type = Value::Type::integer;
    value.integer = integer->get();
  } else if (const auto* real = node.as_floating_point()) {
    value.type = Value::Type::real;
    value.real = real->get();
  } else if (const auto* boolean = node.as_boolean()) {
    value.type = Value::Type::boolean;
    value.boolean = boolean->get();
  } else if (const auto* list = node.as_array()) {
    value.type = Value::Type::list;
    for (const toml::node& element : *list) {
      // No key takes lists in lists.
      value.list.push_back(element.is_array() ? Value{} : value_of(element));
    }
  }
  return value;
}

class Reader {
 public:
  explicit Reader(Config& config) : config_(config) {}

  void read(const toml::table& root) {
    for (const auto& [key, node] : root) {
      const auto line = static_cast<uint32_t>(key.source().begin.line);
      if (key == "pool" || key == "limits") {
        read_single(std::string(key.str()), line, node);
      } else if (key == "device" || key == "namespace") {
        read_array(std::string(key.str()), line, node);
      } else {
        const std::string_view near = nearest(key.str(), table_names);
        problems_.push_back({std::string(key.str()),
                             near.empty() ? "unknown table or key"
                                          : fmt::format("unknown table or key, did you mean '{}'?", near),
                             std::string(tables_allowed), line});
      }
    }
  }

  // Problems that know no line get that of their key, or of its table.
  Problems take(Problems problems) const {
    for (Problem& problem : problems) {
      for (std::string_view path = problem.key; problem.line == 0 && !path.empty();) {
        const auto found = lines_.find(path);
        if (found != lines_.end()) problem.line = found->second;
        const size_t dot = path.rfind('.');
        path = dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
      }
    }
    std::ranges::stable_sort(problems, {}, &Problem::line);
    return problems;
  }

  [[nodiscard]] const Problems& problems() const { return problems_; }

 private:
  std::vector<Entry> entries_of(const toml::table& table, const std::string& path) {
    std::vector<Entry> entries;
    for (const auto& [key, node] : table) {
      const auto line = static_cast<uint32_t>(key.source().begin.line);
      entries.push_back({std::string(key.str()), line, value_of(node)});
      lines_[path + "." + entries.back().key] = line;
    }
    return entries;
  }

  void read_single(const std::string& name, uint32_t line, const toml::node& node) {
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      problems_.push_back({name, "it is not a table", fmt::format("[{}] and its keys below it", name), line});
      return;
    }
    lines_[name] = line;
    const std::vector<Entry> entries = entries_of(*table, name);
    if (name == "pool") read_entries(pool_keys(), entries, name, config_, problems_);
    if (name == "limits") read_entries(limits_keys(), entries, name, config_.limits, problems_);
  }

  void read_array(const std::string& name, uint32_t line, const toml::node& node) {
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      problems_.push_back({name, "it is a single table or value",
                           fmt::format("[[{}]] with two brackets: there may be several", name), line});
      return;
    }
    lines_[name] = line;
    for (size_t i = 0; i < array->size(); ++i) {
      const toml::node& element = *array->get(i);
      const std::string path = fmt::format("{}[{}]", name, i);
      lines_[path] = static_cast<uint32_t>(element.source().begin.line);
      const toml::table* table = element.as_table();
      if (table == nullptr) {
        problems_.push_back(
            {path, "it is not a table", fmt::format("[[{}]] and its keys below it", name), 0});
        continue;
      }
      const std::vector<Entry> entries = entries_of(*table, path);
      if (name == "device") {
        read_device(entries, path, config_.devices.emplace_back(), problems_);
      } else {
        NamespaceDraft draft;
        const size_t problems_before = problems_.size();
        read_entries(namespace_keys(), entries, path, draft, problems_);
        // What was unreadable would be reported again as missing.
        if (problems_.size() == problems_before) {
          config_.namespaces.push_back(make_namespace(draft, path, problems_));
        }
      }
    }
  }

  Config& config_;
  Problems problems_;
  Lines lines_;
};

Result<std::string> read_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail_errno(errno, path + ": cannot be opened");
  struct stat status{};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd);
    return fail(Errc::invalid_argument, path + ": is not a regular file");
  }
  std::string text(file_bytes_max + 1, '\0');
  size_t used = 0;
  while (used < text.size()) {
    const ssize_t n = ::read(fd, text.data() + used, text.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      ::close(fd);
      return fail_errno(error, path + ": cannot be read");
    }
    if (n == 0) break;
    used += static_cast<size_t>(n);
  }
  ::close(fd);
  text.resize(used);
  return text;
}

}  // namespace

Result<Config> parse_config(std::string_view toml_text, const std::string& file_name) {
  if (toml_text.size() > file_bytes_max) {
    return fail(Errc::invalid_argument, file_name + ": is above 1 MiB, the most that is read");
  }
  const toml::parse_result parsed = toml::parse(toml_text, std::string_view(file_name));
  if (!parsed) {
    return fail(Errc::invalid_argument,
                fmt::format("{}:{}: not TOML: {}", file_name, parsed.error().source().begin.line,
                            parsed.error().description()));
  }
  Config config;
  config.file = file_name;
  Reader reader(config);
  reader.read(parsed.table());
  if (!reader.problems().empty()) return fail_with(file_name, reader.take(reader.problems()));
  fill_defaults(config);
  const Problems problems = reader.take(find_problems(config));
  if (!problems.empty()) return fail_with(file_name, problems);
  return config;
}

Result<Config> load_config(const std::string& path) {
  const auto text = read_file(path);
  if (!text) return tl::unexpected(text.error());
  return parse_config(*text, path);
}

}  // namespace kvpool
