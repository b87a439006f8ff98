# What `cmake --install` puts where. Component `wheel` is what a Python wheel carries; everything else is
# for find_package(Temper).
include(GNUInstallDirs)

if(TEMPER_WHEEL)
  # Site-packages holds temper/bin/temper and mlx/lib/libmlx. The old kind of rpath is inherited by the
  # libraries that travel along, which know nothing of each other's place.
  if(APPLE)
    set_target_properties(temper PROPERTIES INSTALL_RPATH "@loader_path;@loader_path/../../mlx/lib")
  else()
    set_target_properties(temper PROPERTIES INSTALL_RPATH "\$ORIGIN:\$ORIGIN/../../mlx/lib")
    target_link_options(temper PRIVATE "LINKER:--disable-new-dtags")
  endif()
else()
  set_target_properties(temper PROPERTIES INSTALL_RPATH "${TEMPER_MLX_ROOT}/lib")
endif()
install(TARGETS temper RUNTIME DESTINATION bin COMPONENT wheel)

if(TEMPER_WHEEL)
  install(FILES third_party/ggml/LICENSE DESTINATION bin/licenses RENAME ggml.txt COMPONENT wheel) # compiled in
else()
  install(FILES third_party/ggml/LICENSE TYPE DOC RENAME ggml.txt COMPONENT library)
endif()

if(TEMPER_WHEEL AND NOT APPLE)
  # Shared libraries that a pip user lacks travel beside the binary, under the names it asks for, with their
  # licences. libstdc++ and glibc come from the system, as for the mlx wheel itself.
  list(GET CURL_LIBRARIES 0 TEMPER_CURL) # not linked, but loaded by this name
  if(TARGET ${TEMPER_CURL})
    get_target_property(TEMPER_CURL ${TEMPER_CURL} IMPORTED_LOCATION)
  endif()
  file(REAL_PATH "${TEMPER_CURL}" TEMPER_CURL)
  install(CODE "set(curl \"${TEMPER_CURL}\")" COMPONENT wheel)
  install(CODE [[
    file(GET_RUNTIME_DEPENDENCIES EXECUTABLES "$<TARGET_FILE:temper>" LIBRARIES "${curl}"
      RESOLVED_DEPENDENCIES_VAR libraries
      PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\\+\\+)\\.so" "^libmlx")
    set(bin "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/bin")
    file(MAKE_DIRECTORY "${bin}/licenses")
    foreach(library IN LISTS libraries curl)
      get_filename_component(name "${library}" NAME)
      string(REGEX REPLACE "^libcurl\\.so\\.4.*" "libcurl.so.4" name "${name}")
      file(REAL_PATH "${library}" real)
      message(STATUS "Shipping: ${name} (${real})")
      file(COPY_FILE "${real}" "${bin}/${name}" ONLY_IF_DIFFERENT)
      execute_process(COMMAND dpkg-query --search "${real}" OUTPUT_VARIABLE package ERROR_QUIET)
      if(package MATCHES "^([a-z0-9.+-]+):")
        file(COPY_FILE "/usr/share/doc/${CMAKE_MATCH_1}/copyright" "${bin}/licenses/${CMAKE_MATCH_1}.txt")
      endif()
    endforeach()
    foreach(package libyaml-cpp-dev nlohmann-json3-dev libcli11-dev) # compiled in
      if(EXISTS "/usr/share/doc/${package}/copyright")
        file(COPY_FILE "/usr/share/doc/${package}/copyright" "${bin}/licenses/${package}.txt")
      endif()
    endforeach()
  ]] COMPONENT wheel)
endif()

set(TEMPER_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/Temper")
install(DIRECTORY src/temper TYPE INCLUDE COMPONENT library FILES_MATCHING PATTERN "*.h")
install(TARGETS temper_host temper_core EXPORT TemperTargets ARCHIVE COMPONENT library)
install(FILES "${TEMPER_BRIDGE_LIBRARY}" TYPE LIB COMPONENT library)
install(EXPORT TemperTargets NAMESPACE Temper:: DESTINATION "${TEMPER_PACKAGE_DIR}" COMPONENT library)

include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/TemperConfig.cmake.in "${CMAKE_BINARY_DIR}/TemperConfig.cmake"
  INSTALL_DESTINATION "${TEMPER_PACKAGE_DIR}" PATH_VARS CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file("${CMAKE_BINARY_DIR}/TemperConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/TemperConfig.cmake" "${CMAKE_BINARY_DIR}/TemperConfigVersion.cmake"
  cmake/mlx.cmake cmake/dependencies.cmake DESTINATION "${TEMPER_PACKAGE_DIR}" COMPONENT library)
