// Many prompts answered at once (continuous_batch.h), as text.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "temper/infer/continuous_batch.h"
#include "temper/infer/generate.h"

namespace temper {

using AnswerCallback = std::function<void(std::size_t index, const GenerationResult& answer)>;

// The answers to `prompts`, in their order, `options.batch_size` at a time. Greedy answers are those of
// Generator, up to the order in which sums are rounded; sampled ones depend on seed and text alone, whatever
// runs beside them. `on_answer` is called as each is finished. After a cancellation, unfinished ones say so.
// `speed`, if there, is filled as it goes. Throws as Generator::generate() does.
std::vector<GenerationResult> answer_prompts(const ModelView& model,
                                             const std::shared_ptr<const Tokenizer>& tokenizer,
                                             const std::vector<BatchPrompt>& prompts,
                                             const GenerationOptions& options,
                                             const AnswerCallback& on_answer = nullptr,
                                             BatchSpeed* speed = nullptr);

// The same for prompts that are texts 0, 1, 2 ...
std::vector<GenerationResult> generate_batch(const ModelView& model,
                                             const std::shared_ptr<const Tokenizer>& tokenizer,
                                             const std::vector<std::vector<std::int32_t>>& prompts,
                                             const GenerationOptions& options,
                                             const AnswerCallback& on_answer = nullptr);

} // namespace temper
