#include "temper/nn/params.h"

#include "temper/base/error.h"

namespace temper {

std::vector<mx::array> values(const Params& params) {
  std::vector<mx::array> arrays;
  arrays.reserve(params.size());
  for (const auto& [name, array] : params) {
    arrays.push_back(array);
  }
  return arrays;
}

Params with_values(const Params& names, const std::vector<mx::array>& arrays, std::size_t offset) {
  Params params;
  for (const auto& [name, unused] : names) {
    params.emplace_hint(params.end(), name, arrays.at(offset++));
  }
  return params;
}

std::int64_t num_elements(const Params& params) {
  std::int64_t total = 0;
  for (const auto& [name, array] : params) {
    total += static_cast<std::int64_t>(array.size());
  }
  return total;
}

std::int64_t num_bytes(const Params& params) {
  std::int64_t total = 0;
  for (const auto& [name, array] : params) {
    total += static_cast<std::int64_t>(array.nbytes());
  }
  return total;
}

const mx::array* ParamView::find(const std::string& name) const {
  if (trainable_ != nullptr) {
    if (const auto it = trainable_->find(name); it != trainable_->end()) {
      return &it->second;
    }
  }
  const auto it = frozen_->find(name);
  return it == frozen_->end() ? nullptr : &it->second;
}

const mx::array& ParamView::at(const std::string& name) const {
  const auto* array = find(name);
  if (array == nullptr) {
    throw ModelError("the model has no tensor " + name);
  }
  return *array;
}

Params ParamView::with_prefix(const std::string& prefix) const {
  Params found;
  for (const auto* map : {trainable_, frozen_}) {
    if (map == nullptr) {
      continue;
    }
    for (auto it = map->lower_bound(prefix); it != map->end() && it->first.starts_with(prefix); ++it) {
      found.insert(*it);
    }
  }
  return found;
}

namespace {

constexpr std::pair<const char*, mx::Dtype::Val> kDtypeNames[] = {
    {"float32", mx::Dtype::Val::float32},   {"float16", mx::Dtype::Val::float16},
    {"bfloat16", mx::Dtype::Val::bfloat16}, {"float64", mx::Dtype::Val::float64},
    {"int8", mx::Dtype::Val::int8},         {"int16", mx::Dtype::Val::int16},
    {"int32", mx::Dtype::Val::int32},       {"int64", mx::Dtype::Val::int64},
    {"uint8", mx::Dtype::Val::uint8},       {"uint16", mx::Dtype::Val::uint16},
    {"uint32", mx::Dtype::Val::uint32},     {"uint64", mx::Dtype::Val::uint64},
    {"bool", mx::Dtype::Val::bool_},        {"complex64", mx::Dtype::Val::complex64},
};

} // namespace

std::string dtype_name(mx::Dtype dtype) {
  for (const auto& [name, value] : kDtypeNames) {
    if (value == dtype.val()) {
      return name;
    }
  }
  return "unknown";
}

mx::Dtype dtype_from_name(const std::string& name) {
  if (name == "float32") {
    return mx::float32;
  }
  if (name == "float16") {
    return mx::float16;
  }
  if (name == "bfloat16") {
    return mx::bfloat16;
  }
  throw ConfigError("dtype " + name + " is not one of float32, float16, bfloat16");
}

std::string shape_text(const mx::Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

} // namespace temper
