#include "cli/verbs.h"

namespace temper::cli {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> kVerbs = {
      {"train", "fine-tune a model on a data set", run_train},
  };
  return kVerbs;
}

} // namespace temper::cli
