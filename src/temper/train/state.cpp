#include "temper/train/state.h"

#include <cmath>

#include "temper/base/error.h"

namespace temper {

Json TrainState::host_json() const {
  return {
      {"step", step},
      {"micro_step", micro_step},
      {"supervised_tokens", supervised_tokens},
      {"total_tokens", total_tokens},
      {"seed", seed},
      {"cursor", cursor.to_json()},
      {"skipped_in_a_row", skipped_in_a_row},
      {"best_loss", std::isfinite(best_loss) ? Json(best_loss) : Json(nullptr)},
      {"best_step", best_step},
      {"mlx_lm_random", mlx_lm_random},
  };
}

void TrainState::restore_host(const Json& json) {
  try {
    step = json.at("step").get<std::int64_t>();
    micro_step = json.at("micro_step").get<std::int64_t>();
    supervised_tokens = json.at("supervised_tokens").get<std::int64_t>();
    total_tokens = json.at("total_tokens").get<std::int64_t>();
    seed = json.at("seed").get<std::uint64_t>();
    cursor = DataCursor::from_json(json.at("cursor"));
    skipped_in_a_row = json.at("skipped_in_a_row").get<int>();
    const auto& best = json.at("best_loss");
    best_loss = best.is_null() ? std::numeric_limits<double>::infinity() : best.get<double>();
    best_step = json.at("best_step").get<std::int64_t>();
    mlx_lm_random = json.at("mlx_lm_random");
  } catch (const Json::exception&) {
    throw CheckpointError("the state is damaged; go on from another checkpoint of the run");
  }
}

} // namespace temper
