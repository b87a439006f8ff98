// Flags of the verbs other than train (whose flags are RunConfig's), over the same field lists: the same
// spelling rules, messages and help for all.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/config/field.h"

namespace temper::cli {

class Args {
 public:
  // `verb` as typed after `temper`, e.g. "eval" or "data check"; `example` is a whole command line.
  Args(std::string verb, std::string summary, std::string example);
  Args(const Args&) = delete;
  Args& operator=(const Args&) = delete;

  // A flag --name (underscores become dashes) for `target`, whose present value is the default. Rules are
  // chained: .required(), .at_least(1), .one_of({...}), .metavar("DIR"), .letter('m'), .positional() ...
  // A positional of several values is a vector<string>.
  Field& add(const std::string& name, Field::Target target, std::string help);
  // A flag for another list's field: the same name, target, rules and help, under the present heading.
  Field& add_like(const Field& known);
  // The heading for the flags that follow.
  void group(std::string title);

  // Fills the targets. False if help was asked for; it is then printed and the verb returns 0.
  // Throws ConfigError.
  bool parse(const std::vector<std::string>& arguments);

  // Whether --json was given.
  bool json() const {
    return json_;
  }
  // Whether the flag `name` was given.
  bool given(const std::string& name) const;

  std::string help() const;

 private:
  void add_common();

  std::string verb_, summary_, example_;
  FieldList list_;
  std::set<std::string> given_;
  bool json_ = false;
  bool help_ = false;
  bool has_common_ = false;
};

// Usage, summary, flags and an example, as every verb's help is laid out.
std::string format_help(const std::string& usage, const std::string& summary, const std::string& flags,
                        const std::string& example);

// Removes `flag` ("--print-config", in either spelling) from `arguments`; whether it was there.
bool take_flag(std::vector<std::string>& arguments, const std::string& flag);

// One JSON value and a newline on standard output.
void print_json(const Json& value);

} // namespace temper::cli
