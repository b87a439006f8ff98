// What a forward pass outside training needs: a model, borrowed, with or without an adapter on top.
#pragma once

#include "temper/io/adapters.h"
#include "temper/io/model_folder.h"
#include "temper/models/decoder.h"

namespace temper {

// Everything it points to must outlive it.
struct ModelView {
  const DecoderSpec* spec;
  ParamView params; // an adapter's factors, or trained weights, shadow the model's
  LoraConfig lora;

  explicit ModelView(const Model& model) : spec(&model.spec), params(model.params), lora() {
  }
  ModelView(const Model& model, const Adapter& adapter)
      : ModelView(model.spec, model.params, adapter.params, adapter.lora) {
  }
  ModelView(const DecoderSpec& model_spec, const Params& frozen, const Params& trained,
            const LoraConfig& config)
      : spec(&model_spec), params(frozen, &trained), lora(config) {
  }
};

} // namespace temper
