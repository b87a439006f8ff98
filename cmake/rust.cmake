# rust/ as one static library behind a C ABI (rust/temper_bridge.h). Built once for all presets but `fuzz`.
find_program(CARGO cargo HINTS $ENV{HOME}/.cargo/bin REQUIRED)
set(TEMPER_BRIDGE_TARGET_DIR "${CMAKE_SOURCE_DIR}/build/rust" CACHE PATH "cargo's target folder, shared by presets")
set(TEMPER_BRIDGE_LIBRARY "${TEMPER_BRIDGE_TARGET_DIR}/release/libtemper_bridge.a")
set(temper_cargo_environment "CARGO_TARGET_DIR=${TEMPER_BRIDGE_TARGET_DIR}")
set(temper_cargo_arguments)
if(TEMPER_FUZZ)
  # The fuzzers see into the crates too: LLVM's coverage pass, by the flags that cargo-fuzz gives. With a --target they
  # reach the crates alone, not the build scripts, which would not link.
  execute_process(COMMAND "${CARGO}" -vV OUTPUT_VARIABLE temper_cargo_version COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "host: ([^\n]+)" temper_cargo_host "${temper_cargo_version}")
  set(temper_rust_triple "${CMAKE_MATCH_1}")
  set(TEMPER_BRIDGE_LIBRARY "${TEMPER_BRIDGE_TARGET_DIR}/${temper_rust_triple}/release/libtemper_bridge.a")
  set(temper_cargo_arguments --target "${temper_rust_triple}")
  string(JOIN " " temper_rust_flags
    -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares)
  list(APPEND temper_cargo_environment "RUSTFLAGS=${temper_rust_flags}")
endif()
file(GLOB_RECURSE TEMPER_BRIDGE_SOURCES CONFIGURE_DEPENDS rust/src/*.rs)
# A stamp of each build folder's own: cargo leaves an up-to-date library untouched, and so nothing is relinked.
set(temper_bridge_stamp "${CMAKE_BINARY_DIR}/temper_bridge.stamp")
add_custom_command(
  OUTPUT "${temper_bridge_stamp}"
  BYPRODUCTS "${TEMPER_BRIDGE_LIBRARY}"
  COMMAND ${CMAKE_COMMAND} -E env ${temper_cargo_environment} "${CARGO}" build --release --locked --quiet
          --manifest-path "${CMAKE_SOURCE_DIR}/rust/Cargo.toml" ${temper_cargo_arguments}
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
