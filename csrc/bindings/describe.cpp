#include "bindings/describe.h"

#include "bindings/array_types.h"

namespace py = pybind11;

namespace velora {
namespace {

const char* type_name(PyObject* value) { return Py_TYPE(value)->tp_name; }

}  // namespace

std::string describe(PyObject* value) {
  const py::handle object(value);
  if (PyFloat_Check(value) != 0 || PyLong_Check(value) != 0) {
    return std::string(type_name(value)) + " " + std::string(py::repr(object));
  }
  if (PyObject_HasAttrString(value, "dtype") == 0 || PyObject_HasAttrString(value, "shape") == 0) {
    return type_name(value);
  }
  try {
    const py::object dtype = object.attr("dtype");
    if (dtype.is_none()) return type_name(value);  // of a container
    std::string text = py::str(dtype);
    if (text.starts_with("torch.")) text.erase(0, 6);
    text += " of shape " + std::string(py::str(py::tuple(py::list(object.attr("shape")))));
    if (is_tensor(value)) {
      const std::string device = py::str(object.attr("device"));
      const std::string layout = py::str(object.attr("layout"));
      if (layout != "torch.strided") text += " in layout " + layout;
      if (device != "cpu") text += " on " + device;
      return text;
    }
    const bool is_known = is_ndarray(value) || is_numpy_scalar(value);
    return is_known ? text : std::string(type_name(value)) + ", " + text;
  } catch (py::error_already_set&) {
    return type_name(value);
  }
}

std::string describe_with_hint(PyObject* value) {
  const char* hint = "";
  if (PyList_Check(value) != 0) {
    hint = "; use torch.tensor(...) or np.array(...), or tuple(...) for several arrays";
  } else if (is_labelled(value)) {
    hint = "; use .to_numpy()";
  } else if (type_has(value, "keys")) {
    hint = type_has(value, "to_dict") ? "; use .to_dict()" : "; use dict(...)";
  } else if (type_has(value, "filled")) {
    hint = "; use .filled(...)";
  }
  return describe(value) + hint;
}

}  // namespace velora
