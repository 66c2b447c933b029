# package.cmake: the libraries a user links, and how they are installed and found again.
#
# Both are made from the objects of epfuse_internal, less the rooms that only the command and the tests
# use.  Included after every room has added its sources.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(EPFUSE_PRIVATE_ROOMS model reference)
list(JOIN EPFUSE_PRIVATE_ROOMS "|" private_rooms)
set(objects "$<FILTER:$<TARGET_OBJECTS:epfuse_internal>,EXCLUDE,/src/(${private_rooms})/>")
if(TARGET epfuse_cuda_objects)
  list(APPEND objects $<TARGET_OBJECTS:epfuse_cuda_objects>)
endif()

# What the rooms link, without the markers that CMake adds for calls made in a subdirectory.
get_target_property(items epfuse_internal INTERFACE_LINK_LIBRARIES)
list(FILTER items EXCLUDE REGEX "^::@")
list(REMOVE_DUPLICATES items)
set(dependencies "")
foreach(item IN LISTS items)
  string(REGEX REPLACE "^\\$<LINK_ONLY:(.*)>$" "\\1" item "${item}")
  # jansson reads checkpoints: the command's business, not the library's.
  if(NOT item MATCHES "[Jj][Aa][Nn][Ss][Ss][Oo][Nn]")
    list(APPEND dependencies "${item}")
  endif()
endforeach()

# The same as linker flags that hold on the user's machine: names instead of this machine's paths.
set(static_flags "")
foreach(item IN LISTS dependencies)
  if(item STREQUAL "Threads::Threads")
    list(APPEND static_flags "-lpthread")
    continue()
  endif()
  if(TARGET "${item}")
    get_target_property(item "${item}" LOCATION)
  endif()
  if(item MATCHES "/lib([^/]+)\\.(so|a)[0-9.]*$")
    list(APPEND static_flags "-l${CMAKE_MATCH_1}")
  elseif(item MATCHES "^-")
    list(APPEND static_flags "${item}")
  elseif(item MATCHES "^[A-Za-z0-9_+.-]+$")
    list(APPEND static_flags "-l${item}")
  else()
    message(FATAL_ERROR "package.cmake: how is '${item}' linked outside of this build?")
  endif()
endforeach()
list(REMOVE_DUPLICATES static_flags)
list(JOIN static_flags " " EPFUSE_STATIC_FLAGS)

add_library(epfuse_shared SHARED ${objects})
add_library(epfuse_static STATIC ${objects})
foreach(kind shared static)
  target_include_directories(epfuse_${kind} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
  set_target_properties(epfuse_${kind} PROPERTIES OUTPUT_NAME epfuse LINKER_LANGUAGE C)
endforeach()
target_link_libraries(epfuse_shared PRIVATE ${dependencies})
target_link_libraries(epfuse_static INTERFACE ${static_flags})
target_link_options(epfuse_shared PRIVATE
  -Wl,--as-needed -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/epfuse.map)
if(NOT EPFUSE_SANITIZE)
  target_link_options(epfuse_shared PRIVATE -Wl,--no-undefined)
endif()
set_target_properties(epfuse_shared PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} EXPORT_NAME epfuse
  LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/epfuse.map)

install(TARGETS epfuse_shared epfuse_static EXPORT epfuse)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/epfuse DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h")
if(TARGET epfuse)
  set_target_properties(epfuse PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  install(TARGETS epfuse)
endif()

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/epfuse)
install(EXPORT epfuse NAMESPACE epfuse:: FILE epfuse-targets.cmake DESTINATION ${config_dir})
configure_package_config_file(cmake/epfuse-config.cmake.in epfuse-config.cmake
                              INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(epfuse-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/epfuse-config.cmake
              ${PROJECT_BINARY_DIR}/epfuse-config-version.cmake DESTINATION ${config_dir})
file(RELATIVE_PATH EPFUSE_PC_TO_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(cmake/epfuse.pc.in epfuse.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/epfuse.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
