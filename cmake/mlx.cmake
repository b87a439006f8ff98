# MLX from its PyPI wheel, as an imported target of our own. The wheel's own CMake package only works for the
# cpu flavour (docs/decisions/0001-mlx-from-the-wheel.md).
set(TEMPER_MLX_ROOT "" CACHE PATH "Folder of the mlx Python package (with include/ and lib/)")
if(NOT TEMPER_MLX_ROOT)
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -c
            "import importlib.util as u; print(u.find_spec('mlx').submodule_search_locations[0])"
    OUTPUT_VARIABLE TEMPER_MLX_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()
find_library(TEMPER_MLX_LIBRARY mlx PATHS "${TEMPER_MLX_ROOT}/lib" NO_DEFAULT_PATH REQUIRED)
add_library(mlx SHARED IMPORTED GLOBAL)
set_target_properties(mlx PROPERTIES
  IMPORTED_LOCATION "${TEMPER_MLX_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${TEMPER_MLX_ROOT}/include"
  INTERFACE_COMPILE_FEATURES cxx_std_20)
if(NOT APPLE)
  # The CUDA wheel's NVIDIA libraries are absent at link time.
  set_property(TARGET mlx PROPERTY INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined")
endif()
