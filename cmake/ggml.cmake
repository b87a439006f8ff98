# ggml's quantizers, from llama.cpp's source as the crate llama-cpp-sys-2 carries it (third_party/ggml). cargo
# fetches and verifies it, and finds it again without a network (docs/decisions/0012-ggml-from-a-crate.md).
set(TEMPER_LLAMA_CPP "" CACHE PATH "Folder of llama.cpp's source (with ggml/); fetched by cargo if empty")
mark_as_advanced(TEMPER_LLAMA_CPP)
set(temper_ggml_manifest "${CMAKE_SOURCE_DIR}/third_party/ggml/Cargo.toml")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${temper_ggml_manifest}"
  "${CMAKE_SOURCE_DIR}/third_party/ggml/Cargo.lock")

set(temper_llama_cpp "${TEMPER_LLAMA_CPP}")
if(NOT temper_llama_cpp)
  execute_process(COMMAND "${CARGO}" fetch --locked --quiet --manifest-path "${temper_ggml_manifest}"
    COMMAND_ERROR_IS_FATAL ANY)
  execute_process(
    COMMAND "${CARGO}" metadata --offline --locked --format-version 1 --manifest-path "${temper_ggml_manifest}"
    OUTPUT_VARIABLE temper_ggml_metadata COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "\"manifest_path\":\"([^\"]*llama-cpp-sys-2-[^\"]*)/Cargo.toml\"" _ "${temper_ggml_metadata}")
  set(temper_llama_cpp "${CMAKE_MATCH_1}/llama.cpp")
endif()
if(NOT EXISTS "${temper_llama_cpp}/ggml/src/ggml-quants.c")
  message(FATAL_ERROR "no ggml/src/ggml-quants.c in '${temper_llama_cpp}': set TEMPER_LLAMA_CPP to llama.cpp's source")
endif()

# Objects of temper_core, so that the installed library needs no other. Their warnings are not ours.
add_library(ggml_quants OBJECT third_party/ggml/quants.c)
set_target_properties(ggml_quants PROPERTIES C_STANDARD 11 C_VISIBILITY_PRESET hidden)
target_include_directories(ggml_quants PRIVATE
  third_party/ggml "${temper_llama_cpp}/ggml/include" "${temper_llama_cpp}/ggml/src")
target_compile_definitions(ggml_quants PRIVATE NDEBUG _GNU_SOURCE _DARWIN_C_SOURCE)
target_compile_options(ggml_quants PRIVATE -w $<$<BOOL:${TEMPER_SANITIZE}>:-fsanitize=address>)
