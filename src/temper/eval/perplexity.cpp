#include "temper/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "temper/base/error.h"
#include "temper/nn/loss.h"

namespace temper {
namespace {

constexpr std::int64_t kLogitsAlive = std::int64_t{1} << 26; // elements: 256 MB of fp32

int chunk_rows(const LossOptions& options, int vocab_size) {
  return options.chunk > 0 ? options.chunk
                           : static_cast<int>(std::max<std::int64_t>(64, kLogitsAlive / vocab_size));
}

// Sum of the batch's losses, a fp32 scalar. Lazy.
mx::array batch_loss(const ModelView& model, const HostBatch& batch, const LossOptions& options) {
  const auto layout = to_arrays(batch, *model.spec, 1.0F,
                                options.attention.value_or(default_packed_attention(
                                    *model.spec, compute_dtype(*model.spec, model.params))));
  const auto device = as_device_batch(layout, layout.words);
  ForwardContext context{model.params, model.lora, std::nullopt};
  const auto hidden = decoder_hidden(*model.spec, context, device.input);
  return cross_entropy_value(mx::flatten(hidden, 0, 1), decoder_head(*model.spec, context), device.targets,
                             chunk_rows(options, model.spec->vocab_size));
}

} // namespace

double DatasetLoss::perplexity() const {
  return std::exp(loss);
}

DatasetLoss evaluate_loss(const ModelView& model, const EvalBatches& batches, const LossOptions& options) {
  DatasetLoss result;
  double sum = 0;
  std::optional<mx::array> running; // the device computes one batch while the host makes the next
  const auto collect = [&] {
    if (running) {
      sum += running->item<float>();
      running.reset();
    }
  };
  for (std::size_t i = 0; i < batches.size(); ++i) {
    for (const auto& batch : batches.parts(i)) {
      if (batch.num_supervised > 0) {
        auto loss = batch_loss(model, batch, options);
        collect();
        mx::async_eval(loss);
        running = std::move(loss);
      }
      result.tokens += batch.num_supervised;
    }
    ++result.batches;
    if (options.on_batch && !options.on_batch(result.batches, batches.size())) {
      break;
    }
  }
  collect();
  if (result.tokens == 0) {
    throw DataError("evaluation: no token is supervised in " + std::to_string(result.batches) +
                    " batches, so there is no loss; check the data with `temper data preview`");
  }
  result.loss = sum / static_cast<double>(result.tokens);
  return result;
}

} // namespace temper
