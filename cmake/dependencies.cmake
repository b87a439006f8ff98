# Third-party libraries. Imported, so that the installed package (TemperConfig.cmake) can include this same
# file and define the same names.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt 9 REQUIRED)
find_library(YAML_CPP_LIBRARY NAMES libyaml-cpp.a yaml-cpp REQUIRED)
find_path(YAML_CPP_INCLUDE yaml-cpp/yaml.h REQUIRED)
find_library(SIMDJSON_LIBRARY NAMES libsimdjson.a simdjson REQUIRED)
find_path(SIMDJSON_INCLUDE simdjson.h REQUIRED)
find_package(CURL 7.68 REQUIRED) # its headers: the library is loaded when first needed
mark_as_advanced(YAML_CPP_LIBRARY YAML_CPP_INCLUDE SIMDJSON_LIBRARY SIMDJSON_INCLUDE)

add_library(temper_host_deps INTERFACE IMPORTED GLOBAL)
target_include_directories(temper_host_deps SYSTEM INTERFACE "${YAML_CPP_INCLUDE}" "${SIMDJSON_INCLUDE}"
  ${CURL_INCLUDE_DIRS})
target_link_libraries(temper_host_deps INTERFACE
  nlohmann_json::nlohmann_json fmt::fmt "${YAML_CPP_LIBRARY}" "${SIMDJSON_LIBRARY}" Threads::Threads
  ${CMAKE_DL_LIBS})

# MLX's Linux wheel links the reference BLAS (4 GFLOP/s); OpenBLAS ahead of it answers cblas_* instead. One
# item, since CMake may move separate ones apart.
add_library(temper_blas INTERFACE IMPORTED GLOBAL)
if(NOT APPLE)
  find_library(OPENBLAS_LIBRARY openblas REQUIRED)
  mark_as_advanced(OPENBLAS_LIBRARY)
  target_link_libraries(temper_blas INTERFACE "-Wl,--no-as-needed,${OPENBLAS_LIBRARY},--as-needed")
endif()
