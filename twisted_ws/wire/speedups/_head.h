/* What _head.c has for the module. */
void prepareHead(void);
PyObject *plainHead(PyObject *module, PyObject *data);
PyObject *acceptOne(PyObject *module, PyObject *listening);
PyObject *isOnLoopback(PyObject *module, PyObject *accepted);
