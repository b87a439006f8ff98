// What a decoder-only family is, as data. A family's file turns a Hugging Face config.json into this; one
// decoder (decoder.h) runs them all.
#pragma once

#include <string>
#include <vector>

#include "temper/nn/rope.h"

namespace temper {

struct DecoderSpec {
  std::string model_type; // as config.json says it
  int vocab_size = 0;     // rows of the embedding; padded ones included
  int hidden_size = 0;
  int num_layers = 0;
  int intermediate_size = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float norm_eps = 1e-5F;
  RopeSpec rope;
  std::vector<int> windows;    // [num_layers]: keys a layer's query sees; 0: all before it
  bool tied_head = false;      // the embedding is the head
  bool attention_bias = false; // on q, k, v
  bool output_bias = false;    // on o
  bool mlp_bias = false;
};

} // namespace temper
