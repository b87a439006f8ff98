#include "temper/config/settings.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/config/nearest.h"

extern char** environ;

namespace temper {
namespace {

using Kind = ConfigValue::Kind;

// What a dotted name means in a field list.
struct Match {
  const Field* field = nullptr;
  std::string part;
  bool by_choice = false;
  bool known = false;
};

Match look_up(const FieldList& list, const std::string& key, bool use_aliases) {
  Match match;
  for (const Field& field : list.fields()) {
    const auto& aliases = field.aliases;
    const std::string short_key = list.short_key(field);
    if (field.key == key) {
      return {&field, {}, false, true};
    }
    if (match.known) {
      continue; // a later field may still have the name itself
    }
    if (short_key == key || (use_aliases && std::find(aliases.begin(), aliases.end(), key) != aliases.end())) {
      match = {&field, {}, !short_key.empty(), true};
    } else if (!field.part_names.empty() && key.starts_with(field.key + ".")) {
      match.field = &field;
      match.part = key.substr(field.key.size() + 1);
      const auto& parts = field.part_names;
      match.known = std::find(parts.begin(), parts.end(), match.part) != parts.end();
    }
  }
  return match;
}

std::vector<std::string> known_names(const FieldList& list, bool use_aliases) {
  std::vector<std::string> names = list.keys();
  names.insert(names.end(), list.prefixes().begin(), list.prefixes().end());
  for (const Field& field : list.fields()) {
    if (const std::string name = list.short_key(field); !name.empty()) {
      names.push_back(name);
    }
    if (use_aliases) {
      names.insert(names.end(), field.aliases.begin(), field.aliases.end());
    }
    for (const std::string& part : field.part_names) {
      names.push_back(field.key + "." + part);
    }
  }
  return names;
}

class TreeReader {
 public:
  TreeReader(const FieldList& list, std::string what) : list_(list), what_(std::move(what)) {
  }

  void read(const ConfigValue& map, const std::string& prefix) {
    for (const auto& [key, member] : map.members) {
      read_member(prefix + key, member);
    }
  }
  std::vector<Setting> take() {
    return std::move(settings_);
  }

 private:
  std::string name_of(const std::string& key, const ConfigValue& value) const {
    return value.where.empty() ? key : value.where + ": " + key;
  }

  void read_member(const std::string& key, const ConfigValue& member) {
    const Match match = look_up(list_, key, false);
    if (match.known) {
      if (member.kind != Kind::null) {
        settings_.push_back(
            {match.field, match.part, match.by_choice, member, name_of(key, member), SettingLevel::file});
      }
      return;
    }
    if (list_.is_prefix(key)) {
      read_nested(key, member);
      return;
    }
    const Match by_alias = look_up(list_, key, true); // lora_rank is a flag's name
    throw ConfigError((member.where.empty() ? what_ : member.where) + ": unknown key '" + key + "'" +
                      (by_alias.known ? "; write it as '" + key_of(by_alias) + "'"
                                      : did_you_mean(key, known_names(list_, false))));
  }

  std::string key_of(const Match& match) const {
    return match.by_choice ? list_.short_key(*match.field) : match.field->key;
  }

  void read_nested(const std::string& key, const ConfigValue& member) {
    if (member.kind == Kind::map) {
      read(member, key + ".");
      return;
    }
    if (member.kind == Kind::null) {
      return;
    }
    // `lr_schedule: cosine` is short for its name.
    const Field* name = list_.find(key + ".name");
    if (name == nullptr || member.kind == Kind::list) {
      throw ConfigError(name_of(key, member) + ": expected keys and values, got " + member.shown());
    }
    settings_.push_back({name, {}, false, member, name_of(key, member), SettingLevel::file});
  }

  const FieldList& list_;
  std::string what_;
  std::vector<Setting> settings_;
};

class FlagReader {
 public:
  FlagReader(const FieldList& list, const std::vector<std::string>& arguments, const std::string& command)
      : list_(list), arguments_(arguments), command_(command) {
  }

  std::vector<Setting> read() {
    bool only_positional = false;
    for (at_ = 0; at_ < arguments_.size(); ++at_) {
      const std::string& argument = arguments_[at_];
      if (!only_positional && argument == "--") {
        only_positional = true;
      } else if (!only_positional && argument.starts_with("--")) {
        read_long(argument.substr(2));
      } else if (!only_positional && argument.size() == 2 && argument[0] == '-' && argument[1] != '-') {
        read_letter(argument);
      } else {
        read_positional(argument);
      }
    }
    return std::move(settings_);
  }

 private:
  void read_long(const std::string& argument) {
    const std::size_t equals = argument.find('=');
    const std::string name = "--" + argument.substr(0, equals);
    std::string key = argument.substr(0, equals);
    std::replace(key.begin(), key.end(), '-', '_');
    const Match match = look_up(list_, key, true);
    if (!match.known && key.starts_with("no_")) {
      const Match positive = look_up(list_, key.substr(3), true);
      if (positive.known && positive.field->is_flag() && equals == std::string::npos) {
        add(positive, name, "false");
        return;
      }
    }
    if (!match.known) {
      unknown(name, key);
    }
    if (equals != std::string::npos) {
      add(match, name, argument.substr(equals + 1));
    } else {
      read_values(match, name);
    }
  }

  void read_letter(const std::string& argument) {
    for (const Field& field : list_.fields()) {
      if (field.short_name == argument[1]) {
        read_values({&field, {}, false, true}, argument);
        return;
      }
    }
    throw ConfigError("unknown flag " + argument + "; see `" + command_ + " --help`");
  }

  void read_values(const Match& match, const std::string& name) {
    bool unused = false;
    const bool more = at_ + 1 < arguments_.size();
    if (match.field->is_flag()) {
      const bool has_value = more && parse_bool(arguments_[at_ + 1], unused);
      add(match, name, has_value ? arguments_[++at_] : "true");
      return;
    }
    if (!more || arguments_[at_ + 1].starts_with("--")) {
      throw ConfigError(name + " needs a value" +
                        (more ? " (one that starts with -- is written " + name + "=VALUE)" : ""));
    }
    add(match, name, arguments_[++at_]);
    // --lora-keys a b: as far as the next flag.
    while (match.field->is_list() && match.field->splits && at_ + 1 < arguments_.size() &&
           !arguments_[at_ + 1].starts_with('-')) {
      add(match, name, arguments_[++at_]);
    }
  }

  void read_positional(const std::string& argument) {
    for (const Field& field : list_.fields()) {
      const bool taken =
          std::any_of(settings_.begin(), settings_.end(), [&](const Setting& s) { return s.field == &field; });
      if (field.is_positional && (!taken || field.is_list())) {
        add({&field, {}, false, true}, field.key, argument);
        return;
      }
    }
    throw ConfigError("unexpected argument '" + argument + "'; see `" + command_ + " --help`");
  }

  // A list given by several flags has the items of all of them.
  void add(const Match& match, const std::string& name, const std::string& text) {
    const ConfigValue value = ConfigValue::of_text(text, name);
    const auto earlier = std::find_if(settings_.begin(), settings_.end(), [&](const Setting& s) {
      return s.field == match.field && s.part == match.part && s.by_choice == match.by_choice;
    });
    if (match.field->is_list() && earlier != settings_.end()) {
      if (match.field->splits) {
        earlier->value.text += "," + text;
      } else {
        earlier->value.items.push_back(value);
      }
      return;
    }
    Setting setting{match.field, match.part, match.by_choice, value, name, SettingLevel::flags};
    if (match.field->is_list() && !match.field->splits) {
      setting.value.kind = Kind::list;
      setting.value.items.push_back(value);
    }
    settings_.push_back(std::move(setting));
  }

  [[noreturn]] void unknown(const std::string& name, const std::string& key) const {
    std::string meant = nearest(key, known_names(list_, true));
    std::replace(meant.begin(), meant.end(), '_', '-');
    throw ConfigError("unknown flag " + name +
                      (meant.empty() ? "; see `" + command_ + " --help`" : "; did you mean --" + meant + "?"));
  }

  const FieldList& list_;
  const std::vector<std::string>& arguments_;
  const std::string& command_;
  std::size_t at_ = 0;
  std::vector<Setting> settings_;
};

std::string variable_of(const std::string& key) {
  std::string name = "TEMPER_" + key;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '.' ? '_' : static_cast<char>(std::toupper(c)); });
  return name;
}

void warn_of_misspelt_variables(const std::vector<std::string>& known) {
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    const std::string name = text.substr(0, text.find('='));
    if (!name.starts_with("TEMPER_") || std::find(known.begin(), known.end(), name) != known.end()) {
      continue;
    }
    const std::string meant = nearest(name, known);
    if (!meant.empty() && edit_distance(name, meant) <= 2) {
      log::warn("the variable " + name + " means nothing; did you mean " + meant + "?");
    }
  }
}

} // namespace

std::vector<Setting> read_tree(const FieldList& list, const ConfigValue& tree, const std::string& what) {
  if (tree.kind == Kind::null) {
    return {};
  }
  if (tree.kind != Kind::map) {
    throw ConfigError(what + ": expected keys and values, got " + tree.shown());
  }
  TreeReader reader(list, what);
  reader.read(tree, "");
  return reader.take();
}

std::vector<Setting> read_flags(const FieldList& list, const std::vector<std::string>& arguments,
                                const std::string& command) {
  return FlagReader(list, arguments, command).read();
}

std::vector<Setting> read_environment(const FieldList& list) {
  std::vector<Setting> settings;
  std::vector<std::string> known;
  const auto read = [&](const Field& field, const std::string& key, bool by_choice) {
    const std::string name = variable_of(key);
    if (std::find(known.begin(), known.end(), name) != known.end()) {
      return; // short for several fields
    }
    known.push_back(name);
    const char* text = std::getenv(name.c_str());
    if (text != nullptr && *text != '\0') {
      settings.push_back(
          {&field, {}, by_choice, ConfigValue::of_text(text, name), name, SettingLevel::environment});
    }
  };
  for (const Field& field : list.fields()) {
    const std::string short_key = list.short_key(field);
    for (const std::string& alias : field.aliases) {
      read(field, alias, !short_key.empty());
    }
    if (!short_key.empty()) {
      read(field, short_key, true);
    }
    read(field, field.key, false);
  }
  warn_of_misspelt_variables(known);
  return settings;
}

bool is_displaced(const FieldList& list, const FieldList& defaults, const Field& field) {
  const Field* other = field.gives_way_to.empty() ? nullptr : list.find(field.gives_way_to);
  return other != nullptr && other->value() != defaults.find(other->key)->value();
}

namespace {

// Assigns to the field that `setting` means, and returns it; nullptr where it means nothing to a selector
// that a stronger source set. Throws ConfigError where it means nothing otherwise.
const Field* assign_setting(const FieldList& list, const FieldList& defaults, const Setting& setting,
                            const StrongestSettings& strongest) {
  const Field* field = setting.by_choice ? list.chosen(*setting.field) : setting.field;
  if (field != nullptr && (list.applies(*field) || !list.short_key(*field).empty())) {
    field->assign(setting.value, setting.name, setting.part); // an unselected variant's too: it is checked
    return field;
  }
  const std::string& selector = setting.field->selector;
  const auto selected = strongest.find(selector);
  if (selected != strongest.end() && selected->second->level > setting.level) {
    return nullptr;
  }
  if (field != nullptr) {
    field->assign(setting.value, setting.name, setting.part);
    if (field->value() == defaults.find(field->key)->value()) {
      return field;
    }
  }
  throw ConfigError(setting.name + " means nothing to " + selector + " " +
                    list.find(selector)->value().get<std::string>());
}

} // namespace

StrongestSettings apply(const FieldList& list, const FieldList& defaults,
                        const std::vector<Setting>& settings) {
  std::vector<const Setting*> ordered;
  ordered.reserve(settings.size());
  for (const Setting& setting : settings) {
    ordered.push_back(&setting);
  }
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const Setting* a, const Setting* b) { return a->level < b->level; });
  // Selectors first: they decide which others count.
  std::stable_partition(ordered.begin(), ordered.end(),
                        [&](const Setting* s) { return list.is_selector(s->field->key); });
  StrongestSettings strongest;
  for (const Setting* setting : ordered) {
    if (const Field* field = assign_setting(list, defaults, *setting, strongest)) {
      strongest[field->key] = setting;
    }
  }
  for (const Field& field : list.fields()) {
    const auto own = strongest.find(field.key);
    if (own == strongest.end() || !is_displaced(list, defaults, field)) {
      continue;
    }
    const auto other = strongest.find(field.gives_way_to);
    if (other != strongest.end() && other->second->level == own->second->level) {
      throw ConfigError(own->second->name + " and " + other->second->name +
                        " exclude each other: give one of them");
    }
    const bool is_stronger = other == strongest.end() || own->second->level > other->second->level;
    const std::string& loser = is_stronger ? field.gives_way_to : field.key;
    list.find(loser)->assign_json(defaults.find(loser)->value());
  }
  return strongest;
}

} // namespace temper
