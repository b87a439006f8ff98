#include "cli/verb.h"

namespace temper::cli {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> kVerbs = {};
  return kVerbs;
}

} // namespace temper::cli
