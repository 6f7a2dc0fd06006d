/* The bytes of a message, in C: the same functions as in pure.py, which says what each promises.
 *
 * Everything here works on one caller's buffers with the GIL held, but sendMany, which lets other threads run while the kernel copies.
 * Sockets are non-blocking; nothing here waits.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <limits.h>
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
    SMALL = 2048,
};

/* OpenSSL's functions, by the addresses that `useOpenSSL` was given: this part is not linked to any OpenSSL, and works on the
 * connections of the one that pyOpenSSL uses. */
static int (*tlsRead)(void *, void *, int);
static int (*tlsWrite)(void *, const void *, int);
static int (*tlsGetError)(const void *, int);
static void (*tlsClearErrors)(void);

enum {
    TLS_WANT_READ = 2,
    TLS_WANT_WRITE = 3,
    TLS_ZERO_RETURN = 6,
    TLS_RECORD = 16 * 1024, /* the most that one record carries (RFC 8446 section 5.1) */
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

/* What `readFrames` returns for the first `size` bytes of the read buffer; no frame is taken with a negative `maximum`. */
static PyObject *
whatCame(Py_ssize_t size, Py_ssize_t maximum)
{
    if (size == 0 || maximum < 0)
        return PyBytes_FromStringAndSize((const char *)readBuffer, size);
    PyObject *messages = PyList_New(0), *rest, *result;
    if (messages == NULL)
        return NULL;
    Py_ssize_t taken = takeFrames(readBuffer, (size_t)size, (size_t)maximum, messages);
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
    Py_ssize_t maximum = PyLong_AsSsize_t(args[1]);
    if (maximum == -1 && PyErr_Occurred())
        return NULL;
    ssize_t size = recv((int)fd, readBuffer, READ_SIZE, MSG_DONTWAIT);
    if (size < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            Py_RETURN_NONE;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return whatCame(size, maximum);
}

/* Find the bytes of a str, as UTF-8, or of bytes; 0 with an exception for anything else. They are the object's own. */
static int
payloadOf(PyObject *object, const char **payload, Py_ssize_t *length)
{
    if (PyUnicode_Check(object)) {
        *payload = PyUnicode_AsUTF8AndSize(object, length);
        return *payload != NULL;
    }
    if (PyBytes_Check(object)) {
        *payload = PyBytes_AS_STRING(object);
        *length = PyBytes_GET_SIZE(object);
        return 1;
    }
    PyErr_SetString(PyExc_TypeError, "the payload must be str or bytes");
    return 0;
}

/* Send one frame by a descriptor. None when the kernel took all, else what it did not take. */
static PyObject *
sendPlain(int fd, int first, const char *payload, Py_ssize_t length)
{
    unsigned char frame[HEADER_MAX + SMALL];
    int size = writeHeader(frame, first, (uint64_t)length);
    ssize_t sent;
    if (length <= SMALL) {
        /* To copy a small payload costs less than to have the kernel gather it. */
        memcpy(frame + size, payload, (size_t)length);
        sent = send(fd, frame, (size_t)(size + length), MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        struct iovec parts[2] = {{frame, (size_t)size}, {(void *)payload, (size_t)length}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (sent == size + length)
        Py_RETURN_NONE;
    if (sent < 0)
        sent = 0; /* an error shows again, and is told, when the transport sends the rest */
    PyObject *rest = PyBytes_FromStringAndSize(NULL, size + length - sent);
    if (rest == NULL)
        return NULL;
    char *bytes = PyBytes_AS_STRING(rest);
    if (sent < size) {
        memcpy(bytes, frame + sent, (size_t)(size - sent));
        if (length)
            memcpy(bytes + (size - sent), payload, (size_t)length);
    } else {
        memcpy(bytes, payload + (sent - size), (size_t)(length - (sent - size)));
    }
    return rest;
}

/* Send `length` bytes by TLS, record by record. Return how many went; where none did, the error of OpenSSL as a negative number, or
 * 0 if the socket is full. What did not go must come again, first, and at least as much of it (SSL_write). */
static Py_ssize_t
tlsSend(void *ssl, const char *data, Py_ssize_t length)
{
    Py_ssize_t sent = 0;
    while (sent < length) {
        Py_ssize_t left = length - sent;
        int n = tlsWrite(ssl, data + sent, left > INT_MAX ? INT_MAX : (int)left);
        if (n <= 0) {
            int error = tlsGetError(ssl, n);
            tlsClearErrors();
            if (sent == 0 && error != TLS_WANT_WRITE)
                return -error;
            break;
        }
        sent += n;
    }
    return sent;
}

/* Send one frame by TLS, as sendPlain does. */
static PyObject *
sendSecure(void *ssl, int first, const char *payload, Py_ssize_t length)
{
    /* One record wants its bytes in one piece. */
    char *frame = (char *)readBuffer;
    PyObject *large = NULL;
    if (length > READ_SIZE - HEADER_MAX) {
        large = PyBytes_FromStringAndSize(NULL, HEADER_MAX + length);
        if (large == NULL)
            return NULL;
        frame = PyBytes_AS_STRING(large);
    }
    Py_ssize_t size = writeHeader((unsigned char *)frame, first, (uint64_t)length);
    memcpy(frame + size, payload, (size_t)length);
    size += length;
    Py_ssize_t sent = tlsSend(ssl, frame, size);
    if (sent < 0)
        sent = 0;
    PyObject *rest = sent == size ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize(frame + sent, size - sent);
    Py_XDECREF(large);
    return rest;
}

/* Sender: what is needed to send a frame straight out on one connection. */
typedef struct {
    PyObject_HEAD
    Py_ssize_t handle; /* the descriptor, or the address of OpenSSL's connection, whose owner keeps it alive */
    double lastData;
    long long written;
    char secure;
    char open;
    char waiting;
} Sender;

static PyTypeObject SenderType;

static PyMemberDef senderMembers[] = {
    {"handle", T_PYSSIZET, offsetof(Sender, handle), 0, NULL},
    {"lastData", T_DOUBLE, offsetof(Sender, lastData), 0, NULL},
    {"written", T_LONGLONG, offsetof(Sender, written), 0, NULL},
    {"secure", T_BOOL, offsetof(Sender, secure), 0, NULL},
    {"open", T_BOOL, offsetof(Sender, open), 0, NULL},
    {"waiting", T_BOOL, offsetof(Sender, waiting), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* Whether a frame can go out now; if so, note that it does. */
static int
goesNow(Sender *sender, double now)
{
    if (!sender->open || sender->waiting || (sender->secure && tlsWrite == NULL))
        return 0;
    sender->lastData = now;
    sender->written++;
    return 1;
}

/* send(first, payload, now) */
static PyObject *
senderSend(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Sender *sender = (Sender *)self;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "send(first, payload, now)");
        return NULL;
    }
    long first = PyLong_AsLong(args[0]);
    if (first == -1 && PyErr_Occurred())
        return NULL;
    const char *payload;
    Py_ssize_t length;
    if (!payloadOf(args[1], &payload, &length))
        return NULL;
    double now = PyFloat_AsDouble(args[2]);
    if (now == -1 && PyErr_Occurred())
        return NULL;
    if (!goesNow(sender, now))
        Py_RETURN_FALSE;
    return sender->secure ? sendSecure((void *)sender->handle, (int)first, payload, length)
                          : sendPlain((int)sender->handle, (int)first, payload, length);
}

static PyMethodDef senderMethods[] = {
    {"send", (PyCFunction)(void (*)(void))senderSend, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject SenderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "twisted_ws.wire._speedups.Sender",
    .tp_basicsize = sizeof(Sender),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_members = senderMembers,
    .tp_methods = senderMethods,
};

/* sendMany(senders, data, now) */
static PyObject *
sendMany(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    typedef struct {
        Py_ssize_t handle, sent;
        char secure, goes;
    } Target;
    Py_buffer data;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "sendMany(senders, data, now)");
        return NULL;
    }
    double now = PyFloat_AsDouble(args[2]);
    if (now == -1 && PyErr_Occurred())
        return NULL;
    PyObject *senders = PySequence_Fast(args[0], "senders must be a sequence");
    if (senders == NULL)
        return NULL;
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) {
        Py_DECREF(senders);
        return NULL;
    }
    Py_ssize_t number = PySequence_Fast_GET_SIZE(senders);
    Target *targets = PyMem_Malloc((number ? (size_t)number : 1) * sizeof *targets);
    PyObject *behind = NULL;
    if (targets == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < number; i++) {
        PyObject *each = PySequence_Fast_GET_ITEM(senders, i);
        if (!Py_IS_TYPE(each, &SenderType)) {
            PyErr_SetString(PyExc_TypeError, "each must be a Sender");
            goto done;
        }
    }
    for (Py_ssize_t i = 0; i < number; i++) {
        Sender *sender = (Sender *)PySequence_Fast_GET_ITEM(senders, i);
        targets[i] = (Target){sender->handle, -1, sender->secure, (char)goesNow(sender, now)};
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < number; i++) {
        Target *target = &targets[i];
        if (!target->goes)
            continue;
        ssize_t n = target->secure ? tlsSend((void *)target->handle, data.buf, data.len)
                                   : send((int)target->handle, data.buf, (size_t)data.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        target->sent = n < 0 ? 0 : n;
    }
    Py_END_ALLOW_THREADS
    behind = PyList_New(0);
    for (Py_ssize_t i = 0; behind != NULL && i < number; i++) {
        if (targets[i].sent == data.len)
            continue;
        PyObject *pair = Py_BuildValue("(nn)", i, targets[i].sent);
        if (pair == NULL || PyList_Append(behind, pair) < 0)
            Py_CLEAR(behind);
        Py_XDECREF(pair);
    }
done:
    PyMem_Free(targets);
    PyBuffer_Release(&data);
    Py_DECREF(senders);
    return behind;
}

/* TLS. A connection is the address of OpenSSL's object, whose owner keeps it alive. */

static PyObject *
useOpenSSL(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "useOpenSSL(read, write, getError, clearErrors)");
        return NULL;
    }
    uintptr_t addresses[4];
    for (int i = 0; i < 4; i++) {
        addresses[i] = (uintptr_t)PyLong_AsSize_t(args[i]);
        if (addresses[i] == (uintptr_t)-1 && PyErr_Occurred())
            return NULL;
    }
    tlsRead = (int (*)(void *, void *, int))addresses[0];
    tlsWrite = (int (*)(void *, const void *, int))addresses[1];
    tlsGetError = (int (*)(const void *, int))addresses[2];
    tlsClearErrors = (void (*)(void))addresses[3];
    Py_RETURN_NONE;
}

/* The connection that an argument names, NULL with an exception. */
static void *
tlsConnection(PyObject *object)
{
    void *ssl = (void *)PyLong_AsSize_t(object);
    if (ssl == (void *)-1 && PyErr_Occurred())
        return NULL;
    if (ssl == NULL || tlsRead == NULL)
        PyErr_SetString(PyExc_ValueError, "no connection, or useOpenSSL was not called");
    return tlsRead == NULL ? NULL : ssl;
}

/* tlsReadFrames(connection, maximum): as readFrames; an int is OpenSSL's error, whose reason is still in its queue. */
static PyObject *
tlsReadFrames(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "tlsReadFrames(connection, maximum)");
        return NULL;
    }
    void *ssl = tlsConnection(args[0]);
    if (ssl == NULL)
        return NULL;
    Py_ssize_t maximum = PyLong_AsSsize_t(args[1]);
    if (maximum == -1 && PyErr_Occurred())
        return NULL;
    /* A record is read whole, or its rest would stay in OpenSSL, of which no poll tells. After a full one more is on its way. */
    int size = 0, n;
    do {
        n = tlsRead(ssl, readBuffer + size, READ_SIZE - size);
        if (n > 0)
            size += n;
    } while (n == TLS_RECORD && READ_SIZE - size >= TLS_RECORD);
    if (n <= 0) {
        int error = tlsGetError(ssl, n);
        if (size == 0 && error == TLS_WANT_READ)
            Py_RETURN_NONE;
        if (size == 0 && error != TLS_ZERO_RETURN)
            return PyLong_FromLong(error);
        tlsClearErrors(); /* it shows again at the next read */
    }
    return whatCame(size, maximum);
}

/* tlsWriteSome(connection, data): how many bytes went, or a negative error; see tlsSend. */
static PyObject *
tlsWriteSome(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "tlsWriteSome(connection, data)");
        return NULL;
    }
    void *ssl = tlsConnection(args[0]);
    if (ssl == NULL || PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t sent = tlsSend(ssl, data.buf, data.len);
    PyBuffer_Release(&data);
    return PyLong_FromSsize_t(sent);
}

static PyMethodDef methods[] = {
    {"split", (PyCFunction)(void (*)(void))split, METH_FASTCALL, NULL},
    {"readFrames", (PyCFunction)(void (*)(void))readFrames, METH_FASTCALL, NULL},
    {"sendMany", (PyCFunction)(void (*)(void))sendMany, METH_FASTCALL, NULL},
    {"useOpenSSL", (PyCFunction)(void (*)(void))useOpenSSL, METH_FASTCALL, NULL},
    {"tlsReadFrames", (PyCFunction)(void (*)(void))tlsReadFrames, METH_FASTCALL, NULL},
    {"tlsWriteSome", (PyCFunction)(void (*)(void))tlsWriteSome, METH_FASTCALL, NULL},
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
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyType_Ready(&SenderType) < 0 || PyModule_AddObjectRef(module, "Sender", (PyObject *)&SenderType) < 0)
        return NULL;
    return module;
}
