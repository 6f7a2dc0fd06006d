/* The head of a request and the accept of its connection, in C: the plain ones.
 *
 * What is not plain is left to head.py and to Python's own sockets, which know what is wrong with it.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "_head.h"

enum {
    NAME_MAX_SIZE = 64,
    TOKEN = 1,   /* of a name: RFC 9110 section 5.6.2 */
    VALUE = 2,   /* of a value: no control character of ASCII or Latin-1, but a tab */
    TARGET = 4,  /* of a target that needs no percent-encoding */
    HOST = 8,    /* of a Host: ASCII, and nothing that could begin something else */
};

static unsigned char kinds[256];

void
prepareHead(void)
{
    for (int c = 0; c < 256; c++) {
        int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        unsigned char kind = 0;
        if (letter || (c && c < 0x80 && strchr("!#$%&'*+-.^_`|~", c) != NULL))
            kind |= TOKEN;
        if (c == '\t' || (c >= 0x20 && c < 0x7F) || c >= 0xA0)
            kind |= VALUE;
        if (c > 0x20 && c < 0x7F && c != '#')
            kind |= TARGET;
        if (c > 0x20 && c < 0x7F && strchr(",/\\@?#\"'<>", c) == NULL)
            kind |= HOST;
        kinds[c] = kind;
    }
}

/* Whether all bytes are of a kind. */
static int
areAll(const unsigned char *data, size_t size, unsigned char kind)
{
    for (size_t i = 0; i < size; i++)
        if (!(kinds[data[i]] & kind))
            return 0;
    return 1;
}

/* Add a value to those of a name; 0 with an exception. */
static int
addValue(PyObject *values, PyObject *name, PyObject *value)
{
    PyObject *known = PyDict_GetItemWithError(values, name);
    if (known != NULL)
        return PyList_Append(known, value) == 0;
    if (PyErr_Occurred())
        return 0;
    PyObject *list = PyList_New(1);
    if (list == NULL)
        return 0;
    PyList_SET_ITEM(list, 0, Py_NewRef(value));
    int added = PyDict_SetItem(values, name, list) == 0;
    Py_DECREF(list);
    return added;
}

/* Take one header line (without its CRLF) into `headers` and `values`: 1, 0 for one that is not plain, -1 with an exception. */
static int
takeHeader(const unsigned char *line, size_t size, PyObject *headers, PyObject *values)
{
    char name[NAME_MAX_SIZE];
    const unsigned char *colon = memchr(line, ':', size);
    if (colon == NULL || colon == line || colon - line > NAME_MAX_SIZE)
        return 0;
    size_t length = (size_t)(colon - line);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = line[i];
        if (!(kinds[c] & TOKEN))
            return 0;
        name[i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    const unsigned char *value = colon + 1, *end = line + size;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (!areAll(value, (size_t)(end - value), VALUE))
        return 0;
    PyObject *key = PyUnicode_DecodeASCII(name, (Py_ssize_t)length, NULL);
    PyObject *text = PyUnicode_DecodeLatin1((const char *)value, end - value, NULL);
    PyObject *pair = key != NULL && text != NULL ? PyTuple_Pack(2, key, text) : NULL;
    int done = pair != NULL && addValue(values, key, text) && PyList_Append(headers, pair) == 0;
    Py_XDECREF(key);
    Py_XDECREF(text);
    Py_XDECREF(pair);
    return done ? 1 : -1;
}

/* Read the request line without its CRLF: 1 with method and target, 0 for one that is not plain, -1 with an exception. */
static int
takeRequestLine(const unsigned char *line, size_t size, PyObject **method, PyObject **target)
{
    static const char version[] = " HTTP/1.1";
    const size_t tail = sizeof version - 1;
    if (size < tail || memcmp(line + size - tail, version, tail) != 0)
        return 0;
    size -= tail;
    const unsigned char *space = memchr(line, ' ', size);
    if (space == NULL || space == line || !areAll(line, (size_t)(space - line), TOKEN))
        return 0;
    const unsigned char *path = space + 1;
    size_t length = (size_t)(line + size - path);
    if (length == 0 || path[0] != '/' || (length > 1 && path[1] == '/') || !areAll(path, length, TARGET))
        return 0;
    *method = PyUnicode_DecodeASCII((const char *)line, space - line, NULL);
    *target = PyUnicode_DecodeASCII((const char *)path, (Py_ssize_t)length, NULL);
    return *method != NULL && *target != NULL ? 1 : -1;
}

/* Take all of a head: 1, 0 for one that is not plain, -1 with an exception. */
static int
takeHead(const unsigned char *data, size_t size, PyObject **method, PyObject **target, PyObject *headers, PyObject *values)
{
    const unsigned char *line = data, *end = data + size;
    for (;;) {
        const unsigned char *feed = memchr(line, '\n', (size_t)(end - line));
        if (feed == NULL || feed == line || feed[-1] != '\r')
            return 0;
        size_t length = (size_t)(feed - line) - 1;
        if (length == 0)
            return line != data && feed + 1 == end; /* the empty line has to be the last */
        int taken = line == data ? takeRequestLine(line, length, method, target) : takeHeader(line, length, headers, values);
        if (taken <= 0)
            return taken;
        line = feed + 1;
    }
}

/* The one Host; 1, 0 for none, several or a strange one. */
static int
isHostPlain(PyObject *values, PyObject **host)
{
    PyObject *hosts = PyDict_GetItemString(values, "host");
    if (hosts == NULL || PyList_GET_SIZE(hosts) != 1)
        return 0;
    *host = PyList_GET_ITEM(hosts, 0);
    Py_ssize_t size = PyUnicode_GET_LENGTH(*host);
    return size > 0 && PyUnicode_IS_ASCII(*host) && areAll(PyUnicode_1BYTE_DATA(*host), (size_t)size, HOST);
}

/* plainHead(data) */
PyObject *
plainHead(PyObject *module, PyObject *data)
{
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "plainHead(bytes)");
        return NULL;
    }
    PyObject *method = NULL, *target = NULL, *host = NULL, *found = NULL;
    PyObject *headers = PyList_New(0), *values = PyDict_New();
    int taken = -1;
    if (headers != NULL && values != NULL)
        taken = takeHead((const unsigned char *)PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), &method, &target, headers, values);
    if (taken == 0 || (taken > 0 && !isHostPlain(values, &host))) {
        found = Py_NewRef(Py_None);
    } else if (taken > 0) {
        PyObject *pairs = PyList_AsTuple(headers);
        if (pairs != NULL) {
            found = PyTuple_Pack(5, method, target, pairs, host, values);
            Py_DECREF(pairs);
        }
    }
    Py_XDECREF(method);
    Py_XDECREF(target);
    Py_XDECREF(headers);
    Py_XDECREF(values);
    return found;
}

/* acceptOne(socket) */
PyObject *
acceptOne(PyObject *module, PyObject *listening)
{
    int port = PyObject_AsFileDescriptor(listening);
    if (port < 0)
        return NULL;
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int fd = accept4(port, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    char text[INET6_ADDRSTRLEN];
    PyObject *found = NULL;
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
        found = Py_BuildValue("i(si)", fd, text, (int)ntohs(four->sin_port));
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address;
        inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
        found = Py_BuildValue("i(sikk)", fd, text, (int)ntohs(six->sin6_port), (unsigned long)ntohl(six->sin6_flowinfo),
                              (unsigned long)six->sin6_scope_id);
    } else {
        PyErr_SetString(PyExc_ValueError, "a socket of another family");
    }
    if (found == NULL)
        close(fd);
    return found;
}
