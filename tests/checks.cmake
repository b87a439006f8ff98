# Tests that are not C++ units: checks of the source, parity with mlx-lm, bad input, installing.
# Labels: `lint` needs no build; `slow` only runs in `make test-all`.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(TEMPER_SCRIPTS "${CMAKE_SOURCE_DIR}/scripts")

# temper_add_check(NAME [LABEL L] [ALL_CORES] COMMAND ...): in the root, with the built program in $TEMPER_BINARY.
function(temper_add_check name)
  cmake_parse_arguments(PARSE_ARGV 1 check "ALL_CORES" "LABEL" "COMMAND")
  add_test(NAME ${name} COMMAND ${check_COMMAND} WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  set_tests_properties(${name} PROPERTIES
    ENVIRONMENT "TEMPER_BINARY=${CMAKE_BINARY_DIR}/temper;OPENBLAS_NUM_THREADS=1" LABELS "${check_LABEL}")
  if(check_ALL_CORES)
    cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
    # They take minutes from nothing; what they find good they keep, so that it is quick the next time.
    set_tests_properties(${name} PROPERTIES PROCESSORS ${cores} TIMEOUT 2400)
  endif()
endfunction()

temper_add_check(check.arrows LABEL lint COMMAND "${Python3_EXECUTABLE}" "${TEMPER_SCRIPTS}/check_arrows.py")
temper_add_check(check.format LABEL lint COMMAND "${Python3_EXECUTABLE}" "${TEMPER_SCRIPTS}/check_format.py")
temper_add_check(check.tidy LABEL lint ALL_CORES
  COMMAND "${Python3_EXECUTABLE}" "${TEMPER_SCRIPTS}/check_tidy.py" "${CMAKE_BINARY_DIR}")
temper_add_check(check.macos LABEL lint ALL_CORES
  COMMAND "${Python3_EXECUTABLE}" "${TEMPER_SCRIPTS}/check_macos.py")

# <part>/test_<name>.py becomes <part>.<name>.
function(temper_add_python_tests part)
  file(GLOB sources CONFIGURE_DEPENDS ${part}/test_*.py)
  foreach(source ${sources})
    get_filename_component(name ${source} NAME_WE)
    string(REPLACE test_ ${part}. name ${name})
    temper_add_check(${name} ${ARGN} COMMAND "${Python3_EXECUTABLE}" -m pytest -q -p no:cacheprovider "${source}")
  endforeach()
endfunction()

temper_add_python_tests(tooling LABEL lint)
temper_add_python_tests(parity)
# It builds llama.cpp: two to three minutes on two cores.
set_tests_properties(parity.llama_cpp PROPERTIES LABELS slow TIMEOUT 2400)
temper_add_python_tests(cli)
temper_add_python_tests(slow LABEL slow)
set_tests_properties(slow.peft PROPERTIES TIMEOUT 1800)
temper_add_check(slow.soak LABEL slow COMMAND soak_test)
set_property(TEST slow.soak APPEND PROPERTY ENVIRONMENT TEMPER_SOAK_STEPS=2000)
temper_add_check(cli.program COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/cli/check_program.py")

temper_add_check(faults ALL_CORES
  COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/faults/run.py")
temper_add_check(install.library ALL_CORES
  COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/install/find_package.sh" "${CMAKE_BINARY_DIR}" "${Python3_EXECUTABLE}")
temper_add_check(install.wheel ALL_CORES
  COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/install/wheel.sh" "${Python3_EXECUTABLE}")
