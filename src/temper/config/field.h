// One entry of a visit list: a struct's member with its name, help and rule. Everything that reads or shows
// a configuration (YAML, flags, variables, JSON, help, schema) is made from lists of these.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "temper/base/json.h"
#include "temper/config/config_value.h"

namespace temper {

class Field {
 public:
  using Target =
      std::variant<bool*, int*, std::int64_t*, std::uint64_t*, double*, std::string*, std::optional<int>*,
                   std::optional<double>*, std::vector<std::string>*, std::vector<double>*, Json*>;

  Field(std::string key, std::string group, Target target, std::string help);

  // What a visit list says of the member; each returns the field. Numbers are always finite.
  Field& at_least(double bound);
  Field& above(double bound);
  Field& at_most(double bound);
  Field& below(double bound);
  Field& one_of(std::vector<std::string> choices);
  Field& refuse(std::string choice, std::string why); // a value known elsewhere that is not offered here
  Field& size_in_bytes();                             // takes 1.5GB, 500M
  Field& commas();                                    // a list (or text for one) whose text form is a,b,c
  Field& exactly(std::size_t count);                  // a list of so many
  Field& parts(std::vector<std::string> names);       // of a Json object; a bare name means the first
  Field& in_order();                                  // an object may be a list of its parts: [0, 1e-4]
  Field& alias(std::string name);                     // a second flag and variable
  Field& letter(char name);                           // a one-letter flag
  Field& metavar(std::string name);                   // stands for the value in help
  Field& unless(std::string key);                     // gives way when that key is set; both is an error
  // Meaningless unless the field `selector` has one of these values.
  Field& only_for(std::string selector, std::vector<std::string> names);
  Field& mlx_lm(Json value); // the default under `compat: mlx-lm`
  Field& required();         // for commands: must be given
  Field& positional();       // for commands: taken without its flag

  // Reads `value` into the member and checks it; `name` opens the message ("run.yaml:7: iters", "--iters").
  // With `part`, only that key of a Json object. Throws ConfigError; the member is then unspecified.
  void assign(const ConfigValue& value, const std::string& name, const std::string& part = "") const;
  // Checks the member's present value against the rules. Throws ConfigError opening with `name`.
  void check(const std::string& name) const;
  // The member's present value; an empty optional is null.
  Json value() const;
  void assign_json(const Json& json) const;

  bool is_flag() const;       // a boolean: --name alone means true
  bool is_list() const;       // several values
  bool is_optional() const;   // may be null
  std::string range() const;  // "at least 1", or empty
  std::string place() const;  // what stands for the value in help: N, X, a|b
  std::string dashed() const; // --lora-parameters.rank

  std::string key;
  std::string group;
  Target target;
  std::string help;
  std::optional<double> min, max;
  bool excludes_min = false, excludes_max = false;
  std::vector<std::string> choices;
  std::vector<std::pair<std::string, std::string>> refused;
  bool in_bytes = false, splits = false, is_required = false, is_positional = false;
  std::optional<std::size_t> list_size;
  std::vector<std::string> part_names;
  bool parts_in_order = false;
  std::vector<std::string> aliases;
  char short_name = 0;
  std::string value_name;
  std::string gives_way_to;
  std::string selector;
  std::vector<std::string> applies_to;
  std::optional<Json> mlx_lm_default;
};

// A struct's fields in order, nested structs under dotted keys.
class FieldList {
 public:
  // The heading for the fields that follow.
  void group(std::string title);
  // The returned reference stays valid.
  Field& add(const std::string& key, Field::Target target, std::string help);
  // Adds the fields that `list(*this)` adds, each under `prefix.`.
  template <class List>
  void nested(const std::string& prefix, List list) {
    const std::string outer = prefix_;
    prefix_ = outer + prefix + ".";
    prefixes_.push_back(outer + prefix);
    list(*this);
    prefix_ = outer;
  }
  // The same for fields that mean nothing unless the field `selector` has one of the values `names`.
  template <class List>
  void nested_for(const std::string& prefix, const std::string& selector, const std::vector<std::string>& names,
                  List list) {
    const std::size_t first = fields_.size();
    nested(prefix, list);
    for (std::size_t i = first; i < fields_.size(); ++i) {
      fields_[i].only_for(selector, names);
    }
  }
  // `prefix.x` is short for `prefix.<name>.x`, <name> being the value of the field `selector`: mlx-lm's
  // optimizer_config without the optimizer's name.
  void variants(std::string prefix, std::string selector);

  const Field* find(const std::string& key) const&;
  const Field* find(const std::string& key) && = delete;
  const std::deque<Field>& fields() const& {
    return fields_;
  }
  const std::deque<Field>& fields() && = delete;
  const std::vector<std::string>& prefixes() const {
    return prefixes_;
  }
  bool is_prefix(const std::string& key) const;
  std::vector<std::string> keys() const;
  // False where only_for() names values that the selector does not have.
  bool applies(const Field& field) const;
  // Whether only_for() of some field looks at `key`.
  bool is_selector(const std::string& key) const;
  // optimizer_config.eps of optimizer_config.adam.eps; empty outside of the variants.
  std::string short_key(const Field& field) const;
  // The field of the selected variant with `field`'s short key; nullptr if it has none.
  const Field* chosen(const Field& field) const;

 private:
  std::deque<Field> fields_;
  std::vector<std::string> prefixes_;
  std::string group_;
  std::string prefix_;
  std::string variants_prefix_, variants_selector_;
};

} // namespace temper
