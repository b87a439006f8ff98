#include "cli/args.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/config/describe.h"
#include "temper/config/settings.h"

namespace temper::cli {

Args::Args(std::string verb, std::string summary, std::string example)
    : verb_(std::move(verb)), summary_(std::move(summary)), example_(std::move(example)) {
  list_.group("Flags");
}

Field& Args::add(const std::string& name, Field::Target target, std::string help) {
  return list_.add(name, target, std::move(help));
}

Field& Args::add_like(const Field& known) {
  Field& own = add(known.key, known.target, known.help);
  const std::string group = own.group;
  own = known;
  own.group = group;
  return own;
}

void Args::group(std::string title) {
  list_.group(std::move(title));
}

void Args::add_common() {
  if (has_common_) {
    return;
  }
  has_common_ = true;
  list_.group("Always");
  list_.add("json", &json_, "print one JSON object on standard output, everything else on standard error");
  list_.add("help", &help_, "show this").letter('h');
}

bool Args::parse(const std::vector<std::string>& arguments) {
  add_common();
  // Help comes before any complaint about the other flags.
  if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end() ||
      std::find(arguments.begin(), arguments.end(), "-h") != arguments.end()) {
    std::fputs(help().c_str(), stdout);
    return false;
  }
  const std::string command = "temper " + verb_;
  for (const Setting& setting : read_flags(list_, arguments, command)) {
    setting.field->assign(setting.value, setting.name, setting.part);
    given_.insert(setting.field->key);
  }
  for (const Field& field : list_.fields()) {
    if (field.is_required && !given_.contains(field.key)) {
      const std::string name = field.is_positional ? field.place() : field.dashed();
      throw ConfigError(name + " is missing: " + field.help + "; see `" + command + " --help`");
    }
  }
  return true;
}

bool Args::given(const std::string& name) const {
  return given_.contains(name);
}

std::string Args::help() const {
  std::string usage = "temper " + verb_ + " [flags]";
  for (const Field& field : list_.fields()) {
    if (field.is_positional) {
      const std::string place = field.place() + (field.is_list() ? "..." : "");
      usage += field.is_required ? " " + place : " [" + place + "]";
    }
  }
  return format_help(usage, summary_, flags_help(list_), example_);
}

std::string format_help(const std::string& usage, const std::string& summary, const std::string& flags,
                        const std::string& example) {
  return fmt::format("{}\n\nusage: {}\n\n{}\nExample:\n  {}\n", summary, usage, flags, example);
}

bool take_flag(std::vector<std::string>& arguments, const std::string& flag) {
  const auto removed = std::remove_if(arguments.begin(), arguments.end(), [&](std::string argument) {
    if (argument.starts_with("--")) {
      std::replace(argument.begin(), argument.end(), '_', '-');
    }
    return argument == flag;
  });
  const bool found = removed != arguments.end();
  arguments.erase(removed, arguments.end());
  return found;
}

void print_json(const Json& value) {
  const std::string line = dump(value) + "\n";
  std::fwrite(line.data(), 1, line.size(), stdout);
}

} // namespace temper::cli
