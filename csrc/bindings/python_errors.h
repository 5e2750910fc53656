#pragma once

#include <string>

namespace velora {

/// Sets the Python error for the exception that is being handled.
void set_python_error();

/// Turns the pending Python error into the first line of its text (torch appends a stack trace) and
/// clears it.
std::string take_python_error();

}  // namespace velora
