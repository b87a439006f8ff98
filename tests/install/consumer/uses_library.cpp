// Uses one thing of each layer of the installed library: base, the Rust bridge, MLX.
#include <iostream>

#include "temper/base/error.h"
#include "temper/base/version.h"
#include "temper/nn/lora.h"
#include "temper/text/tokenizer.h"

namespace mx = mlx::core;

int main() {
  std::cout << "temper " << temper::version() << '\n';
  try {
    temper::Tokenizer::load("no-such-folder");
    return 1;
  } catch (const temper::Error& error) {
    std::cout << "as it should: " << error.what() << '\n';
  }
  const temper::LoraPair pair{mx::ones({2, 1}), mx::ones({1, 3})};
  const mx::array y = temper::apply_lora({.rank = 1, .scale = 0.5F}, pair, mx::ones({4, 2}), mx::zeros({4, 3}));
  return mx::all(mx::equal(y, mx::ones({4, 3}))).item<bool>() ? 0 : 1;
}
