#include "temper/models/weight_layout.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "temper/base/error.h"

namespace temper {
namespace {

std::string renamed(const WeightLayout& layout, std::string name) {
  for (const auto& [from, to] : layout.prefixes) {
    if (name.starts_with(from)) {
      name.replace(0, from.size(), to);
      break;
    }
  }
  for (const auto& [from, to] : layout.renames) {
    if (const auto at = name.find(from); at != std::string::npos) {
      name.replace(at, from.size(), to);
    }
  }
  return name;
}

bool is_left_out(const WeightLayout& layout, const std::string& name) {
  return std::any_of(layout.left_out.begin(), layout.left_out.end(),
                     [&](const auto& part) { return name.find(part) != std::string::npos; });
}

// The inverse of renamed().
std::string hub_name(const WeightLayout& layout, std::string name) {
  for (auto it = layout.renames.rbegin(); it != layout.renames.rend(); ++it) {
    if (const auto at = name.find(it->second); at != std::string::npos) {
      name.replace(at, it->second.size(), it->first);
    }
  }
  for (const auto& [theirs, ours] : layout.prefixes) {
    if (!layout.keep_prefixes && name.starts_with(ours)) {
      name.replace(0, ours.size(), theirs);
      break;
    }
  }
  return name;
}

// The number and the rest behind "....experts.", of a tensor of one expert.
struct ExpertName {
  std::string stacked;
  int expert = 0;
};

std::optional<ExpertName> expert_name(const WeightLayout& layout, const std::string& name) {
  if (layout.expert_part.empty()) {
    return std::nullopt;
  }
  const auto at = name.find(layout.expert_part);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  const auto* begin = name.data() + at + layout.expert_part.size();
  int expert = 0;
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), expert);
  if (error != std::errc() || expert < 0 || end == name.data() + name.size() || *end != '.') {
    return std::nullopt;
  }
  return ExpertName{
      name.substr(0, at) + layout.stacked_experts + std::string(end + 1, name.data() + name.size()), expert};
}

mx::array stack_experts(const std::string& name, const std::map<int, mx::array>& experts, int num_experts,
                        const std::string& origin) {
  std::vector<mx::array> all;
  for (const auto& [expert, array] : experts) {
    if (expert != static_cast<int>(all.size()) || array.shape() != experts.begin()->second.shape()) {
      break;
    }
    all.push_back(array);
  }
  if (all.size() != experts.size() && static_cast<int>(experts.size()) == num_experts) {
    throw ModelError(origin + ": " + name + ": expert " + std::to_string(all.size()) +
                     " is missing, or of another shape than the others");
  }
  if (all.size() != experts.size() || static_cast<int>(all.size()) != num_experts) {
    throw ModelError(origin + ": " + name + ": config.json asks for " + std::to_string(num_experts) +
                     " experts, the weights hold " + std::to_string(experts.size()));
  }
  return mx::stack(all);
}

} // namespace

Params import_weights(const WeightLayout& layout, const DecoderSpec& spec, const Params& stored,
                      const std::string& origin) {
  Params params;
  std::map<std::string, std::map<int, mx::array>> stacks;
  const auto add = [&](const std::string& name, const mx::array& array) {
    if (!params.emplace(renamed(layout, name), array).second) {
      throw ModelError(origin + ": tensor " + renamed(layout, name) + " is there twice");
    }
  };
  for (const auto& [name, array] : stored) {
    if (is_left_out(layout, name)) {
      continue;
    }
    if (const auto expert = expert_name(layout, name)) {
      stacks[expert->stacked].emplace(expert->expert, array);
    } else {
      add(name, array);
    }
  }
  for (const auto& [name, experts] : stacks) {
    add(name, stack_experts(name, experts, spec.moe.num_experts, origin));
  }
  return layout.rearrange != nullptr ? layout.rearrange(spec, std::move(params)) : params;
}

Params export_weights(const WeightLayout& layout, const DecoderSpec& spec, Params params) {
  if (layout.restore != nullptr) {
    params = layout.restore(spec, std::move(params));
  }
  Params exported;
  for (const auto& [ours, array] : params) {
    const auto name = hub_name(layout, ours);
    const auto at = layout.expert_part.empty() ? std::string::npos : name.find(layout.stacked_experts);
    if (at == std::string::npos) {
      exported.emplace(name, array);
      continue;
    }
    const auto rest = name.substr(at + layout.stacked_experts.size());
    for (int expert = 0; expert < array.shape(0); ++expert) {
      exported.emplace(name.substr(0, at) + layout.expert_part + std::to_string(expert) + "." + rest,
                       mx::take(array, expert, 0));
    }
  }
  return exported;
}

Params left_out_weights(const WeightLayout& layout, const Params& stored) {
  Params found;
  for (const auto& [name, array] : stored) {
    if (is_left_out(layout, name)) {
      found.emplace(name, array);
    }
  }
  return found;
}

Params transpose_convolutions(Params params, const std::string& part) {
  for (auto& [name, array] : params) {
    if (name.ends_with(part) && array.ndim() == 3 && array.shape(1) == 1 && array.shape(2) != 1) {
      array = mx::swapaxes(array, 1, 2);
    }
  }
  return params;
}

Params restore_convolutions(Params params, const std::string& part) {
  for (auto& [name, array] : params) {
    if (name.ends_with(part) && array.ndim() == 3 && array.shape(2) == 1 && array.shape(1) != 1) {
      array = mx::swapaxes(array, 1, 2);
    }
  }
  return params;
}

} // namespace temper
