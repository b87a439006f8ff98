#include <algorithm>

#include "temper/config/field.h"

namespace temper {

void FieldList::group(std::string title) {
  group_ = std::move(title);
}

Field& FieldList::add(const std::string& key, Field::Target target, std::string help) {
  return fields_.emplace_back(prefix_ + key, group_, target, std::move(help));
}

void FieldList::variants(std::string prefix, std::string selector) {
  variants_prefix_ = std::move(prefix) + ".";
  variants_selector_ = std::move(selector);
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

bool FieldList::applies(const Field& field) const {
  const Field* selector = field.applies_to.empty() ? nullptr : find(field.selector);
  return selector == nullptr || std::find(field.applies_to.begin(), field.applies_to.end(),
                                          selector->value().get<std::string>()) != field.applies_to.end();
}

bool FieldList::is_selector(const std::string& key) const {
  return std::any_of(fields_.begin(), fields_.end(), [&](const Field& f) { return f.selector == key; });
}

std::string FieldList::short_key(const Field& field) const {
  if (variants_prefix_.empty() || !field.key.starts_with(variants_prefix_)) {
    return {};
  }
  return variants_prefix_ + field.key.substr(field.key.find('.', variants_prefix_.size()) + 1);
}

const Field* FieldList::chosen(const Field& field) const {
  const std::string rest = short_key(field).substr(variants_prefix_.size());
  return find(variants_prefix_ + find(variants_selector_)->value().get<std::string>() + "." + rest);
}

} // namespace temper
