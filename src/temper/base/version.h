#pragma once

namespace temper {

// The project's version, "major.minor.patch", as CMakeLists.txt states it.
const char* version();

} // namespace temper
