// Figures in the units that people read.
#pragma once

namespace temper {

// Of 1e9 bytes.
inline double gigabytes(double bytes) {
  return bytes / 1e9;
}

// `count` a second; 0 if nothing was counted or no time went by.
inline double per_second(double count, double seconds) {
  return count > 0 && seconds > 0 ? count / seconds : 0.0;
}

} // namespace temper
