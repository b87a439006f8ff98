#include "temper/optim/update_rule.h"

namespace temper {

std::vector<mx::array> UpdateRule::step_all(std::vector<ParameterStep>& all) const {
  std::vector<mx::array> result;
  result.reserve(all.size());
  for (auto& p : all) {
    result.push_back(step(p));
  }
  return result;
}

bool decays(const std::string& name, const mx::array& parameter) {
  return parameter.ndim() >= 2 && !name.ends_with(".bias");
}

} // namespace temper
