/* Plain heads of requests, and accepting connections, in C.
 *
 * Anything else is left to head.py and to Python's own sockets, which can say what is wrong.
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
    VALUE = 2,   /* of a value: no control character except tab; the bytes from 80 on are opaque (RFC 9110 section 5.5) */
    TARGET = 4,  /* of a target that needs no percent-encoding */
    HOST = 8,    /* of a Host: ASCII, and nothing that could begin something else */
    BASE64 = 16, /* of a Sec-WebSocket-Key, except its end */
    KEY = 3,     /* the position of Sec-WebSocket-Key among what a handshake must have */
    ALL_SAID = 15,
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
        if (c == '\t' || (c >= 0x20 && c != 0x7F))
            kind |= VALUE;
        if (c > 0x20 && c < 0x7F && c != '#')
            kind |= TARGET;
        if (c > 0x20 && c < 0x7F && strchr(",/\\@?#\"'<>", c) == NULL)
            kind |= HOST;
        if (letter || c == '+' || c == '/')
            kind |= BASE64;
        kinds[c] = kind;
    }
}

/* Whether all bytes are of one kind. */
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

/* What a head says about a WebSocket handshake (RFC 6455 section 4.2.1). */
typedef struct {
    int said;     /* a bit for each of `required` */
    int spoilt;   /* a header is repeated or unusual, or there may be a body: handshake.py decides */
    PyObject *key; /* borrowed from `values` */
} Handshake;

/* Whether a text equals `expected`, which is in lower case, ignoring case. */
static int
isSame(const char *text, size_t size, const char *expected)
{
    if (size != strlen(expected))
        return 0;
    for (size_t i = 0; i < size; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]) != expected[i])
            return 0;
    return 1;
}

/* Whether a text is 16 bytes in base64. */
static int
isKey(const char *text, size_t size)
{
    if (size != 24 || text[22] != '=' || text[23] != '=')
        return 0;
    for (size_t i = 0; i < 22; i++)
        if (!(kinds[(unsigned char)text[i]] & BASE64))
            return 0;
    return 1;
}

/* Note what a header says about a handshake. */
static void
noteHeader(Handshake *handshake, const char *name, size_t length, const char *value, size_t size, PyObject *text)
{
    static const struct {
        const char *name, *value; /* NULL: not in a plain handshake */
    } required[] = {{"upgrade", "websocket"}, {"connection", "upgrade"}, {"sec-websocket-version", "13"}, {"sec-websocket-key", ""},
                    {"content-length", NULL}, {"transfer-encoding", NULL}};
    for (int i = 0; i < 6; i++) {
        if (!isSame(name, length, required[i].name))
            continue;
        int fits = required[i].value != NULL && (i == KEY ? isKey(value, size) : isSame(value, size, required[i].value));
        if (!fits || handshake->said & 1 << i)
            handshake->spoilt = 1;
        handshake->said |= 1 << i;
        if (i == KEY)
            handshake->key = text;
        return;
    }
}

/* Take one header line (without its CRLF) into `headers` and `values`: 1, 0 for one that is not plain, -1 with an exception. */
static int
takeHeader(const unsigned char *line, size_t size, PyObject *headers, PyObject *values, Handshake *handshake)
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
    if (done)
        noteHeader(handshake, name, length, (const char *)value, (size_t)(end - value), text);
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

/* Take a whole head: 1; 0 if it is not plain; -1 with an exception. */
static int
takeHead(const unsigned char *data, size_t size, PyObject **method, PyObject **target, PyObject *headers, PyObject *values,
         Handshake *handshake)
{
    const unsigned char *line = data, *end = data + size;
    for (;;) {
        const unsigned char *feed = memchr(line, '\n', (size_t)(end - line));
        if (feed == NULL || feed == line || feed[-1] != '\r')
            return 0;
        size_t length = (size_t)(feed - line) - 1;
        if (length == 0)
            return line != data && feed + 1 == end; /* the empty line must be the last */
        int taken =
            line == data ? takeRequestLine(line, length, method, target) : takeHeader(line, length, headers, values, handshake);
        if (taken <= 0)
            return taken;
        line = feed + 1;
    }
}

/* Set the one Host: 1; 0 if there is none, if there are several, or if it is unusual. */
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
    Handshake handshake = {0};
    int taken = -1;
    if (headers != NULL && values != NULL)
        taken = takeHead((const unsigned char *)PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), &method, &target, headers, values,
                         &handshake);
    if (taken == 0 || (taken > 0 && !isHostPlain(values, &host))) {
        found = Py_NewRef(Py_None);
    } else if (taken > 0) {
        PyObject *pairs = PyList_AsTuple(headers);
        if (pairs != NULL) {
            int isPlain = handshake.said == ALL_SAID && !handshake.spoilt && PyUnicode_CompareWithASCIIString(method, "GET") == 0;
            found = PyTuple_Pack(6, method, target, pairs, host, values, isPlain ? handshake.key : Py_None);
            Py_DECREF(pairs);
        }
    }
    Py_XDECREF(method);
    Py_XDECREF(target);
    Py_XDECREF(headers);
    Py_XDECREF(values);
    return found;
}

/* An address of any family that is read here, without access through a pointer of another type. */
typedef union {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
    struct sockaddr_storage whole;
} Address;

/* acceptOne(socket) */
PyObject *
acceptOne(PyObject *module, PyObject *listening)
{
    int port = PyObject_AsFileDescriptor(listening);
    if (port < 0)
        return NULL;
    Address address;
    socklen_t size = sizeof address;
    int fd = accept4(port, &address.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    char text[INET6_ADDRSTRLEN];
    PyObject *found = NULL;
    if (address.any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &address.four.sin_addr, text, sizeof text);
        found = Py_BuildValue("i(si)", fd, text, (int)ntohs(address.four.sin_port));
    } else if (address.any.sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = &address.six;
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

/* isOnLoopback(fileno) */
PyObject *
isOnLoopback(PyObject *module, PyObject *accepted)
{
    int fd = PyObject_AsFileDescriptor(accepted);
    if (fd < 0)
        return NULL;
    Address address;
    socklen_t size = sizeof address;
    if (getsockname(fd, &address.any, &size) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    int found = 0;
    if (address.any.sa_family == AF_INET) {
        found = ntohl(address.four.sin_addr.s_addr) >> 24 == 127;
    } else if (address.any.sa_family == AF_INET6) {
        const struct in6_addr *six = &address.six.sin6_addr;
        found = IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
    }
    return PyBool_FromLong(found);
}
