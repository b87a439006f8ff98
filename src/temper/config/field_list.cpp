#include <algorithm>

#include "temper/config/field.h"

namespace temper {

void FieldList::group(std::string title) {
  group_ = std::move(title);
}

Field& FieldList::add(const std::string& key, Field::Target target, std::string help) {
  return fields_.emplace_back(prefix_ + key, group_, target, std::move(help));
}

void FieldList::variants(std::string prefix, std::string selector, std::vector<std::string> names) {
  variants_ = {std::move(prefix), std::move(selector), std::move(names)};
}

const Field* FieldList::find(const std::string& key) const& {
  const auto field = std::find_if(fields_.begin(), fields_.end(), [&](const Field& f) { return f.key == key; });
  return field == fields_.end() ? nullptr : &*field;
}

bool FieldList::is_prefix(const std::string& key) const {
  return std::find(prefixes_.begin(), prefixes_.end(), key) != prefixes_.end();
}

std::vector<std::string> FieldList::keys() const {
  std::vector<std::string> names;
  names.reserve(fields_.size());
  for (const Field& field : fields_) {
    names.push_back(field.key);
  }
  return names;
}

std::string FieldList::selected() const {
  const Field* selector = find(variants_.selector);
  return selector == nullptr ? "" : selector->value().get<std::string>();
}

bool FieldList::applies(const Field& field) const {
  return field.applies_to.empty() ||
         std::find(field.applies_to.begin(), field.applies_to.end(), selected()) != field.applies_to.end();
}

} // namespace temper
