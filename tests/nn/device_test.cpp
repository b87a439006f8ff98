#include "temper/nn/device.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

TEST_CASE("kernels compiled at run time go to a folder that this user alone can enter") {
  prepare_device();
  const std::string folder = std::getenv("TMPDIR");
  prepare_device(1 << 20);
  CHECK(folder == std::getenv("TMPDIR")); // calling it twice changes nothing
  struct stat info {};
  REQUIRE(::stat(folder.c_str(), &info) == 0);
  CHECK(S_ISDIR(info.st_mode));
  CHECK((info.st_mode & 07777) == 0700);
  CHECK(info.st_uid == ::geteuid());
}

TEST_CASE("the device has a name and memory, whose peak never lies below what is in use") {
  CHECK_FALSE(device_name().empty());
  const auto before = memory_use();
  auto held = mx::zeros({1000, 1000});
  mx::eval(held);
  const auto during = memory_use();
  CHECK(during.active_gb > before.active_gb + 0.0039);
  CHECK(during.peak_gb >= during.active_gb);
  CHECK(during.total_gb > during.active_gb);
}
