# MLX from its PyPI wheel, as an imported target of our own. The wheel's own CMake package only works for the
# cpu flavour (docs/decisions/0001-mlx-from-the-wheel.md). TEMPER_MLX_VERSION is what the headers must be.
set(TEMPER_MLX_ROOT "" CACHE PATH "Folder of the mlx Python package (with include/ and lib/)")
if(NOT TEMPER_MLX_ROOT)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -c
            "import importlib.util as u; s = u.find_spec('mlx'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE temper_mlx_found OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  if(NOT temper_mlx_found)
    message(FATAL_ERROR "${Python3_EXECUTABLE} has no mlx ${TEMPER_MLX_VERSION}: run scripts/setup.sh, or set "
                        "TEMPER_MLX_ROOT or Python3_EXECUTABLE")
  endif()
  set_property(CACHE TEMPER_MLX_ROOT PROPERTY VALUE "${temper_mlx_found}")
endif()

file(STRINGS "${TEMPER_MLX_ROOT}/include/mlx/version.h" temper_mlx_numbers REGEX "#define MLX_VERSION_(MAJOR|MINOR|PATCH)")
string(REGEX REPLACE "[^0-9;]" "" temper_mlx_numbers "${temper_mlx_numbers}")
string(REPLACE ";" "." temper_mlx_numbers "${temper_mlx_numbers}")
if(NOT temper_mlx_numbers VERSION_EQUAL TEMPER_MLX_VERSION)
  message(FATAL_ERROR "${TEMPER_MLX_ROOT} holds MLX ${temper_mlx_numbers}, Temper needs ${TEMPER_MLX_VERSION}: "
                      "run scripts/setup.sh, or delete the build folder if MLX moved")
endif()

find_library(TEMPER_MLX_LIBRARY mlx PATHS "${TEMPER_MLX_ROOT}/lib" NO_DEFAULT_PATH REQUIRED)
mark_as_advanced(TEMPER_MLX_LIBRARY)
add_library(mlx SHARED IMPORTED GLOBAL)
set_target_properties(mlx PROPERTIES
  IMPORTED_LOCATION "${TEMPER_MLX_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${TEMPER_MLX_ROOT}/include"
  INTERFACE_COMPILE_FEATURES cxx_std_20)
if(NOT APPLE)
  # The CUDA wheel's NVIDIA libraries are absent at link time.
  set_property(TARGET mlx PROPERTY INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined")
endif()
