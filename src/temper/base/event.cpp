#include "temper/base/event.h"

namespace temper {

Json Event::to_json() const {
  Json line{{"type", type}, {"time", time}, {"step", step}};
  line.update(data);
  return line;
}

} // namespace temper
