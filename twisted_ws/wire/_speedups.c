/* The bytes of a message, in C: the same functions as in pure.py, which says what each promises.
 *
 * Everything here works on one caller's buffers with the GIL held, but sendMany, which lets other threads run while the kernel copies.
 * Sockets are non-blocking; nothing here waits.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
    FIN = 0x80,
    MASKED = 0x80,
    TEXT = 1,
    BINARY = 2,
    HEADER_MAX = 10,
    READ_SIZE = 256 * 1024,
};

/* One buffer for all reads: between a recv and the end of the call that made it, nobody else runs. */
static unsigned char *readBuffer;

/* XOR `length` bytes with the mask, which begins with its first byte. */
static void
applyMask(unsigned char *data, size_t length, const unsigned char mask[4])
{
    uint32_t word32;
    memcpy(&word32, mask, 4);
    uint64_t word = (uint64_t)word32 << 32 | word32;
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t chunk;
        memcpy(&chunk, data + i, 8);
        chunk ^= word;
        memcpy(data + i, &chunk, 8);
    }
    for (; i < length; i++)
        data[i] ^= mask[i & 3];
}

/* Write the header of an unmasked frame; return its length. */
static int
writeHeader(unsigned char header[HEADER_MAX], int first, uint64_t length)
{
    header[0] = (unsigned char)first;
    if (length < 126) {
        header[1] = (unsigned char)length;
        return 2;
    }
    if (length < 65536) {
        header[1] = 126;
        header[2] = (unsigned char)(length >> 8);
        header[3] = (unsigned char)length;
        return 4;
    }
    header[1] = 127;
    for (int i = 0; i < 8; i++)
        header[2 + i] = (unsigned char)(length >> (56 - 8 * i));
    return 10;
}

/* The common frame at `data`: whole, FIN, no RSV, text or binary, masked, length minimal and within `maximum`.
 * Return the length of its header and set `*payload` to the payload's; 0 for anything else. */
static int
commonFrame(const unsigned char *data, size_t size, size_t maximum, size_t *payload)
{
    if (size < 6 || (data[0] != (FIN | TEXT) && data[0] != (FIN | BINARY)) || !(data[1] & MASKED))
        return 0;
    int header = 6;
    uint64_t length = data[1] & 0x7f;
    if (length == 126) {
        length = (uint64_t)data[2] << 8 | data[3];
        header = 8;
        if (size < 8 || length < 126)
            return 0;
    } else if (length == 127) {
        if (size < 14)
            return 0;
        length = 0;
        for (int i = 2; i < 10; i++)
            length = length << 8 | data[i];
        header = 14;
        if (length < 65536 || length >> 63)
            return 0;
    }
    if (length > maximum || length > size - (size_t)header)
        return 0;
    *payload = (size_t)length;
    return header;
}

/* Take the common frames at the head of `data`, which is ours to change; append their messages to `messages`.
 * Return how many bytes were taken, -1 with an exception. What is not taken is as it was. */
static Py_ssize_t
takeFrames(unsigned char *data, size_t size, size_t maximum, PyObject *messages)
{
    size_t position = 0, length;
    int header;
    while ((header = commonFrame(data + position, size - position, maximum, &length)) != 0) {
        unsigned char *payload = data + position + header;
        const unsigned char *mask = payload - 4;
        PyObject *message;
        applyMask(payload, length, mask);
        if (data[position] == (FIN | TEXT)) {
            message = PyUnicode_DecodeUTF8((const char *)payload, (Py_ssize_t)length, "strict");
            if (message == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                /* Not ours to judge: the one who does gets it as it came. */
                PyErr_Clear();
                applyMask(payload, length, mask);
                break;
            }
        } else {
            message = PyBytes_FromStringAndSize((const char *)payload, (Py_ssize_t)length);
        }
        if (message == NULL)
            return -1;
        int failed = PyList_Append(messages, message);
        Py_DECREF(message);
        if (failed)
            return -1;
        position += (size_t)header + length;
    }
    return (Py_ssize_t)position;
}

static PyObject *
split(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "split(data, maximum)");
        return NULL;
    }
    size_t maximum = PyLong_AsSize_t(args[1]);
    if (maximum == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *messages = PyList_New(0), *result = NULL;
    unsigned char *copy = PyMem_Malloc(data.len ? (size_t)data.len : 1);
    if (copy == NULL)
        PyErr_NoMemory();
    if (messages != NULL && copy != NULL) {
        memcpy(copy, data.buf, (size_t)data.len);
        Py_ssize_t taken = takeFrames(copy, (size_t)data.len, maximum, messages);
        if (taken >= 0)
            result = Py_BuildValue("(On)", messages, taken);
    }
    PyMem_Free(copy);
    Py_XDECREF(messages);
    PyBuffer_Release(&data);
    return result;
}

static PyObject *
readFrames(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "readFrames(fileno, maximum)");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    size_t maximum = PyLong_AsSize_t(args[1]);
    if (maximum == (size_t)-1 && PyErr_Occurred())
        return NULL;
    ssize_t size = recv((int)fd, readBuffer, READ_SIZE, MSG_DONTWAIT);
    if (size < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            Py_RETURN_NONE;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (size == 0)
        return PyBytes_FromStringAndSize(NULL, 0);
    PyObject *messages = PyList_New(0), *rest, *result;
    if (messages == NULL)
        return NULL;
    Py_ssize_t taken = takeFrames(readBuffer, (size_t)size, maximum, messages);
    if (taken == size)
        return messages;
    if (taken < 0) {
        Py_DECREF(messages);
        return NULL;
    }
    rest = PyBytes_FromStringAndSize((const char *)readBuffer + taken, size - taken);
    if (rest == NULL || taken == 0) {
        Py_DECREF(messages);
        return rest;
    }
    result = PyTuple_Pack(2, messages, rest);
    Py_DECREF(messages);
    Py_DECREF(rest);
    return result;
}

/* sendFrame(fileno, first, payload): str is sent as its UTF-8. None when the kernel took all, else what it did not take. */
static PyObject *
sendFrame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "sendFrame(fileno, first, payload)");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    long first = PyLong_AsLong(args[1]);
    if (first == -1 && PyErr_Occurred())
        return NULL;
    const char *payload;
    Py_ssize_t length;
    if (PyUnicode_Check(args[2])) {
        payload = PyUnicode_AsUTF8AndSize(args[2], &length);
        if (payload == NULL)
            return NULL;
    } else if (PyBytes_Check(args[2])) {
        payload = PyBytes_AS_STRING(args[2]);
        length = PyBytes_GET_SIZE(args[2]);
    } else {
        PyErr_SetString(PyExc_TypeError, "the payload must be str or bytes");
        return NULL;
    }
    unsigned char header[HEADER_MAX];
    int size = writeHeader(header, (int)first, (uint64_t)length);
    struct iovec parts[2] = {{header, (size_t)size}, {(void *)payload, (size_t)length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t sent = sendmsg((int)fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == size + length)
        Py_RETURN_NONE;
    if (sent < 0)
        sent = 0; /* an error shows again, and is told, when the transport sends the rest */
    PyObject *rest = PyBytes_FromStringAndSize(NULL, size + length - sent);
    if (rest == NULL)
        return NULL;
    char *bytes = PyBytes_AS_STRING(rest);
    if (sent < size) {
        memcpy(bytes, header + sent, (size_t)(size - sent));
        if (length)
            memcpy(bytes + (size - sent), payload, (size_t)length);
    } else {
        memcpy(bytes, payload + (sent - size), (size_t)(length - (sent - size)));
    }
    return rest;
}

static PyObject *
sendMany(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "sendMany(filenos, data)");
        return NULL;
    }
    PyObject *filenos = PySequence_Fast(args[0], "filenos must be a sequence");
    if (filenos == NULL)
        return NULL;
    Py_ssize_t number = PySequence_Fast_GET_SIZE(filenos);
    int *fds = PyMem_Malloc((number ? (size_t)number : 1) * sizeof *fds);
    if (fds == NULL) {
        Py_DECREF(filenos);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < number; i++) {
        long fd = PyLong_AsLong(PySequence_Fast_GET_ITEM(filenos, i));
        if (fd == -1 && PyErr_Occurred()) {
            PyMem_Free(fds);
            Py_DECREF(filenos);
            return NULL;
        }
        fds[i] = (int)fd;
    }
    Py_DECREF(filenos);
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) {
        PyMem_Free(fds);
        return NULL;
    }
    Py_ssize_t *sent = PyMem_Malloc((number ? (size_t)number : 1) * sizeof *sent);
    if (sent == NULL) {
        PyMem_Free(fds);
        PyBuffer_Release(&data);
        return PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < number; i++) {
        ssize_t n = send(fds[i], data.buf, (size_t)data.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent[i] = n < 0 ? 0 : n;
    }
    Py_END_ALLOW_THREADS
    PyObject *behind = PyList_New(0);
    for (Py_ssize_t i = 0; behind != NULL && i < number; i++) {
        if (sent[i] == data.len)
            continue;
        PyObject *pair = Py_BuildValue("(nn)", i, sent[i]);
        if (pair == NULL || PyList_Append(behind, pair) < 0)
            Py_CLEAR(behind);
        Py_XDECREF(pair);
    }
    PyMem_Free(sent);
    PyMem_Free(fds);
    PyBuffer_Release(&data);
    return behind;
}

static PyMethodDef methods[] = {
    {"split", (PyCFunction)(void (*)(void))split, METH_FASTCALL, NULL},
    {"readFrames", (PyCFunction)(void (*)(void))readFrames, METH_FASTCALL, NULL},
    {"sendFrame", (PyCFunction)(void (*)(void))sendFrame, METH_FASTCALL, NULL},
    {"sendMany", (PyCFunction)(void (*)(void))sendMany, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_speedups", "See pure.py.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    readBuffer = PyMem_Malloc(READ_SIZE);
    if (readBuffer == NULL)
        return PyErr_NoMemory();
    return PyModule_Create(&definition);
}
