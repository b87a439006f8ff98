// A training loop of one's own over Temper's parts: custom_loop MODEL_FOLDER TEXT_FILE ADAPTER_FOLDER STEPS
#include <fstream>
#include <iostream>
#include <random>

#include "temper/data/collate.h"
#include "temper/io/adapters.h"
#include "temper/models/adapter_params.h"
#include "temper/nn/device.h"
#include "temper/text/tokenizer.h"
#include "temper/train/step.h"
using namespace temper;

// The data loader: a batch is four random lines of a text file, each token of them a target.
HostBatch draw(const Tokenizer& tokenizer, const std::vector<std::string>& lines, std::mt19937& random) {
  std::vector<Example> examples;
  for (const std::size_t i : {random(), random(), random(), random()}) {
    const auto ids = tokenizer.encode(lines.at(i % lines.size()), true);
    examples.push_back({ids, std::vector<std::uint8_t>(ids.size(), 1)});
  }
  return collate(*make_token_dataset(std::move(examples)), std::vector<std::uint32_t>{0, 1, 2, 3}, {});
}

// The loss: cross entropy with label smoothing, a tenth of each target spread over the vocabulary.
mx::array smoothed(const mx::array& hidden_NE, const Head& head, const LossTargets& targets) {
  const auto chosen_SE = mx::take(hidden_NE, targets.positions_S, 0);
  const auto logits_SV = mx::astype(head_logits(head, chosen_SE), mx::float32);
  const auto log_p_SV = logits_SV - mx::logsumexp(logits_SV, 1, true);
  const auto log_p_S1 = mx::take_along_axis(log_p_SV, mx::expand_dims(targets.targets_S, 1), 1);
  return -mx::sum(targets.weights_S * (0.9F * mx::squeeze(log_p_S1, 1) + 0.1F * mx::mean(log_p_SV, 1)));
}

// The learning rate of each step.
double schedule(int step) {
  return step < 10 ? 1e-4 * (step + 1) : 1e-3 * 10 / step;
}

int main(int, char** argv) {
  prepare_device();
  const Model model = load_model(argv[1]);
  const auto tokenizer = Tokenizer::load(argv[1]);
  std::ifstream file(argv[2]);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line); lines.push_back(line)) {
  }
  const std::vector<std::string> keys{"self_attn.q_proj", "self_attn.v_proj"};
  const LoraConfig lora{.rank = 8, .scale = 2.0F};
  TrainStep step(model, {.lora = lora, .optimizer = make_optimizer("adamw", {}), .loss = smoothed});
  TrainState state = step.initial_state(init_adapter(lora, adaptable_layers(model.spec, -1, keys), 0), 0);
  std::mt19937 random(0);
  for (; state.micro_step < std::stoi(argv[4]); ++state.micro_step) {
    const auto batch = draw(*tokenizer, lines, random);
    const float weight = 1.0F / static_cast<float>(batch.num_supervised); // of each target: their mean
    auto part = step.gradients(state, batch, weight);
    step.update(state, part.gradients, schedule(static_cast<int>(state.micro_step)));
    std::cout << "step " << state.micro_step + 1 << "  loss " << part.loss.item<float>() << std::endl;
  }
  save_adapter_config(argv[3], "lora", -1, lora, keys, Json::object());
  save_adapter_params(argv[3], "adapters.safetensors", state.trainable);
}
