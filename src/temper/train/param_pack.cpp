#include "temper/train/param_pack.h"

#include <algorithm>
#include <numeric>

#include "temper/nn/gpu_kernels.h"

namespace temper {
namespace {

int num_elements_of(const mx::Shape& shape) {
  int count = 1;
  for (const int size : shape) {
    count *= size;
  }
  return count;
}

// The elements of all parts, one after the other.
mx::array end_to_end(const std::vector<mx::array>& parts) {
  if (parts.size() == 1) {
    return mx::flatten(parts[0]);
  }
  const auto fits = [&](const auto& part) { return part.dtype() == parts[0].dtype() && gpu::serves(part); };
  if (std::all_of(parts.begin(), parts.end(), fits)) {
    return gpu::join(parts);
  }
  std::vector<mx::array> flat;
  flat.reserve(parts.size());
  for (const auto& part : parts) {
    flat.push_back(mx::flatten(part));
  }
  return mx::concatenate(flat, 0);
}

} // namespace

ParamPack::ParamPack(const Params& params,
                     const std::function<std::string(const std::string&, const mx::array&)>& kind) {
  std::map<std::string, std::size_t> by_kind;
  for (const auto& [name, array] : params) {
    auto key = kind(name, array);
    const bool packed = !key.empty() && array.size() <= kLargestPacked;
    const bool matrix = array.ndim() >= 2;
    key += matrix ? " matrices" : " vectors";
    const auto found = by_kind.find(key);
    if (packed && found != by_kind.end()) {
      members_[found->second].names.push_back(name);
      members_[found->second].shapes.push_back(array.shape());
      continue;
    }
    if (packed) {
      by_kind.emplace(key, members_.size());
    }
    members_.push_back({{name}, {array.shape()}, matrix, packed});
  }
}

mx::array ParamPack::join(std::size_t pack, const std::vector<mx::array>& parts) const {
  const auto& members = members_[pack];
  if (!members.packed) {
    return parts.at(0);
  }
  const auto joined = end_to_end(parts);
  return members.matrices ? mx::expand_dims(joined, 0) : joined;
}

std::vector<mx::array> ParamPack::split(std::size_t pack, const mx::array& array) const {
  const auto& members = members_[pack];
  if (!members.packed) {
    return {array};
  }
  const auto flat = members.matrices ? mx::squeeze(array, 0) : array;
  std::vector<mx::array> parts;
  parts.reserve(members.names.size());
  int at = 0;
  for (const auto& shape : members.shapes) {
    const int count = num_elements_of(shape);
    parts.push_back(mx::reshape(mx::slice(flat, {at}, {at + count}), shape));
    at += count;
  }
  return parts;
}

mx::array ParamPack::all_set(const std::vector<mx::array>& flags) const {
  std::vector<mx::array> found;
  std::vector<std::string> order;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const auto& members = members_[i];
    order.insert(order.end(), members.names.begin(), members.names.end());
    if (!members.packed) {
      found.push_back(mx::reshape(mx::all(flags[i]), {1}));
      continue;
    }
    // How many runs of elements, as long as the parameters' sizes allow, are not all set before each border: a
    // parameter has none where its two borders agree. (A running sum over elements took an H200 4 ms.)
    std::vector<std::int32_t> ends;
    ends.reserve(members.shapes.size());
    int run = 0;
    for (const auto& shape : members.shapes) {
      run = std::gcd(run, num_elements_of(shape));
    }
    std::int32_t at = -1;
    for (const auto& shape : members.shapes) {
      ends.push_back(at += num_elements_of(shape) / run);
    }
    const auto whole = mx::all(mx::reshape(flags[i], {-1, run}), -1);
    const auto missing = mx::cumsum(mx::astype(mx::logical_not(whole), mx::int32), 0);
    const auto count = static_cast<int>(ends.size());
    const auto until = mx::take(missing, mx::array(ends.data(), {count}, mx::int32), 0);
    const auto before = mx::concatenate({mx::zeros({1}, mx::int32), mx::slice(until, {0}, {count - 1})}, 0);
    found.push_back(mx::equal(until, before));
  }
  std::vector<std::int32_t> places(order.size());
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const auto place = std::find(order.begin(), order.end(), sorted[i]) - order.begin();
    places[i] = static_cast<std::int32_t>(place);
  }
  return mx::take(mx::concatenate(found, 0),
                  mx::array(places.data(), {static_cast<int>(places.size())}, mx::int32), 0);
}

const Params& PackedParams::all() const {
  if (!has_views_) {
    for (const auto& [key, packed] : packs_) {
      const auto& names = packed.plan->names(key.second);
      const auto views = packed.plan->split(key.second, packed.array);
      for (std::size_t i = 0; i < names.size(); ++i) {
        params_.insert_or_assign(key.first + names[i], views[i]);
      }
    }
    has_views_ = true;
  }
  return params_;
}

Params& PackedParams::edit() {
  all();
  packs_.clear();
  return params_;
}

void PackedParams::clear() {
  params_.clear();
  packs_.clear();
  has_views_ = true;
}

void PackedParams::set(const std::shared_ptr<const ParamPack>& plan, std::size_t pack, const mx::array& array,
                       const std::string& prefix) {
  packs_.insert_or_assign({prefix, pack}, Packed{plan, array});
  has_views_ = false;
}

mx::array PackedParams::packed(const std::shared_ptr<const ParamPack>& plan, std::size_t pack,
                               const std::string& prefix) const {
  const auto found = packs_.find({prefix, pack});
  if (found != packs_.end() && found->second.plan == plan) {
    return found->second.array;
  }
  std::vector<mx::array> parts;
  parts.reserve(plan->names(pack).size());
  for (const auto& name : plan->names(pack)) {
    parts.push_back(at(prefix + name));
  }
  return plan->join(pack, parts);
}

void PackedParams::add(const PackedParams& other) {
  const auto same = [](const auto& a, const auto& b) {
    return a.first == b.first && a.second.plan == b.second.plan;
  };
  if (!packs_.empty() && std::ranges::equal(packs_, other.packs_, same)) {
    for (auto& [key, packed] : packs_) {
      packed.array = packed.array + other.packs_.at(key).array;
    }
    has_views_ = false;
    return;
  }
  for (auto& [name, sum] : edit()) {
    sum = sum + other.at(name);
  }
}

std::vector<mx::array> PackedParams::arrays() const {
  if (packs_.empty()) {
    return values(params_);
  }
  std::vector<mx::array> arrays;
  arrays.reserve(packs_.size());
  for (const auto& [key, packed] : packs_) {
    arrays.push_back(packed.array);
  }
  return arrays;
}

} // namespace temper
