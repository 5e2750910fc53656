#include "bindings/python_errors.h"

#include <pybind11/pybind11.h>

#include <exception>
#include <new>

#include "core/values/errors.h"

namespace py = pybind11;

namespace velora {

void set_python_error() {
  try {
    throw;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const ValueError& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const BufferError& error) {
    PyErr_SetString(PyExc_BufferError, error.what());
  } catch (const MemoryError& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

std::string take_python_error() {
  const py::error_already_set error;
  const std::string text = py::str(error.value());
  return text.substr(0, text.find('\n'));
}

}  // namespace velora
