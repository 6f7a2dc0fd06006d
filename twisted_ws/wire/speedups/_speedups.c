/* The bytes of a message, in C: the same functions as in pure.py, which documents what each promises.
 *
 * Sockets are non-blocking; nothing here waits, and the GIL is never released. Yet other code runs in the middle of a function
 * here: any allocation of an object that the garbage collector tracks may run the collector, and with it a finaliser; any
 * Py_DECREF may run one; and both may write to any connection, close it, or accept another. Every allocation may raise
 * MemoryError. So:
 *
 * - What a connection has done is noted before any of that can happen. How much of a frame the kernel has taken is noted in
 *   its Sender, without an allocation.
 * - No pointer into `readBuffer` or into the table of a PollSet is used after any of that may have happened.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "_head.h"

enum {
    FIN = 0x80,
    MASKED = 0x80,
    TEXT = 1,
    BINARY = 2,
    HEADER_MAX = 10,
    READ_SIZE = 256 * 1024,
    SMALL = 2048,
};

/* OpenSSL's functions, by the addresses that `useOpenSSL` was given: this part is not linked to any OpenSSL, and works on
 * connections of the one that pyOpenSSL uses. */
static int (*tlsRead)(void *, void *, int);
static int (*tlsWrite)(void *, const void *, int);
static int (*tlsGetError)(const void *, int);
static unsigned long (*tlsPeekError)(void);
static void (*tlsClearErrors)(void);
static void (*tlsSetShutdown)(void *, int);
static int tlsMost = INT_MAX;  /* messages of TLS itself in one read */
static int tlsLeft = INT_MAX;  /* how many are left during a read; not counted at other times */

/* Seconds from one turn of the reactor to the next; see mayHaveMore. */
static const double SOON = 0.02;

enum {
    TLS_WANT_READ = 2,
    TLS_WANT_WRITE = 3,
    TLS_ZERO_RETURN = 6,
    ALONE = 7, /* see mayHaveMore */
    TLS_RECORD = 16 * 1024, /* the most that one record carries (RFC 8446 section 5.1) */
    TLS_LOOP = 1,           /* SSL_CB_LOOP: a step of the state machine */
    TLS_ALERT = 0x4000,     /* SSL_CB_ALERT */
    TLS_SHUT = 3,           /* SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN */
    TLS_TOO_MANY = 1000,    /* not an error of OpenSSL, but ours: see countMessage */
};

/* One buffer for all reads. What reads into it makes str and bytes (which the collector does not track) of all that came, before
 * anything else. */
static unsigned char *readBuffer;

/* Send without waiting. In a process with threads, the C library surrounds its own `send` with two calls, for when one thread
 * cancels another; that never happens to a thread of Python's. */
static ssize_t
sendNow(int fd, const void *data, size_t size)
{
#ifdef SYS_sendto
    return syscall(SYS_sendto, fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
#else
    return send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
#endif
}

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

/* The ordinary frame at `data`: whole, FIN, no RSV, text or binary, masked, length minimal and within `maximum`.
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

/* Whether a str has a surrogate. A str decoded from UTF-8 has one for each invalid byte, and no other. */
static int
hasSurrogates(PyObject *text)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    uint32_t found = 0;
    switch (PyUnicode_KIND(text)) {
    case PyUnicode_2BYTE_KIND:
        for (const Py_UCS2 *c = PyUnicode_2BYTE_DATA(text), *end = c + length; c < end; c++)
            found |= (*c & 0xF800) == 0xD800;
        break;
    case PyUnicode_4BYTE_KIND:
        for (const Py_UCS4 *c = PyUnicode_4BYTE_DATA(text), *end = c + length; c < end; c++)
            found |= (*c & 0xFFFFF800) == 0xD800;
        break;
    default:
        break;
    }
    return found != 0;
}

/* Take the ordinary frame at the start of `data`, which is ours to change, and set `*message` to its message.
 * Return how many bytes it has; 0 if there is none, with `data` unchanged; -1 with an exception. No other code runs. */
static Py_ssize_t
takeFrame(unsigned char *data, size_t size, size_t maximum, PyObject **message)
{
    size_t length;
    int header = commonFrame(data, size, maximum, &length);
    if (header == 0)
        return 0;
    unsigned char *payload = data + header;
    const unsigned char *mask = payload - 4;
    applyMask(payload, length, mask);
    if (data[0] == (FIN | TEXT)) {
        /* Not "strict": creating its exception may run the collector, and `data` may be the buffer of all reads. */
        *message = PyUnicode_DecodeUTF8((const char *)payload, (Py_ssize_t)length, "surrogateescape");
        if (*message != NULL && hasSurrogates(*message)) {
            /* Not for us to judge: Autobahn gets it as it came. */
            Py_CLEAR(*message);
            applyMask(payload, length, mask);
            return 0;
        }
    } else {
        *message = PyBytes_FromStringAndSize((const char *)payload, (Py_ssize_t)length);
    }
    return *message == NULL ? -1 : header + (Py_ssize_t)length;
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
    PyObject *messages = PyList_New(0), *result = NULL, *message;
    unsigned char *copy = PyMem_Malloc(data.len ? (size_t)data.len : 1);
    if (copy == NULL)
        PyErr_NoMemory();
    if (messages != NULL && copy != NULL) {
        memcpy(copy, data.buf, (size_t)data.len);
        Py_ssize_t position = 0, taken;
        while ((taken = takeFrame(copy + position, (size_t)(data.len - position), maximum, &message)) > 0) {
            int failed = PyList_Append(messages, message);
            Py_DECREF(message);
            if (failed) {
                taken = -1;
                break;
            }
            position += taken;
        }
        if (taken == 0)
            result = Py_BuildValue("(On)", messages, position);
    }
    PyMem_Free(copy);
    Py_XDECREF(messages);
    PyBuffer_Release(&data);
    return result;
}

/* readSome(fileno) */
static PyObject *
readSome(PyObject *module, PyObject *fileno)
{
    long fd = PyLong_AsLong(fileno);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    ssize_t size = recv(fd < 0 || fd > INT_MAX ? -1 : (int)fd, readBuffer, READ_SIZE, MSG_DONTWAIT);
    if (size >= 0)
        return PyBytes_FromStringAndSize((const char *)readBuffer, size);
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* Find the bytes of a str, as UTF-8, or of bytes; 0 with an exception for anything else. They belong to the object. */
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

/* Send one frame on a descriptor, and return how many bytes of it the kernel took. */
static Py_ssize_t
sendPlain(int fd, const unsigned char *header, size_t size, const char *payload, size_t length)
{
    ssize_t sent;
    if (length <= SMALL) {
        /* Copying a small payload costs less than having the kernel gather it. */
        unsigned char frame[HEADER_MAX + SMALL];
        memcpy(frame, header, size);
        memcpy(frame + size, payload, length);
        sent = sendNow(fd, frame, size + length);
    } else {
        struct iovec parts[2] = {{(void *)header, size}, {(void *)payload, length}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return sent < 0 ? 0 : sent; /* an error occurs again, and is reported, when the transport sends the rest */
}

/* Empty OpenSSL's queue of errors: what another connection has left there would be taken for this one's. That is rare, and
 * clearing an empty queue takes five times as long as looking. */
static void
tlsForgetErrors(void)
{
    if (tlsPeekError())
        tlsClearErrors();
}

/* Send `length` bytes with TLS, record by record. Return how many were sent; if none, OpenSSL's error as a negative number, or
 * 0 if the socket is full. What was not sent must be passed again, first, and at least as much of it (SSL_write). */
static Py_ssize_t
tlsSend(void *ssl, const char *data, Py_ssize_t length)
{
    Py_ssize_t sent = 0;
    tlsForgetErrors();
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

/* Send one frame with TLS, as sendPlain does. */
static Py_ssize_t
sendSecure(void *ssl, const unsigned char *header, size_t size, const char *payload, size_t length)
{
    /* A record needs its bytes in one piece: the first gets the header and what fits with it. */
    char record[TLS_RECORD];
    size_t first = length < TLS_RECORD - size ? length : TLS_RECORD - size;
    memcpy(record, header, size);
    memcpy(record + size, payload, first);
    Py_ssize_t sent = tlsSend(ssl, record, (Py_ssize_t)(size + first));
    if (sent == (Py_ssize_t)(size + first) && first < length) {
        Py_ssize_t more = tlsSend(ssl, payload + first, (Py_ssize_t)(length - first));
        sent += more < 0 ? 0 : more;
    }
    return sent < 0 ? 0 : sent;
}

/* Sender: sends frames directly on one connection. */
typedef struct {
    PyObject_HEAD
    size_t handle; /* the descriptor, or the address of OpenSSL's connection, whose owner keeps it alive */
    double lastData;
    long long written;
    PyObject *payload; /* of the frame that was begun, str or bytes; NULL: none was, or the outbox has the rest */
    Py_ssize_t sent;   /* how many bytes of that frame were sent, including its header */
    unsigned char header[HEADER_MAX];
    unsigned char headerSize; /* 0: `payload` is the whole frame */
    char secure;
    char open;
    char waiting;
    unsigned char alone; /* this many of the next TLS records are assumed to come alone */
} Sender;

static PyTypeObject SenderType;

static PyMemberDef senderMembers[] = {
    {"handle", sizeof(size_t) == sizeof(long long) ? T_ULONGLONG : T_ULONG, offsetof(Sender, handle), 0, NULL},
    {"lastData", T_DOUBLE, offsetof(Sender, lastData), 0, NULL},
    {"written", T_LONGLONG, offsetof(Sender, written), 0, NULL},
    {"secure", T_BOOL, offsetof(Sender, secure), 0, NULL},
    {"open", T_BOOL, offsetof(Sender, open), 0, NULL},
    {"waiting", T_BOOL, offsetof(Sender, waiting), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* The descriptor of a sender without TLS; -1, with which every call fails, if it is not one. */
static int
descriptorOf(const Sender *sender)
{
    return sender->handle > INT_MAX ? -1 : (int)sender->handle;
}

/* Whether a frame can be sent now; if so, note that it is. */
static int
goesNow(Sender *sender, double now)
{
    if (!sender->open || sender->waiting || sender->payload != NULL || (sender->secure && tlsWrite == NULL))
        return 0;
    sender->lastData = now;
    sender->written++;
    return 1;
}

/* Note a frame that was begun, before any other code can run: nothing here allocates. */
static void
noteBegun(Sender *sender, const unsigned char *header, int size, PyObject *payload, Py_ssize_t sent)
{
    memcpy(sender->header, header, (size_t)size);
    sender->headerSize = (unsigned char)size;
    sender->sent = sent;
    sender->payload = Py_NewRef(payload);
}

/* send(first, payload, now) */
static PyObject *
senderSend(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Sender *sender = (Sender *)self;
    unsigned char header[HEADER_MAX];
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "send(first, payload, now)");
        return NULL;
    }
    long first = PyLong_AsLong(args[0]);
    if (first == -1 && PyErr_Occurred())
        return NULL;
    if (first < 0 || first > UCHAR_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the first byte is not a byte");
        return NULL;
    }
    const char *payload;
    Py_ssize_t length;
    if (!payloadOf(args[1], &payload, &length))
        return NULL;
    double now = PyFloat_AsDouble(args[2]);
    if (now == -1 && PyErr_Occurred())
        return NULL;
    if (!goesNow(sender, now))
        Py_RETURN_FALSE;
    int size = writeHeader(header, (int)first, (uint64_t)length);
    Py_ssize_t sent = sender->secure ? sendSecure((void *)sender->handle, header, (size_t)size, payload, (size_t)length)
                                     : sendPlain(descriptorOf(sender), header, (size_t)size, payload, (size_t)length);
    if (sent == size + length)
        Py_RETURN_NONE;
    noteBegun(sender, header, size, args[1], sent);
    Py_RETURN_TRUE;
}

/* rest() */
static PyObject *
senderRest(PyObject *self, PyObject *nothing)
{
    Sender *sender = (Sender *)self;
    const char *payload;
    Py_ssize_t length;
    if (sender->payload == NULL)
        Py_RETURN_NONE;
    if (!payloadOf(sender->payload, &payload, &length))
        return NULL;
    Py_ssize_t size = sender->headerSize, sent = sender->sent;
    PyObject *rest = PyBytes_FromStringAndSize(NULL, size + length - sent);
    if (rest == NULL)
        return NULL;
    char *bytes = PyBytes_AS_STRING(rest);
    if (sent < size) {
        memcpy(bytes, sender->header + sent, (size_t)(size - sent));
        bytes += size - sent;
        sent = size;
    }
    memcpy(bytes, payload + (sent - size), (size_t)(length - (sent - size)));
    return rest;
}

/* restNoted() */
static PyObject *
senderRestNoted(PyObject *self, PyObject *nothing)
{
    Py_CLEAR(((Sender *)self)->payload);
    Py_RETURN_NONE;
}

static PyObject *
senderBegun(PyObject *self, void *closure)
{
    return PyBool_FromLong(((Sender *)self)->payload != NULL);
}

static void
senderDealloc(PyObject *self)
{
    Py_XDECREF(((Sender *)self)->payload);
    Py_TYPE(self)->tp_free(self);
}

static PyGetSetDef senderProperties[] = {
    {"begun", senderBegun, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef senderMethods[] = {
    {"send", (PyCFunction)(void (*)(void))senderSend, METH_FASTCALL, NULL},
    {"rest", senderRest, METH_NOARGS, NULL},
    {"restNoted", senderRestNoted, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Not tracked by the collector: it can only hold a str or bytes. */
static PyTypeObject SenderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "twisted_ws.wire.speedups._speedups.Sender",
    .tp_basicsize = sizeof(Sender),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = senderDealloc,
    .tp_members = senderMembers,
    .tp_getset = senderProperties,
    .tp_methods = senderMethods,
};

/* sendMany(senders, data, now) */
static PyObject *
sendMany(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    enum { WHOLE, BEGUN, NOT_THIS_WAY };
    if (count != 3 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "sendMany(senders, bytes, now)");
        return NULL;
    }
    const char *data = PyBytes_AS_STRING(args[1]);
    Py_ssize_t length = PyBytes_GET_SIZE(args[1]);
    double now = PyFloat_AsDouble(args[2]);
    if (now == -1 && PyErr_Occurred())
        return NULL;
    PyObject *senders = PySequence_Fast(args[0], "senders must be a sequence");
    if (senders == NULL)
        return NULL;
    Py_ssize_t number = PySequence_Fast_GET_SIZE(senders), behind = 0;
    for (Py_ssize_t i = 0; i < number; i++) {
        if (!Py_IS_TYPE(PySequence_Fast_GET_ITEM(senders, i), &SenderType)) {
            PyErr_SetString(PyExc_TypeError, "each must be a Sender");
            Py_DECREF(senders);
            return NULL;
        }
    }
    /* Allocated before anything is sent: from there on, nothing can fail, and no other code runs. */
    PyObject *outcomes = PyBytes_FromStringAndSize(NULL, number);
    if (outcomes == NULL) {
        Py_DECREF(senders);
        return NULL;
    }
    char *outcome = PyBytes_AS_STRING(outcomes);
    for (Py_ssize_t i = 0; i < number; i++) {
        Sender *sender = (Sender *)PySequence_Fast_GET_ITEM(senders, i);
        outcome[i] = WHOLE;
        if (!goesNow(sender, now)) {
            outcome[i] = NOT_THIS_WAY;
            behind++;
            continue;
        }
        Py_ssize_t sent = sender->secure ? tlsSend((void *)sender->handle, data, length)
                                         : sendNow(descriptorOf(sender), data, (size_t)length);
        if (sent == length)
            continue;
        noteBegun(sender, (const unsigned char *)data, 0, args[1], sent < 0 ? 0 : sent);
        outcome[i] = BEGUN;
        behind++;
    }
    Py_DECREF(senders);
    if (behind)
        return outcomes;
    Py_DECREF(outcomes);
    Py_RETURN_NONE;
}

/* TLS. A connection is the address of OpenSSL's object, whose owner keeps it alive. */

/* Count a message of TLS itself. OpenSSL takes all that have come within one SSL_read; made to believe that TLS has ended, it
 * takes no more. Called by OpenSSL; no other code runs. */
static void
countMessage(const void *ssl, int where, int value)
{
    if (where & (TLS_LOOP | TLS_ALERT) && tlsLeft != INT_MAX && --tlsLeft < 0) {
        tlsLeft = -1;
        tlsSetShutdown((void *)ssl, TLS_SHUT);
    }
}

/* Return the address of countMessage. */
static PyObject *
useOpenSSL(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "useOpenSSL(read, write, getError, peekError, clearErrors, setShutdown)");
        return NULL;
    }
    uintptr_t addresses[6];
    for (int i = 0; i < 6; i++) {
        addresses[i] = (uintptr_t)PyLong_AsSize_t(args[i]);
        if (addresses[i] == (uintptr_t)-1 && PyErr_Occurred())
            return NULL;
    }
    tlsRead = (int (*)(void *, void *, int))addresses[0];
    tlsWrite = (int (*)(void *, const void *, int))addresses[1];
    tlsGetError = (int (*)(const void *, int))addresses[2];
    tlsPeekError = (unsigned long (*)(void))addresses[3];
    tlsClearErrors = (void (*)(void))addresses[4];
    tlsSetShutdown = (void (*)(void *, int))addresses[5];
    return PyLong_FromSize_t((size_t)(uintptr_t)countMessage);
}

/* tlsAllow(most) */
static PyObject *
tlsAllow(PyObject *module, PyObject *most)
{
    long number = PyLong_AsLong(most);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    tlsMost = number < INT_MAX ? (int)number : INT_MAX - 1;
    Py_RETURN_NONE;
}

/* tlsCount(on) */
static PyObject *
tlsCount(PyObject *module, PyObject *on)
{
    int tooMany = tlsLeft < 0;
    tlsLeft = on == Py_True ? tlsMost : INT_MAX;
    return PyBool_FromLong(tooMany);
}

/* The connection that an argument stands for; NULL with an exception. */
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

/* Whether there may be more to read after the record that was just read, which was not full. Nearly always there is not, and
 * asking the kernel costs a twentieth of an echo: if there was none, the next ALONE records are assumed to come alone, too, if
 * polls come `soon`. If one does not, the next poll shows the rest. If polls came late, a peer that has sent more would wait
 * longer than without TLS. */
static int
mayHaveMore(Sender *sender, int fd, int soon)
{
    int waiting = 1;
    if (soon && sender->alone) {
        sender->alone--;
        return 0;
    }
    if (ioctl(fd, FIONREAD, &waiting) < 0 || waiting > 0)
        return 1;
    sender->alone = ALONE;
    return 0;
}

/* Read all that has come with TLS into the read buffer, as far as it fits. `sender` and `fd`, its socket, are those of the
 * lane; with NULL, OpenSSL is asked whether there is more. Return how many bytes that is, 0 at the end, -1 if there is
 * nothing, or -1 and OpenSSL's error, whose reason is still in its queue. `*more`: after these bytes comes an error or the
 * end, which no poll shows, but the next read. */
static Py_ssize_t
tlsReceive(void *ssl, Sender *sender, int fd, int soon, int *error, int *more)
{
    int size = 0, n;
    *error = *more = 0;
    tlsForgetErrors();
    tlsLeft = tlsMost;
    /* A record is read whole, or its rest would stay in OpenSSL, where no poll shows it. */
    do {
        n = tlsRead(ssl, readBuffer + size, READ_SIZE - size);
        if (n > 0)
            size += n;
    } while (n > 0 && READ_SIZE - size >= TLS_RECORD && (n == TLS_RECORD || sender == NULL || mayHaveMore(sender, fd, soon)));
    int tooMany = tlsLeft < 0;
    tlsLeft = INT_MAX;
    if (tooMany) {
        tlsClearErrors();
        *error = TLS_TOO_MANY;
        return -1;
    }
    if (n > 0)
        return size;
    int why = tlsGetError(ssl, n);
    if (size == 0 && why != TLS_WANT_READ && why != TLS_ZERO_RETURN) {
        *error = why;
        return -1;
    }
    tlsClearErrors();
    *more = why != TLS_WANT_READ;
    return size > 0 ? size : why == TLS_ZERO_RETURN ? 0 : -1;
}

/* tlsReadSome(connection): see readSome; an int is OpenSSL's error. */
static PyObject *
tlsReadSome(PyObject *module, PyObject *connection)
{
    int error, more;
    void *ssl = tlsConnection(connection);
    if (ssl == NULL)
        return NULL;
    Py_ssize_t size = tlsReceive(ssl, NULL, -1, 0, &error, &more);
    if (size >= 0)
        return PyBytes_FromStringAndSize((const char *)readBuffer, size);
    if (error)
        return PyLong_FromLong(error);
    Py_RETURN_NONE;
}

/* tlsWriteSome(connection, data): how many bytes were sent, or a negative error; see tlsSend. */
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

#ifdef __linux__

/* PollSet: see pure.py. An entry for each descriptor, by its number. */
typedef struct {
    PyObject *transport; /* the descriptor's owner, while it is polled or has a lane; else NULL */
    PyObject *deliver;   /* NULL: no lane */
    Sender *sender;      /* along with `deliver` */
    size_t maximum;
    uint32_t events; /* 0: it is not polled */
    uint32_t watch; /* which registration this is, named in the kernel's events: the descriptor may have another owner by then */
    uint32_t lane;  /* which attachment this is; 0: none */
} Entry;

enum {
    EVENTS_AT_ONCE = 64,
    MESSAGES_AT_ONCE = 64, /* from one connection; what came after them is the rest */
};

typedef struct {
    PyObject_HEAD
    int epoll;
    uint32_t number; /* the last one given to a registration or an attachment */
    Py_ssize_t count;
    size_t size;
    Entry *entries;
    PyObject *ready;
    PyObject *failed;
    char serving;
    char soon;  /* whether this turn of the reactor came within SOON of the one before */
    double now; /* the time of this turn */
    Py_ssize_t delivered; /* messages since `serve` was called, or what counts as as many */
    unsigned long long messages, frameBytes; /* that have come in ordinary frames */
    int happenedNumber, happenedNext; /* how many events the kernel has reported, and the first that was not served */
    struct epoll_event happened[EVENTS_AT_ONCE];
} PollSet;

/* The entry of a descriptor, NULL if there is none. Look it up again after any call of Python: the table may have moved. */
static Entry *
entryOf(PollSet *set, long fd)
{
    return fd >= 0 && (size_t)fd < set->size ? &set->entries[fd] : NULL;
}

static uint32_t
nextNumber(PollSet *set)
{
    return ++set->number ? set->number : ++set->number;
}

/* Undo `attach`; a descriptor that is not polled either has no owner then. Calls Python: it may drop the last references. */
static void
detachEntry(Entry *entry)
{
    PyObject *deliver = entry->deliver, *transport = NULL;
    Sender *sender = entry->sender;
    entry->deliver = NULL;
    entry->sender = NULL;
    entry->lane = 0;
    if (entry->events == 0) {
        transport = entry->transport;
        entry->transport = NULL;
    }
    Py_XDECREF(sender);
    Py_XDECREF(deliver);
    Py_XDECREF(transport);
}

/* Make room for the entry of `fd`; 0 with an exception. */
static int
makeRoom(PollSet *set, long fd)
{
    size_t size = set->size * 2;
    if ((size_t)fd < set->size)
        return 1;
    /* An open descriptor is a small number. */
    if (fcntl((int)fd, F_GETFD) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return 0;
    }
    if (size < 64)
        size = 64;
    if (size <= (size_t)fd)
        size = (size_t)fd + 1;
    Entry *entries = size > PY_SSIZE_T_MAX / sizeof *entries ? NULL : PyMem_Realloc(set->entries, size * sizeof *entries);
    if (entries == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    memset(entries + set->size, 0, (size - set->size) * sizeof *entries);
    set->entries = entries;
    set->size = size;
    return 1;
}

static int
control(PollSet *set, int operation, long fd, uint32_t events, uint32_t watch)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)watch << 32 | (uint32_t)fd};
    return epoll_ctl(set->epoll, operation, (int)fd, &event);
}

/* ask(fd, transport, wanted, unwanted) */
static PyObject *
pollSetAsk(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PollSet *set = (PollSet *)self;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "ask(fd, transport, wanted, unwanted)");
        return NULL;
    }
    PyObject *transport = args[1];
    long numbers[3];
    for (int i = 0; i < 3; i++) {
        numbers[i] = PyLong_AsLong(args[i > 0 ? i + 1 : 0]);
        if (numbers[i] == -1 && PyErr_Occurred())
            return NULL;
    }
    long fd = numbers[0], wanted = numbers[1], unwanted = numbers[2];
    if (wanted < 0 || wanted > INT_MAX || unwanted < 0 || unwanted > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "not bits of epoll");
        return NULL;
    }
    Entry *entry = entryOf(set, fd);
    int known = entry != NULL && entry->transport == transport;
    uint32_t before = known ? entry->events : 0;
    uint32_t events = (before | (uint32_t)wanted) & ~(uint32_t)unwanted;
    if (events == before)
        Py_RETURN_NONE;
    if (events == 0) {
        control(set, EPOLL_CTL_DEL, fd, 0, 0); /* fails if it is closed already, so that the kernel has forgotten it */
        entry->events = 0;
        set->count--;
        if (entry->deliver == NULL)
            detachEntry(entry);
        Py_RETURN_NONE;
    }
    if (before) {
        if (control(set, EPOLL_CTL_MOD, fd, events, entry->watch) < 0 && (wanted || (errno != ENOENT && errno != EBADF)))
            return PyErr_SetFromErrno(PyExc_OSError);
        entry->events = events;
        Py_RETURN_NONE;
    }
    if (fd < 0 || fd > INT_MAX) {
        errno = EBADF;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (!makeRoom(set, fd))
        return NULL;
    uint32_t watch = nextNumber(set);
    if (control(set, EPOLL_CTL_ADD, fd, events, watch) < 0 && (errno != EEXIST || control(set, EPOLL_CTL_MOD, fd, events, watch) < 0))
        return PyErr_SetFromErrno(PyExc_OSError);
    entry = &set->entries[fd];
    PyObject *former = entry->transport;
    if (!entry->events)
        set->count++;
    entry->events = events;
    entry->watch = watch;
    if (former != transport) {
        /* The former owner closed the descriptor without detaching. Its lane does not pass to the new owner. */
        entry->transport = Py_NewRef(transport);
        detachEntry(entry);
        Py_XDECREF(former);
    }
    Py_RETURN_NONE;
}

/* asked(fd) */
static PyObject *
pollSetAsked(PyObject *self, PyObject *fileno)
{
    long fd = PyLong_AsLong(fileno);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    Entry *entry = entryOf((PollSet *)self, fd);
    return PyLong_FromLong(entry == NULL ? 0 : (long)entry->events);
}

/* attach(fd, transport, sender, maximum, deliver) */
static PyObject *
pollSetAttach(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PollSet *set = (PollSet *)self;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "attach(fd, transport, sender, maximum, deliver)");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    size_t maximum = PyLong_AsSize_t(args[3]);
    if (maximum == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (!Py_IS_TYPE(args[2], &SenderType)) {
        PyErr_SetString(PyExc_TypeError, "the third must be a Sender");
        return NULL;
    }
    Sender *sender = (Sender *)args[2];
    if (sender->secure && (tlsRead == NULL || sender->handle == 0)) {
        PyErr_SetString(PyExc_ValueError, "no connection, or useOpenSSL was not called");
        return NULL;
    }
    Entry *entry = entryOf(set, fd);
    if (entry == NULL || (entry->transport != NULL && entry->transport != args[1])) {
        PyErr_SetString(PyExc_ValueError, entry == NULL ? "never asked for" : "asked for by another");
        return NULL;
    }
    entry->maximum = maximum;
    if (entry->deliver == args[4] && entry->sender == sender)
        Py_RETURN_NONE;
    PyObject *formerDeliver = entry->deliver;
    Sender *formerSender = entry->sender;
    if (entry->transport == NULL)
        entry->transport = Py_NewRef(args[1]);
    entry->deliver = Py_NewRef(args[4]);
    entry->sender = (Sender *)Py_NewRef(sender);
    entry->lane = nextNumber(set);
    Py_XDECREF(formerSender);
    Py_XDECREF(formerDeliver);
    Py_RETURN_NONE;
}

/* detach(fd, transport) */
static PyObject *
pollSetDetach(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "detach(fd, transport)");
        return NULL;
    }
    long fd = PyLong_AsLong(args[0]);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    Entry *entry = entryOf((PollSet *)self, fd);
    if (entry != NULL && entry->transport == args[1])
        detachEntry(entry);
    Py_RETURN_NONE;
}

/* transports() */
static PyObject *
pollSetTransports(PyObject *self, PyObject *nothing)
{
    PollSet *set = (PollSet *)self;
    PyObject *found = PyList_New(0);
    for (size_t fd = 0; found != NULL && fd < set->size; fd++)
        if (set->entries[fd].events && PyList_Append(found, set->entries[fd].transport) < 0)
            Py_CLEAR(found);
    return found;
}

/* Call `ready` with `came`, whose reference is consumed here. Return 0, or -1 with an exception, also if `came` is NULL. */
static int
tellReady(PollSet *set, PyObject *transport, uint32_t events, PyObject *came)
{
    if (came == NULL)
        return -1;
    PyObject *number = PyLong_FromUnsignedLong(events), *ready = Py_XNewRef(set->ready), *result = NULL;
    if (number != NULL && ready != NULL) {
        PyObject *args[] = {transport, number, came};
        result = PyObject_Vectorcall(ready, args, 3, NULL);
    } else if (number != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the set is garbage already");
    }
    Py_XDECREF(ready);
    Py_XDECREF(number);
    Py_DECREF(came);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
deliverOne(PyObject *deliver, PyObject *message)
{
    PyObject *result = PyObject_CallOneArg(deliver, message);
    Py_DECREF(message);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Deliver messages, then the rest, which may be NULL, to `ready`; their references are consumed here. */
static int
deliverAll(PollSet *set, int fd, PyObject *transport, PyObject *deliver, PyObject **messages, Py_ssize_t number, PyObject *rest)
{
    uint32_t lane = set->entries[fd].lane;
    int failed = 0;
    Py_ssize_t i = 0;
    while (i < number && !failed) {
        Entry *entry = entryOf(set, fd);
        if (i > 0 && (entry == NULL || entry->lane != lane))
            break;
        failed = deliverOne(deliver, messages[i++]);
    }
    PyObject *left = i < number && !failed ? PyList_New(number - i) : NULL;
    if (i < number && left == NULL)
        failed = -1;
    for (Py_ssize_t first = i; i < number; i++) {
        if (left != NULL)
            PyList_SET_ITEM(left, i - first, messages[i]);
        else
            Py_DECREF(messages[i]);
    }
    if (left != NULL)
        failed = tellReady(set, transport, EPOLLIN, left);
    if (rest != NULL && !failed)
        return tellReady(set, transport, EPOLLIN, rest);
    Py_XDECREF(rest);
    return failed;
}

/* Read a descriptor that has a lane. Everything that came is made into objects before other code sees the first of them. If an
 * object cannot be made, what was read is lost, with an exception: the connection ends. */
static int
serveLane(PollSet *set, int fd, PyObject *transport, PyObject *deliver, double now)
{
    Entry *entry = &set->entries[fd];
    Sender *sender = entry->sender;
    PyObject *messages[MESSAGES_AT_ONCE], *rest = NULL;
    Py_ssize_t size, number = 0, position = 0, taken = 0;
    int error = 0, more = 0;
    if (sender->secure) {
        size = tlsReceive((void *)sender->handle, sender, fd, set->soon, &error, &more);
    } else {
        size = recv(fd, readBuffer, READ_SIZE, MSG_DONTWAIT);
        if (size < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            error = errno;
    }
    if (error)
        return tellReady(set, transport, EPOLLIN, PyLong_FromLong(error));
    if (size < 0)
        return 0;
    while (number < MESSAGES_AT_ONCE && position < size &&
           (taken = takeFrame(readBuffer + position, (size_t)(size - position), entry->maximum, &messages[number])) > 0) {
        number++;
        position += taken;
    }
    if (taken >= 0 && (position < size || size == 0)) {
        rest = PyBytes_FromStringAndSize((const char *)readBuffer + position, size - position);
        if (rest == NULL)
            taken = -1;
    }
    if (taken < 0) {
        while (number)
            Py_DECREF(messages[--number]);
        return -1;
    }
    if (number)
        sender->lastData = now;
    set->delivered += number;
    set->messages += number;
    set->frameBytes += position;
    int failed = number == 1 && rest == NULL ? deliverOne(deliver, messages[0])
                                             : deliverAll(set, fd, transport, deliver, messages, number, rest);
    return more && size > 0 && !failed ? tellReady(set, transport, EPOLLIN, Py_NewRef(Py_None)) : failed;
}

/* Serve one event. */
static int
serveEvent(PollSet *set, const struct epoll_event *event, double now)
{
    int fd = (int)(uint32_t)event->data.u64;
    Entry *entry = entryOf(set, fd);
    if (entry == NULL || entry->events == 0 || entry->watch != (uint32_t)(event->data.u64 >> 32))
        return 0; /* gone, through another event of this batch */
    uint32_t events = event->events & (entry->events | EPOLLERR | EPOLLHUP);
    if (events == 0)
        return 0; /* no longer wanted */
    PyObject *transport = Py_NewRef(entry->transport), *deliver = Py_XNewRef(entry->deliver);
    int failed = events == EPOLLIN && deliver != NULL ? serveLane(set, fd, transport, deliver, now)
                                                      : tellReady(set, transport, events, Py_NewRef(Py_None));
    Py_XDECREF(deliver);
    if (failed)
        Py_XSETREF(set->failed, transport);
    else
        Py_DECREF(transport);
    return failed;
}

/* Serve what is ready; return how many events that was, or `maximum` if there may be more; -1 with an exception. */
static long
serveAll(PollSet *set, long maximum, double now)
{
    long served = 0;
    set->delivered = 0;
    while (served < maximum) {
        if (set->happenedNext == set->happenedNumber) {
            int number = epoll_wait(set->epoll, set->happened, EVENTS_AT_ONCE, 0);
            if (number < 0 && errno != EINTR) {
                PyErr_SetFromErrno(PyExc_OSError);
                return -1;
            }
            set->happenedNext = 0;
            set->happenedNumber = number > 0 ? number : 0;
            if (number <= 0)
                break;
        }
        served++;
        if (serveEvent(set, &set->happened[set->happenedNext++], now) < 0)
            return -1;
        if (set->delivered >= MESSAGES_AT_ONCE)
            return maximum;
    }
    return served;
}

/* lookUp() */
static PyObject *
pollSetLookUp(PyObject *self, PyObject *nothing)
{
    ((PollSet *)self)->delivered = MESSAGES_AT_ONCE;
    Py_RETURN_NONE;
}

/* serve(maximum, now) */
static PyObject *
pollSetServe(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PollSet *set = (PollSet *)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "serve(maximum, now)");
        return NULL;
    }
    long maximum = PyLong_AsLong(args[0]);
    if (maximum == -1 && PyErr_Occurred())
        return NULL;
    double now = PyFloat_AsDouble(args[1]);
    if (now == -1 && PyErr_Occurred())
        return NULL;
    if (set->serving)
        return PyLong_FromLong(0); /* the connection being served would be read again before what came is delivered */
    if (now != set->now) {
        set->soon = now - set->now < SOON;
        set->now = now;
    }
    set->serving = 1;
    long served = serveAll(set, maximum, now);
    set->serving = 0;
    return served < 0 ? NULL : PyLong_FromLong(served);
}

static PyObject *
pollSetFileno(PyObject *self, PyObject *nothing)
{
    return PyLong_FromLong(((PollSet *)self)->epoll);
}

static Py_ssize_t
pollSetLength(PyObject *self)
{
    return ((PollSet *)self)->count;
}

static PyObject *
pollSetNew(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *ready;
    if (!PyArg_ParseTuple(args, "O:PollSet", &ready))
        return NULL;
    PollSet *set = (PollSet *)type->tp_alloc(type, 0);
    if (set == NULL)
        return NULL;
    set->ready = Py_NewRef(ready);
    set->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (set->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(set);
        return NULL;
    }
    return (PyObject *)set;
}

static int
pollSetTraverse(PyObject *self, visitproc visit, void *arg)
{
    PollSet *set = (PollSet *)self;
    Py_VISIT(set->ready);
    Py_VISIT(set->failed);
    for (size_t fd = 0; fd < set->size; fd++) {
        Py_VISIT(set->entries[fd].transport);
        Py_VISIT(set->entries[fd].deliver);
        Py_VISIT((PyObject *)set->entries[fd].sender);
    }
    return 0;
}

static int
pollSetClear(PyObject *self)
{
    PollSet *set = (PollSet *)self;
    /* Not by position in one walk: what is dropped may call `ask`, and the table moves. */
    Entry *entries = set->entries;
    size_t size = set->size;
    set->entries = NULL;
    set->size = 0;
    set->count = 0;
    for (size_t fd = 0; fd < size; fd++) {
        entries[fd].events = 0;
        detachEntry(&entries[fd]);
    }
    PyMem_Free(entries);
    Py_CLEAR(set->ready);
    Py_CLEAR(set->failed);
    return 0;
}

static void
pollSetDealloc(PyObject *self)
{
    PollSet *set = (PollSet *)self;
    PyObject_GC_UnTrack(self);
    pollSetClear(self);
    if (set->epoll >= 0)
        close(set->epoll);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef pollSetMembers[] = {
    {"failed", T_OBJECT, offsetof(PollSet, failed), 0, NULL},
    {"messages", T_ULONGLONG, offsetof(PollSet, messages), READONLY, NULL},
    {"frameBytes", T_ULONGLONG, offsetof(PollSet, frameBytes), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef pollSetMethods[] = {
    {"fileno", pollSetFileno, METH_NOARGS, NULL},
    {"ask", (PyCFunction)(void (*)(void))pollSetAsk, METH_FASTCALL, NULL},
    {"asked", pollSetAsked, METH_O, NULL},
    {"attach", (PyCFunction)(void (*)(void))pollSetAttach, METH_FASTCALL, NULL},
    {"detach", (PyCFunction)(void (*)(void))pollSetDetach, METH_FASTCALL, NULL},
    {"transports", pollSetTransports, METH_NOARGS, NULL},
    {"serve", (PyCFunction)(void (*)(void))pollSetServe, METH_FASTCALL, NULL},
    {"lookUp", pollSetLookUp, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods pollSetSequence = {.sq_length = pollSetLength};

static PyTypeObject PollSetType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "twisted_ws.wire.speedups._speedups.PollSet",
    .tp_basicsize = sizeof(PollSet),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = pollSetNew,
    .tp_dealloc = pollSetDealloc,
    .tp_traverse = pollSetTraverse,
    .tp_clear = pollSetClear,
    .tp_as_sequence = &pollSetSequence,
    .tp_members = pollSetMembers,
    .tp_methods = pollSetMethods,
};

#endif

static PyMethodDef methods[] = {
    {"split", (PyCFunction)(void (*)(void))split, METH_FASTCALL, NULL},
    {"readSome", readSome, METH_O, NULL},
    {"plainHead", plainHead, METH_O, NULL},
    {"acceptOne", acceptOne, METH_O, NULL},
    {"isOnLoopback", isOnLoopback, METH_O, NULL},
    {"sendMany", (PyCFunction)(void (*)(void))sendMany, METH_FASTCALL, NULL},
    {"useOpenSSL", (PyCFunction)(void (*)(void))useOpenSSL, METH_FASTCALL, NULL},
    {"tlsAllow", tlsAllow, METH_O, NULL},
    {"tlsCount", tlsCount, METH_O, NULL},
    {"tlsReadSome", tlsReadSome, METH_O, NULL},
    {"tlsWriteSome", (PyCFunction)(void (*)(void))tlsWriteSome, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static int
execute(PyObject *module)
{
    if (readBuffer == NULL)
        readBuffer = PyMem_Malloc(READ_SIZE);
    if (readBuffer == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    prepareHead();
    if (PyType_Ready(&SenderType) < 0 || PyModule_AddObjectRef(module, "Sender", (PyObject *)&SenderType) < 0)
        return -1;
#ifdef __linux__
    if (PyType_Ready(&PollSetType) < 0 || PyModule_AddObjectRef(module, "PollSet", (PyObject *)&PollSetType) < 0)
        return -1;
#endif
    return 0;
}

/* There is one read buffer, and types are static: one interpreter, and one thread at a time. */
static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "See pure.py.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
