# rust/ as one static library behind a C ABI (rust/temper_bridge.h). Built once for all presets.
find_program(CARGO cargo HINTS $ENV{HOME}/.cargo/bin REQUIRED)
set(TEMPER_BRIDGE_TARGET_DIR "${CMAKE_SOURCE_DIR}/build/rust" CACHE PATH "cargo's target folder, shared by presets")
set(TEMPER_BRIDGE_LIBRARY "${TEMPER_BRIDGE_TARGET_DIR}/release/libtemper_bridge.a")
file(GLOB_RECURSE TEMPER_BRIDGE_SOURCES CONFIGURE_DEPENDS rust/src/*.rs)
# A stamp of each build folder's own: cargo leaves an up-to-date library untouched, and so nothing is relinked.
set(temper_bridge_stamp "${CMAKE_BINARY_DIR}/temper_bridge.stamp")
add_custom_command(
  OUTPUT "${temper_bridge_stamp}"
  BYPRODUCTS "${TEMPER_BRIDGE_LIBRARY}"
  COMMAND ${CMAKE_COMMAND} -E env "CARGO_TARGET_DIR=${TEMPER_BRIDGE_TARGET_DIR}" "${CARGO}" build --release --locked
          --quiet --manifest-path "${CMAKE_SOURCE_DIR}/rust/Cargo.toml"
  COMMAND ${CMAKE_COMMAND} -E touch "${temper_bridge_stamp}"
  DEPENDS ${TEMPER_BRIDGE_SOURCES} rust/Cargo.toml rust/Cargo.lock
  COMMENT "Building the Rust library (tokenizers, minijinja, parquet)"
  USES_TERMINAL VERBATIM)
add_custom_target(temper_bridge_build DEPENDS "${temper_bridge_stamp}")
add_library(temper_bridge STATIC IMPORTED GLOBAL)
add_dependencies(temper_bridge temper_bridge_build)
set_target_properties(temper_bridge PROPERTIES
  IMPORTED_LOCATION "${TEMPER_BRIDGE_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_SOURCE_DIR}/rust"
  INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
if(NOT APPLE)  # most of what the crates bring is called by nobody
  set_target_properties(temper_bridge PROPERTIES INTERFACE_LINK_OPTIONS "LINKER:--gc-sections")
endif()
