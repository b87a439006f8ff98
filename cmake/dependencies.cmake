# Third-party libraries, linked statically where the binary travels without its build machine.
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt 9 REQUIRED)
find_library(YAML_CPP_LIBRARY NAMES libyaml-cpp.a yaml-cpp REQUIRED)
find_path(YAML_CPP_INCLUDE yaml-cpp/yaml.h REQUIRED)
find_library(SIMDJSON_LIBRARY NAMES libsimdjson.a simdjson REQUIRED)

add_library(temper_host_deps INTERFACE)
target_link_libraries(temper_host_deps INTERFACE
  nlohmann_json::nlohmann_json fmt::fmt ${YAML_CPP_LIBRARY} ${SIMDJSON_LIBRARY} Threads::Threads)

find_package(CLI11 REQUIRED)
add_library(temper_cli_deps INTERFACE)
target_link_libraries(temper_cli_deps INTERFACE CLI11::CLI11)

# MLX's Linux wheel links the reference BLAS (4 GFLOP/s); OpenBLAS ahead of it answers cblas_* instead.
add_library(temper_blas INTERFACE)
if(NOT APPLE)
  find_library(OPENBLAS_LIBRARY openblas REQUIRED)
  target_link_libraries(temper_blas INTERFACE -Wl,--no-as-needed ${OPENBLAS_LIBRARY} -Wl,--as-needed)
endif()
